#!/usr/bin/env bash
# noatime on a FUSE mount shows in /proc/mounts, and keeps no access time.
#
# Expected: mount -o noatime means that reading through that mount leaves access times alone, as on a
# disk filesystem or a bind mount.
#
# What happens: the kernel leaves access times of a FUSE file to the server in any case, so that the flag
# changes nothing there (S_NOATIME). The server reads the file beneath through its own mount, whose flags
# count, and moves its time. Nothing tells the server of the flag either, at the mount or at a remount.
# It follows that a backup or a scan through a mount that says noatime leaves marks on every file.
#
# Seen with bindfs 1.14.7 and libfuse 3.14.0 of Debian 12 over ext4 with relatime, Linux 6.18: the mount
# shows "rw,nosuid,nodev,noatime", and the access time of three days ago is that of the read; through a
# bind mount with noatime it stays.
#
# Needs root and /dev/fuse; installs nothing outside a temporary folder. Exit status 0: as told here;
# 1: something has changed.
set -euo pipefail

bindfs=bindfs=1.14.7-1 libfuse=libfuse3-3=3.14.0-4

work=$(mktemp -d)
cleanup() {
  for point in mount bound; do
    ! mountpoint -q "$work/$point" || umount "$work/$point"
  done
  rm -rf --one-file-system "$work"
}
trap cleanup EXIT
mkdir "$work"/{packages,source,mount,bound}
chmod 755 "$work" "$work/packages"
(
  cd "$work/packages"
  apt-get -qq download "$bindfs" "$libfuse" 2>/dev/null
  for package in *.deb; do dpkg -x "$package" .; done
)
libraries=$(find "$work/packages" -name 'libfuse3.so.*' -printf '%h:')
echo text >"$work/source/file"

LD_LIBRARY_PATH=$libraries "$work/packages/usr/bin/bindfs" -o noatime "$work/source" "$work/mount"
mount --bind "$work/source" "$work/bound"
mount -o remount,bind,noatime "$work/bound"

flags() { findmnt -n -o VFS-OPTIONS "$1"; }
# read_through FOLDER: whether reading the file there moves its access time.
read_through() {
  touch -a -d '3 days ago' "$work/source/file"
  local before after
  before=$(stat -c %X "$work/source/file")
  cat "$1/file" >/dev/null
  after=$(stat -c %X "$work/source/file")
  if ((after == before)); then echo stays; else echo moves; fi
}

through_fuse=$(read_through "$work/mount")
through_bind=$(read_through "$work/bound")
echo "FUSE mount: $(flags "$work/mount"); access time $through_fuse"
echo "bind mount: $(flags "$work/bound"); access time $through_bind"
[[ $(flags "$work/mount") == *noatime* && $through_fuse == moves && $through_bind == stays ]]
