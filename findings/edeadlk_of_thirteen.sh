#!/usr/bin/env bash
# A circle of programs that wait for each other's POSIX locks is found while it is short. From thirteen
# on all of them wait for ever.
#
# Expected: fcntl(2) says that F_SETLKW fails with EDEADLK when it was detected that it would cause a
# deadlock, and that the kernel looks for circles; POSIX has it fail where it would deadlock. A program
# that is the last to close a circle is told, however many are in it.
#
# What happens: the kernel follows eleven waiters and then takes the request for harmless
# (MAX_DEADLK_ITERATIONS in posix_locks_deadlock()). Up to twelve programs the last is told. Programs
# that lock their way through a table in an order of their own, relying on EDEADLK, hang once there are
# more.
#
# Seen with Python 3.11.2 of Debian 12, Linux 6.18:
#   2 EDEADLK, 11 EDEADLK, 12 EDEADLK, 13 waits, 20 waits
#
# Installs nothing outside a temporary folder. Exit status 0: as told here; 1: something has changed.
set -euo pipefail

packages=(python3.11-minimal=3.11.2-6+deb12u9 libpython3.11-minimal=3.11.2-6+deb12u9)

work=$(mktemp -d)
trap 'rm -rf --one-file-system "$work"' EXIT
chmod 755 "$work"
mkdir "$work/packages"
(
  cd "$work/packages"
  apt-get -qq download "${packages[@]}" 2>/dev/null
  for package in ./*.deb; do dpkg -x "$package" .; done
)

seen=$(PYTHONHOME=$work/packages/usr "$work/packages/usr/bin/python3.11" -S - "$work" <<'PY'
import errno, fcntl, os, signal, struct, sys, time

name = sys.argv[1] + "/file"
open(name, "w").close()
inode = os.stat(name).st_ino


def lock(fd, command, byte):
    fcntl.fcntl(fd, command, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, byte, 1, 0))


def waiters():
    with open("/proc/locks") as table:
        return sum("->" in line and f":{inode} " in line for line in table)


def member(own, wanted, told, go):
    """Holds a byte, and asks for the next one's when told to."""
    fd = os.open(name, os.O_RDWR)
    lock(fd, fcntl.F_SETLK, own)
    os.write(told, b"h")
    os.read(go, 1)
    try:
        lock(fd, fcntl.F_SETLKW, wanted)
        os._exit(0)
    except OSError as error:
        os._exit(error.errno)


def circle(size):
    members = []
    for i in range(size):
        told, tell = os.pipe()
        go, goes = os.pipe()
        pid = os.fork()
        if pid == 0:
            member(i, (i + 1) % size, tell, go)
        os.read(told, 1)
        members.append((pid, goes))
    for count, (pid, goes) in enumerate(members[:-1], 1):
        os.write(goes, b"g")
        while waiters() < count:
            time.sleep(0.01)
    last, goes = members[-1]
    os.write(goes, b"g")
    outcome = None
    while outcome is None:
        ended, status = os.waitpid(last, os.WNOHANG)
        if ended:
            told = os.waitstatus_to_exitcode(status) == errno.EDEADLK
            outcome = "EDEADLK" if told else "granted"
        elif waiters() == size:
            outcome = "waits"
        time.sleep(0.01)
    for pid, _ in members:
        if pid != last or outcome == "waits":
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    return outcome


print(", ".join(f"{size} {circle(size)}" for size in (2, 11, 12, 13, 20)))
PY
)
echo "$seen"
[[ $seen == "2 EDEADLK, 11 EDEADLK, 12 EDEADLK, 13 waits, 20 waits" ]]
