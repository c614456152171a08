#!/bin/bash
# Job of the first of two machines: the usual laboratory, then the program LAB_PART, which has the
# second one switched on and off (see scripts/nfs-lab, run_power).
set -euo pipefail
# shellcheck source=tests/nfs/lab/usual.sh
. "$(dirname "${BASH_SOURCE[0]}")/usual.sh"
laboratory_logged /data
"$LAB_PART"
