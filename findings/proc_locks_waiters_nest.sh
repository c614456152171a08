#!/usr/bin/env bash
# Equal waiters for one lock stand in /proc/locks as a chain, each one blank deeper than the last.
#
# Expected: a lock that four processes wait for is followed by four lines of one form,
# "1: -> POSIX ...": all of them wait for that lock. A reader that looks for ": -> " finds them all.
#
# What happens: a request that waits also stands in the way of the next one that conflicts with it, so
# the kernel keeps the waiters as a tree (locks_insert_block()) and prints each level with one blank
# more: "1: -> ", "1:  -> ", "1:   -> ". A reader that looks for ": -> " finds the first alone.
# lslocks(8) flattens the chain: its BLOCKER is the holder for all of them, never the waiter that a
# request stands behind, though that is who it would have to wait for next.
#
# Seen with util-linux 2.38.1 of Debian 12, Linux 6.18:
#   blanks before the arrow: 1 2 3 4; BLOCKER is the holder: 4 of 4
#
# Installs nothing outside a temporary folder. Exit status 0: as told here; 1: something has changed.
set -euo pipefail

util_linux=util-linux=2.38.1-5+deb12u3

work=$(mktemp -d)
trap 'rm -rf --one-file-system "$work"' EXIT
chmod 755 "$work"
mkdir "$work/packages"
(
  cd "$work/packages"
  apt-get -qq download "$util_linux" 2>/dev/null
  dpkg -x ./*.deb .
)

seen=$(python3 - "$work" <<'PY'
import fcntl, os, re, subprocess, sys, time

work = sys.argv[1]
name = work + "/file"
held = open(name, "w+")
fcntl.lockf(held, fcntl.LOCK_EX)
inode = os.fstat(held.fileno()).st_ino


def lines():
    with open("/proc/locks") as table:
        return [line for line in table if f":{inode} " in line]


waiters = []
for count in range(1, 5):
    pid = os.fork()
    if pid == 0:
        fcntl.lockf(open(name, "r+"), fcntl.LOCK_EX)
        os._exit(0)
    waiters.append(pid)
    while len(lines()) < 1 + count:
        time.sleep(0.01)

blanks = [str(len(arrow)) for arrow in re.findall(r":( +)->", "".join(lines()))]
rows = subprocess.run(
    [work + "/packages/usr/bin/lslocks", "-n", "-o", "INODE,MODE,BLOCKER"],
    capture_output=True, text=True, check=True).stdout.splitlines()
blockers = [row.split()[2] for row in rows if row.split()[0] == str(inode) and "*" in row]
fcntl.lockf(held, fcntl.LOCK_UN)
for pid in waiters:
    os.waitpid(pid, 0)
print(f"blanks before the arrow: {' '.join(blanks)}; "
      f"BLOCKER is the holder: {blockers.count(str(os.getpid()))} of {len(blockers)}")
PY
)
echo "$seen"
[[ $seen == "blanks before the arrow: 1 2 3 4; BLOCKER is the holder: 4 of 4" ]]
