#!/bin/bash
# Job of a guest: the usual laboratory with a person in it. LAB_LINES, LAB_COLUMNS: of the terminal.
cd "$(dirname "${BASH_SOURCE[0]}")" || exit
# shellcheck source=tests/nfs/lab/usual.sh
. ./usual.sh
stty rows "${LAB_LINES:-24}" columns "${LAB_COLUMNS:-80}"
echo "The laboratory comes up, some ten seconds ..."
laboratory_logged /data || exit 1

cat >/run/help <<END

This is the NFS server. /data is exported; lockfs has it on /export, where local programs belong.
  a COMMAND, b COMMAND   on client A or B; their mounts: /mnt/{${LAB_VERSIONS// /,}}
  a flock /mnt/4.2/f sleep 100 &    then    flock -n /export/f echo won || echo refused
  lockfsctl list         who holds and awaits what; also who FILE, watch, doctor
  cat /proc/locks        what the kernel of the server has
  ip link set wire_a down    cuts client A off; up heals
  less /lab/out/shell.lockfs.log
                         the log of lockfs; /lab/out is build/nfs-lab/out on your machine, and
                         nothing else here outlives this one
'help' shows this again, 'exit' ends the laboratory, Ctrl-a x ends it by force (Ctrl-a twice: Ctrl-a).

END
cat >/root/.bashrc <<'END'
a() { nsenter -t "$CLIENT_A" -n -m -u "$@"; }
b() { nsenter -t "$CLIENT_B" -n -m -u "$@"; }
help() { (($#)) && builtin help "$@" || cat /run/help; }
PATH=$LAB_BIN:$PATH
PS1='lab# '
cd /root
END
cat /run/help
bash --rcfile /root/.bashrc -i
exit 0
