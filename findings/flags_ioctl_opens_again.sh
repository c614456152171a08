#!/usr/bin/env bash
# FS_IOC_GETFLAGS on an open file of a FUSE filesystem opens the file once more.
#
# Expected: ioctl(fd, FS_IOC_GETFLAGS) on a descriptor that is open already sends the filesystem one
# IOCTL request, with the handle that OPEN gave for that descriptor.
#
# What happens: the kernel opens the file anew for each such call, by its number and not by a name, and
# releases it afterwards: OPEN, IOCTL, RELEASE, with another handle (fuse_priv_ioctl_prepare()). So do
# lsattr and chattr, and whatever else goes through the kernel's fileattr interface. It follows:
#   - a filesystem sees an OPEN of a file that has no name any more, although nobody calls open(2);
#   - that OPEN carries flags 0, without O_LARGEFILE, which a 64-bit program's open(2) always has;
#   - an ioctl that the filesystem refuses costs two more round trips than it seems to.
#
# Seen with bindfs 1.14.7 (which refuses the ioctl with ENOTTY) and libfuse 3.14.0 of Debian 12, Linux
# 6.18: three calls on one descriptor: 4 OPEN, 3 IOCTL, 4 RELEASE, 1 FLUSH.
#
# Needs root and /dev/fuse; installs nothing outside a temporary folder. Exit status 0: as told here;
# 1: something has changed.
set -euo pipefail

bindfs=bindfs=1.14.7-1 libfuse=libfuse3-3=3.14.0-4

work=$(mktemp -d)
daemon=""
cleanup() {
  mountpoint -q "$work/mount" && umount "$work/mount"
  [[ -z $daemon ]] || wait "$daemon" || true
  rm -rf --one-file-system "$work"
}
trap cleanup EXIT
mkdir "$work"/{packages,source,mount}
chmod 755 "$work" "$work/packages"
(
  cd "$work/packages"
  apt-get -qq download "$bindfs" "$libfuse" 2>/dev/null
  for package in *.deb; do dpkg -x "$package" .; done
)
libraries=$(find "$work/packages" -name 'libfuse3.so.*' -printf '%h:')
echo text >"$work/source/file"

LD_LIBRARY_PATH=$libraries "$work/packages/usr/bin/bindfs" -d "$work/source" "$work/mount" \
  >"$work/log" 2>&1 &
daemon=$!
until mountpoint -q "$work/mount"; do
  kill -0 "$daemon" 2>/dev/null || { cat "$work/log" >&2; exit 1; }
  sleep 0.05
done

python3 - "$work/mount/file" <<'PY'
import fcntl, os, struct, sys
FS_IOC_GETFLAGS = 0x80086601
fd = os.open(sys.argv[1], os.O_RDONLY)
for _ in range(3):
    try:
        fcntl.ioctl(fd, FS_IOC_GETFLAGS, struct.pack("l", 0))
    except OSError:
        pass
os.close(fd)
PY
umount "$work/mount"
wait "$daemon" || true
daemon=""

count() { grep -c "opcode: $1 " "$work/log" || true; }
seen="$(count OPEN) OPEN, $(count IOCTL) IOCTL, $(count RELEASE) RELEASE, $(count FLUSH) FLUSH"
echo "three FS_IOC_GETFLAGS on one descriptor: $seen"
[[ $seen == "4 OPEN, 3 IOCTL, 4 RELEASE, 1 FLUSH" ]]
