"""Counts up in a file under a lock taken anew for each step, like append_locked.

Usage: append_locked.py flock|lockf FILE ROUNDS
"""

import fcntl
import os
import sys


def main() -> None:
    kind, path, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3])
    lock = {"flock": fcntl.flock, "lockf": fcntl.lockf}[kind]
    fd = os.open(path, os.O_RDWR)
    for _ in range(rounds):
        lock(fd, fcntl.LOCK_EX)
        count = int(os.pread(fd, 16, 0) or b"0") + 1
        os.pwrite(fd, b"%015d\n" % count, 0)
        lock(fd, fcntl.LOCK_UN)


main()
