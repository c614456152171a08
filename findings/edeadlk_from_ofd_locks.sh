#!/usr/bin/env bash
# A program with classic POSIX locks is refused with EDEADLK because of open-file-description locks
# of others, although nobody waits in a circle.
#
# Expected: fcntl(2) says that no deadlock detection is performed for open-file-description locks, and
# that F_SETLKW fails with EDEADLK when it would deadlock. One thread holds byte 1 through an open file
# and waits for nobody; another thread waits for byte 2 through the same open file. A process that holds
# byte 2 with a classic lock asks for byte 1: it gets it as soon as the first thread lets go.
#
# What happens: the kernel spares a caller that asks for an open-file-description lock, but walks over
# such locks when a classic one is asked for (posix_locks_deadlock()). Both threads' requests have the
# open file as their owner, so «byte 1's owner waits for byte 2» looks like a circle. With an open file
# for each thread the same requests are granted. Whoever holds locks for several clients through one
# open file, as a file server may, hands EDEADLK to programs beside it.
#
# Seen with Python 3.11.2 of Debian 12, Linux 6.18:
#   one open file: EDEADLK; an open file each: granted
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
import errno, fcntl, os, struct, sys, threading, time

name = sys.argv[1] + "/file"
open(name, "w").close()
inode = os.stat(name).st_ino
F_OFD_SETLK, F_OFD_SETLKW = 37, 38


def lock(fd, command, byte, kind=fcntl.F_WRLCK):
    fcntl.fcntl(fd, command, struct.pack("hhqqi4x", kind, 0, byte, 1, 0))


def waiters():
    with open("/proc/locks") as table:
        return sum("->" in line and f":{inode} " in line for line in table)


def try_with(holder, waiter):
    lock(holder, F_OFD_SETLK, 1)
    told, tell = os.pipe()
    go, goes = os.pipe()
    pid = os.fork()
    if pid == 0:
        own = os.open(name, os.O_RDWR)
        lock(own, fcntl.F_SETLK, 2)
        os.write(tell, b"h")
        os.read(go, 1)
        try:
            lock(own, fcntl.F_SETLKW, 1)
            os._exit(0)
        except OSError as error:
            os._exit(error.errno)
    os.read(told, 1)
    waits = threading.Thread(target=lock, args=(waiter, F_OFD_SETLKW, 2))
    waits.start()
    while waiters() < 1:
        time.sleep(0.01)
    os.write(goes, b"g")
    status = None
    while waiters() < 2:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            break
        status = None
        time.sleep(0.01)
    lock(holder, F_OFD_SETLK, 1, fcntl.F_UNLCK)
    if status is None:
        status = os.waitpid(pid, 0)[1]
    waits.join()
    lock(waiter, F_OFD_SETLK, 2, fcntl.F_UNLCK)
    result = os.waitstatus_to_exitcode(status)
    return {0: "granted", errno.EDEADLK: "EDEADLK"}.get(result, str(result))


one, other = os.open(name, os.O_RDWR), os.open(name, os.O_RDWR)
print(f"one open file: {try_with(one, one)}; an open file each: {try_with(one, other)}")
PY
)
echo "$seen"
[[ $seen == "one open file: EDEADLK; an open file each: granted" ]]
