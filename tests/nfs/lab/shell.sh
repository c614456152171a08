#!/bin/bash
# Job of a guest: the usual laboratory with a person in it.
cd "$(dirname "${BASH_SOURCE[0]}")" || exit
# shellcheck source=tests/nfs/lab/usual.sh
. ./usual.sh
laboratory_logged /data || exit 1

cat >/root/.bashrc <<'END'
a() { nsenter -t "$CLIENT_A" -n -m -u "$@"; }
b() { nsenter -t "$CLIENT_B" -n -m -u "$@"; }
PS1='lab# '
cd /root
END
cat <<END

This is the NFS server. /data is exported, lockfs has it on /export: use that as a local program.
  a COMMAND, b COMMAND   runs a command on client A or B; their mounts: $(echo /mnt/*)
  a flock /mnt/4.2/f sleep 100 &    then    flock -n /export/f echo won || echo refused
  cat /proc/locks        what the kernel of the server has
  /lab/out               is build/nfs-lab/out on your machine; nothing else here outlives the machine
'exit' ends it.

END
bash --rcfile /root/.bashrc -i
exit 0
