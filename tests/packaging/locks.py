#!/usr/bin/env python3
"""Checks that a lock taken through the mount and one on the source see each other.
usage: locks.py MOUNT SOURCE"""

import fcntl
import os
import sys

mount, source = sys.argv[1:]
path = "/file"
with open(source + path, "a"):
    pass


def taken(call, name):
    with open(name, "r+") as file:
        try:
            call(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return False
        except BlockingIOError:
            return True


for held in (fcntl.flock, fcntl.lockf):
    with open(mount + path, "r+") as holder:
        held(holder, fcntl.LOCK_EX)
        # A second process: POSIX locks of one process never conflict.
        child = os.fork()
        if child == 0:
            seen = [taken(fcntl.flock, mount + path), taken(fcntl.lockf, mount + path),
                    taken(fcntl.lockf, source + path)]
            os._exit(0 if all(seen) else 1)
        assert os.waitpid(child, 0)[1] == 0, f"{held.__name__} is not seen by all"
assert not taken(fcntl.lockf, source + path), "a lock was left behind"
