#!/bin/bash
# Job of a guest: the usual laboratory, then one part of it, the program LAB_PART.
#
# Standard output has what the part says, as Markdown; the set-up is in /lab/out/<guest>.setup.
# LAB_SERVER: see usual.sh. LAB_SCALE divides the number of rounds of long tests.
set -euo pipefail
# shellcheck source=tests/nfs/lab/usual.sh
. "$(dirname "${BASH_SOURCE[0]}")/usual.sh"
laboratory_logged /data
run_part
