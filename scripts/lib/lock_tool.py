#!/usr/bin/env python3
"""Takes one lock on a file and holds it until standard input ends.

usage: lock_tool.py flock|posix|ofd shared|exclusive [--wait] FILE

Prints "granted" or "refused" at once, or after the wait. flock: flock(2) on the whole file; posix:
fcntl(F_SETLK), the kind lockd takes for NFS clients; ofd: fcntl(F_OFD_SETLK). Exit status 0 if the
lock was granted, 1 if it was refused.
"""

import errno
import fcntl
import os
import struct
import sys

F_OFD_SETLK = 37
F_OFD_SETLKW = 38


def take(kind, shared, wait, fd):
    if kind == "flock":
        fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
        return
    if kind == "posix":
        command = fcntl.F_SETLKW if wait else fcntl.F_SETLK
    else:
        command = F_OFD_SETLKW if wait else F_OFD_SETLK
    # struct flock: type, whence, (padding), start, length (0: to the end of the file), pid
    lock = struct.pack("hhxxxxqqixxxx", fcntl.F_RDLCK if shared else fcntl.F_WRLCK, 0, 0, 0, 0)
    fcntl.fcntl(fd, command, lock)


def main():
    arguments = [a for a in sys.argv[1:] if a != "--wait"]
    wait = "--wait" in sys.argv
    if len(arguments) != 3 or arguments[0] not in ("flock", "posix", "ofd"):
        sys.exit(__doc__)
    kind, mode, path = arguments
    fd = os.open(path, os.O_RDWR)
    try:
        take(kind, mode == "shared", wait, fd)
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            raise
        print("refused", flush=True)
        sys.exit(1)
    print("granted", flush=True)
    sys.stdin.read()


main()
