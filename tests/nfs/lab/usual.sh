# shellcheck shell=bash
# A server with lockfs, clients A and B on the same machine. To be sourced in a guest. LAB_VERSIONS:
# the NFS versions to mount.

# shellcheck source=tests/nfs/lab/nfs.sh
. "$(dirname "${BASH_SOURCE[0]}")/nfs.sh"

# laboratory_with COMMAND...: the server is started by COMMAND.
laboratory_with() {
  local version
  bridge_up
  client_up a 10.0.0.2
  client_up b 10.0.0.3
  disk_up
  lockfs_up
  "$@"
  for version in $LAB_VERSIONS; do
    client_mount a "$version"
    client_mount b "$version"
  done
}

# The kernel's server exports the source.
usual_laboratory() {
  laboratory_with knfsd_up fsid=0:/data
}
