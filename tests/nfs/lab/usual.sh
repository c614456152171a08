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
