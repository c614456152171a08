#!/usr/bin/env python3
"""check_includes.py [ROOT]: holds the includes below fs and lockmgr to the layers listed here.

Also checks that clang-tidy reads each of their headers, since headers that move could fall out of
HeaderFilterRegex without a word.

Each layer may include itself and those before it in its list. Prints one line for each include that
points the other way and for each file that no layer has, and fails if there are any.
"""
import pathlib
import re
import sys

# Folders of the daemon. CMake links each room's tests to the rooms before it, too.
ROOMS = "base options loop nfs record tree mirror locks control daemon".split()

# Files of the lock manager: a name stands for its header and its source, unless one of them has a
# place of its own. Those on one line may not include each other.
PARTS = [line.split() for line in """
    range clock counters histogram accounting wait_graph waiter_order
    owner interval_tree range_tree
    journal
    text policy lock_trees owner_table backing observer
    carried_record forwarding_backing wait_nodes policy_switch.h granted waiter
    registry outcomes views
    outside queue searches outsiders
    context
    reports pages
    mirror deadlock.h leases.h
    file_locks.h
    change
    file_locks.cpp file_locks_views deadlock.cpp leases.cpp policy_switch.cpp giving_up relent restoring
    explain lock_manager
""".strip().splitlines()]

# Of fs, the programs around the daemon may use what knows neither FUSE nor options.
SHARED_WITH_PROGRAMS = {"fs/base/mount_table.h", "fs/base/proc_locks.h", "fs/base/unique_fd.h"}

# A unit test of the daemon links the room that it tests.
LINKS = re.compile(r"^// ctest:.*\blinks=lockfs_(\w+)", re.MULTILINE)
INCLUDE = re.compile(r'^\s*#\s*include\s+(?:"([^"]+)"|<((?:fs|lockmgr|mount-helpers|tests)/[^>]+)>)',
                     re.MULTILINE)


def includes_in(text):
    """Names of the project's own headers, however they are quoted."""
    return [quoted or angled for quoted, angled in INCLUDE.findall(text)]


def room_of(path):
    return ROOMS.index(path.parts[1]) if path.parts[1] in ROOMS and len(path.parts) == 3 else None


def part_of(path):
    for name in (path.name, path.stem):
        for rank, names in enumerate(PARTS):
            if name in names:
                return rank
    return None


def complaint(source, target):
    """Why `source` may not include `target`; empty when it may. Both are relative to the root."""
    if ".." in target.parts or target.suffix != ".h":
        return "is no header named from the root of the tree"
    if target.parts[0] not in ("fs", "lockmgr", "mount-helpers", "tests"):
        return "is not named from the root of the tree"
    top, other = source.parts[0], target.parts[0]
    if top == "mount-helpers" and other == "fs" and str(target) not in SHARED_WITH_PROGRAMS:
        return "is the daemon's own"
    if top == "lockmgr" and other != "lockmgr":
        return "is none of the lock manager's"
    if top == "fs" and other not in ("fs", "lockmgr"):
        return "is none of the daemon's"
    if top == other == "fs" and room_of(source) < room_of(target):
        return f"points to the right: {source.parts[1]} comes before {target.parts[1]}"
    if top == other == "lockmgr":
        if "trace" in target.parts and "trace" not in source.parts:
            return "points from the manager to the trace format"
        if "trace" in source.parts or source.stem == target.stem:
            return ""
        if None in (part_of(source), part_of(target)):
            return ""  # told of as a file without a place
        if part_of(source) <= part_of(target):
            return f"points up: {source.stem} does not come after {target.stem}"
    return ""


def complaint_of_test(text):
    """Why a unit test links the wrong room; empty when it does not."""
    rooms = [ROOMS.index(name.split("/")[1]) for name in includes_in(text)
             if name.startswith("fs/")]
    links = LINKS.search(text)
    wanted = ROOMS[max(rooms)] if rooms else None
    linked = links.group(1) if links else None
    if linked == wanted:
        return ""
    return f"should say 'ctest: links=lockfs_{wanted}'" if wanted else "needs no room of the daemon"


def main():
    root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else __file__).resolve()
    if len(sys.argv) < 2:
        root = root.parents[2]
    found = []
    files = 0
    linted = re.search(r"^HeaderFilterRegex: '(.*)'$", (root / ".clang-tidy").read_text(), re.MULTILINE)
    for top in ("fs", "lockmgr", "mount-helpers"):
        for path in sorted((root / top).rglob("*")):
            if path.suffix not in (".h", ".cpp"):
                continue
            files += 1
            source = path.relative_to(root)
            if path.suffix == ".h" and not re.search(linted.group(1), str(path)):
                found.append(f"{source}: HeaderFilterRegex of .clang-tidy leaves it out")
            if top == "fs" and room_of(source) is None:
                found.append(f"{source}: is in none of the rooms {' '.join(ROOMS)}")
                continue
            if top == "lockmgr" and len(source.parts) == 2 and part_of(source) is None:
                found.append(f"{source}: has no place in the list of parts in {__file__}")
                continue
            for name in includes_in(path.read_text()):
                target = pathlib.Path(name)
                if not (root / target).exists():
                    found.append(f"{source}: include of {name}: there is no such file")
                elif why := complaint(source, target):
                    found.append(f"{source}: include of {name}: {why}")
    for path in sorted((root / "tests/unit").glob("*_test.cpp")):
        if why := complaint_of_test(path.read_text()):
            found.append(f"{path.relative_to(root)}: {why}")
    for line in found:
        print(line)
    if found:
        return 1
    print(f"includes: {files} files point one way")
    return 0


sys.exit(main())
