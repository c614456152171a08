# shellcheck shell=bash
# A server with lockfs, clients A and B on the same machine. To be sourced in a guest. LAB_VERSIONS:
# the NFS versions to mount.

# shellcheck source=tests/nfs/lab/nfs.sh
. "$(dirname "${BASH_SOURCE[0]}")/nfs.sh"

# laboratory FOLDER: LAB_SERVER (knfsd, the default, or ganesha) exports FOLDER.
laboratory() {
  local version
  export EXPORTED=$1
  bridge_up
  client_up a 10.0.0.2
  client_up b 10.0.0.3
  disk_up
  lockfs_up
  case ${LAB_SERVER:-knfsd} in
    knfsd) knfsd_up "fsid=0:$EXPORTED" ;;
    ganesha) ganesha_up "$EXPORTED" ;;
  esac
  for version in $LAB_VERSIONS; do
    client_mount a "$version"
    client_mount b "$version"
  done
}

# laboratory_logged FOLDER: the same; what it says is shown only when it fails.
laboratory_logged() {
  local log
  log=/lab/out/$(hostname).setup
  laboratory "$1" >"$log" 2>&1 || { cat "$log"; return 1; }
}

# run_part: the program LAB_PART, once the laboratory is up. Status 3: NFS-Ganesha has crashed, so
# nothing can be said.
run_part() {
  local status=0 crash
  LOCKFS_TEST_SCALE=${LAB_SCALE:-1} "$LAB_PART" &
  echo $! >/run/part.pid
  wait $! || status=$?
  [[ -e /run/ganesha.crashed ]] || return "$status"
  crash=$(</run/ganesha.crashed)
  printf '\n**NFS-Ganesha crashed** (status %d, signal %s); this run says nothing more. The end of its log:\n\n' \
    "$crash" "$(kill -l $((crash - 128)))"
  { tail -n 12 "/lab/out/$(hostname).server.log"; dmesg | grep -i segfault | tail -n 2; } | sed 's/^/    /'
  return 3
}
