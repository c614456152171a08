#!/bin/bash
# Job of the second of two machines, an NFS server with lockfs that may lose its power at any time.
# Its disk keeps /data and what the server has to know of its clients. Commands for it come in
# /lab/out/power.command; what they print and how they end goes to /lab/out/power.answer.
set -euo pipefail
# shellcheck source=tests/nfs/lab/nfs.sh
. "$(dirname "${BASH_SOURCE[0]}")/nfs.sh"

mkdir -p /disk /data /export
mount /dev/vda /disk
mkdir -p /disk/{data,nfs}
chmod 1777 /disk/data
mount --bind /disk/data /data
mount --bind /disk/nfs /var/lib/nfs
# Emulation takes its time.
lockfs_up -o await_server,server_wait=120
# Local programs that are faster than the server and its clients.
if [[ -e /disk/at_boot ]]; then bash /disk/at_boot; fi
GRACE=45 knfsd_up fsid=0:/data
sm-notify -f
: >/lab/out/power.ready # not touch: it may be taken away at once

while true; do
  if [[ -e /lab/out/power.command ]]; then
    mv /lab/out/power.command /run/command
    status=0
    bash /run/command >/run/output 2>&1 </dev/null || status=$?
    { echo "$status"; cat /run/output; } >/lab/out/power.answer.new
    mv /lab/out/power.answer.new /lab/out/power.answer
  fi
  sleep 0.05
done
