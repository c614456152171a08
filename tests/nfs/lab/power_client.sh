#!/bin/bash
# Job of the second of two machines, an NFS client that may lose its power at any time. What has to
# outlive that, statd's list of servers, is on /lab/out. /lab/out/power.task says what to do: an NFS
# version, the path to mount, a file to lock and one to wait for; without files the client is just up.
set -euo pipefail
# shellcheck source=tests/nfs/lab/nfs.sh
. "$(dirname "${BASH_SOURCE[0]}")/nfs.sh"
modprobe -a nfsv3 nfsv4
mkdir -p /lab/out/power.disk /mnt/server
mount --bind /lab/out/power.disk /var/lib/nfs
nfs_common
sm-notify -f

# in_flock PID: that process is in the system call, waiting.
in_flock() { [[ $(cut -d ' ' -f 1 "/proc/$1/syscall" 2>/dev/null) == 73 ]]; }

read -r version path held awaited </lab/out/power.task
if [[ $held ]]; then
  mount -t nfs -o "vers=$version" "10.0.1.1:$path" /mnt/server
  flock "/mnt/server/$held" sleep infinity &
  until ! flock -n "/mnt/server/$held" true; do sleep 0.1; done
  flock "/mnt/server/$awaited" sleep infinity &
  until in_flock $!; do sleep 0.1; done
fi
: >/lab/out/power.ready # not touch: it may be taken away at once
sleep infinity
