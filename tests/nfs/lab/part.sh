#!/bin/bash
# Job of a guest: the usual laboratory, then one part of it, the program LAB_PART.
#
# Standard output has what the part says, as Markdown; the set-up is in /lab/out/<guest>.setup.
# LAB_SCALE divides the number of rounds of long tests.
set -euo pipefail
# shellcheck source=tests/nfs/lab/usual.sh
. "$(dirname "${BASH_SOURCE[0]}")/usual.sh"
usual_laboratory >"/lab/out/$(hostname).setup" 2>&1 || { cat "/lab/out/$(hostname).setup"; exit 1; }
export LOCKFS_TEST_SCALE=${LAB_SCALE:-1}
"$LAB_PART"
