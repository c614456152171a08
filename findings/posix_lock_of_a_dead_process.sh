#!/usr/bin/env bash
# A classic POSIX lock stays after the process that took it was killed and waited for, and goes on
# naming its process id, which may be somebody else's by then.
#
# Expected: such locks belong to a process, and fcntl(2) says that they are released when it ends. So
# SIGKILL and waitpid() of the holder free them; and l_pid of F_GETLK names a process that is there.
#
# What happens: the kernel's owner is not the process but its table of descriptors (posix_lock_inode(),
# fl_owner is current->files), and the table ends with the last that uses it. A process that was made
# with clone(CLONE_FILES) shares its parent's: killed, it leaves its locks, its flocks and its open
# files with the parent, who has never asked for any, and who loses the lock by closing any descriptor of
# the file. The lock goes on bearing the pid of the dead. Whoever cleans up by pid (a lock manager, a
# monitor, «is the holder alive?» with kill(pid, 0)) takes the lock for stale while it holds.
#
# Seen with Python 3.11.2 of Debian 12, Linux 6.18:
#   fork: free; clone with CLONE_FILES: held by the dead, free after a close by the parent
#
# Installs nothing outside a temporary folder. Exit status 0: as told here; 1: something has changed.
set -euo pipefail

packages=(python3.11-minimal=3.11.2-6+deb12u9 libpython3.11-minimal=3.11.2-6+deb12u9
  libpython3.11-stdlib=3.11.2-6+deb12u9 libffi8=3.4.4-1)

work=$(mktemp -d)
trap 'rm -rf --one-file-system "$work"' EXIT
chmod 755 "$work"
mkdir "$work/packages"
(
  cd "$work/packages"
  apt-get -qq download "${packages[@]}" 2>/dev/null
  for package in ./*.deb; do dpkg -x "$package" .; done
)
libraries=$(echo "$work"/packages/usr/lib/*-linux-gnu)

seen=$(PYTHONHOME=$work/packages/usr LD_LIBRARY_PATH=$libraries \
  "$work/packages/usr/bin/python3.11" -S - "$work" <<'PY'
import ctypes, fcntl, os, signal, struct, sys

name = sys.argv[1] + "/file"
CLONE_FILES = 0x400
SYS_CLONE = {"x86_64": 56, "aarch64": 220}[os.uname().machine]
libc = ctypes.CDLL(None)
ASK = "hhqqi4x"


def who_holds():
    """The pid that another process is told; 0: it is free."""
    told, tell = os.pipe()
    if os.fork() == 0:
        fd = os.open(name, os.O_RDWR)
        answer = fcntl.fcntl(fd, fcntl.F_GETLK, struct.pack(ASK, fcntl.F_WRLCK, 0, 0, 0, 0))
        kind, _, _, _, pid = struct.unpack(ASK, answer)
        os.write(tell, struct.pack("i", 0 if kind == fcntl.F_UNLCK else pid))
        os._exit(0)
    os.wait()
    return struct.unpack("i", os.read(told, 4))[0]


def holder(flags):
    """A child that has locked the file, and was killed and waited for."""
    told, tell = os.pipe()
    pid = libc.syscall(SYS_CLONE, flags | signal.SIGCHLD, 0, 0, 0, 0)
    if pid == 0:
        fd = os.open(name, os.O_RDWR | os.O_CREAT)
        fcntl.fcntl(fd, fcntl.F_SETLK, struct.pack(ASK, fcntl.F_WRLCK, 0, 0, 0, 0))
        os.write(tell, b"l")
        signal.pause()
    os.read(told, 1)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return pid


holder(0)
forked = "held" if who_holds() else "free"
dead = holder(CLONE_FILES)
shared = "held by the dead" if who_holds() == dead else "free or another's"
# Any descriptor of the file will do; this process has never opened it for itself.
os.close(os.open(name, os.O_RDONLY))
closed = "held" if who_holds() else "free"
print(f"fork: {forked}; clone with CLONE_FILES: {shared}, {closed} after a close by the parent")
PY
)
echo "$seen"
[[ $seen == "fork: free; clone with CLONE_FILES: held by the dead, free after a close by the parent" ]]
