#!/bin/bash
# Job of a guest: the laboratory with the mount of lockfs exported instead of its source, by
# LAB_SERVER (knfsd, ganesha), then the program LAB_PART.
set -euo pipefail
# shellcheck source=tests/nfs/lab/usual.sh
. "$(dirname "${BASH_SOURCE[0]}")/usual.sh"

laboratory_logged /export

# What an administrator does to restart lockfs under a server: the server first lets go of the mount.
cat >/run/restart <<END
#!/bin/bash
set -e
case $LAB_SERVER in
  knfsd) rpc.nfsd 0; exportfs -f ;;
  ganesha) kill \$(cat /run/ganesha.pid); while pgrep -x ganesha.nfsd >/dev/null; do sleep 0.1; done ;;
esac
umount /export
while pgrep -x lockfs >/dev/null; do sleep 0.1; done
setsid $LAB_BIN/lockfs /data /export -f >>/lab/out/\$(hostname).lockfs.log 2>&1 </dev/null &
until mountpoint -q /export; do sleep 0.05; done
case $LAB_SERVER in
  knfsd) rpc.nfsd -G 10 -L 10 8 ;;
  ganesha) setsid $GANESHA >/dev/null 2>&1 </dev/null & ;;
esac
END
chmod +x /run/restart
export LAB_RESTART=/run/restart
run_part
