# shellcheck shell=bash
# The usual laboratory: a kernel server with lockfs, clients A and B on the same machine. To be
# sourced in a guest. LAB_VERSIONS: the NFS versions to mount.

# shellcheck source=tests/nfs/lab/nfs.sh
. "$(dirname "${BASH_SOURCE[0]}")/nfs.sh"

usual_laboratory() {
  local version
  bridge_up
  client_up a 10.0.0.2
  client_up b 10.0.0.3
  disk_up
  lockfs_up
  knfsd_up fsid=0:/data
  for version in $LAB_VERSIONS; do
    client_mount a "$version"
    client_mount b "$version"
  done
}
