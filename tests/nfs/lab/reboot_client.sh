#!/bin/bash
# Job of the first of two machines, an NFS client: the program LAB_PART, which has the server, the
# second machine, switched on and off.
set -euo pipefail
# shellcheck source=tests/nfs/lab/nfs.sh
. "$(dirname "${BASH_SOURCE[0]}")/nfs.sh"
modprobe -a nfsv3 nfsv4
mkdir -p /mnt/server
nfs_common
"$LAB_PART"
