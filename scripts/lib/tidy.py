#!/usr/bin/env python3
"""tidy.py DATABASE_FOLDER FILE...: clang-tidy over the files, many in one run.

Most of clang-tidy's time goes to headers of the system, which its checks search anew for each source.
Sources of one folder with the same flags are therefore included by one file that is made below
build/tidy, up to BATCH of them; HeaderFilterRegex in .clang-tidy must let them through. Sources that
do not go together, because two of them give the same name to something of their own, are run one by
one. The static analyzer passes over functions of included files, but for sources that are included by
a file whose name says UnifiedSource (AnalysisManager::isInCodeFile() of clang).

Fails if there is a finding. Uses all processors.
"""
import concurrent.futures
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys

BATCH = 12
ROOT = pathlib.Path(__file__).resolve().parents[2]
MADE = ROOT / "build" / "tidy"


def flags_of(entry):
    """The entry's flags without the compiler, its launcher, the source, what is written, and what
    was precompiled by another compiler."""
    words = shlex.split(entry["command"])
    words = words[next(i for i, word in enumerate(words) if word.startswith("-")):]
    flags, skip = [], False
    for word in words:
        if skip or word in ("-c", "-o", "-MD", "-MT", "-MF", "-include", "-Winvalid-pch"):
            skip = not skip and word in ("-o", "-MT", "-MF", "-include")
        elif word != entry["file"]:
            flags.append(word)
    return tuple(flags)


def batches_of(files, database):
    groups = {}
    for file in files:
        entry = database.get(str(file))
        # A main() seldom has company of the same flags, and must not have another main().
        alone = entry is None or file.name.endswith("main.cpp")
        key = file if alone else (file.parent, flags_of(entry))
        groups.setdefault(key, []).append(file)
    for key, group in groups.items():
        count = -(-len(group) // BATCH)
        size = -(-len(group) // count)
        for start in range(0, len(group), size):
            yield key, group[start:start + size]


def run(file):
    """clang-tidy on one file: whether it found nothing, and what it said."""
    done = subprocess.run(
        ["clang-tidy", "--quiet", "-p", MADE, "--extra-arg=-Wno-unknown-warning-option", file],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    # Warnings that it hides in system headers are counted; nobody wants that.
    text = re.sub(r"^\d+ warnings? generated\.\n", "", done.stdout, flags=re.MULTILINE)
    return done.returncode == 0, text


def run_batch(made, files):
    good, text = run(made)
    if "[clang-diagnostic-error]" not in text:
        return good, text
    results = [run(file) for file in files]
    return all(good for good, _ in results), "".join(text for _, text in results)


def main():
    folder = pathlib.Path(sys.argv[1]).resolve()
    files = [pathlib.Path(name).resolve() for name in sys.argv[2:]]
    with open(folder / "compile_commands.json", encoding="utf-8") as stream:
        database = {entry["file"]: entry for entry in json.load(stream)}
    MADE.mkdir(parents=True, exist_ok=True)
    work = []
    # The same database, with flags that clang knows.
    made_entries = [{"directory": entry["directory"], "file": file,
                     "command": shlex.join(["c++", *flags_of(entry), "-c", file])}
                    for file, entry in database.items()]
    for number, (key, batch) in enumerate(batches_of(files, database)):
        if len(batch) == 1:
            work.append((1, run, (batch[0],)))
        else:
            made = MADE / f"UnifiedSource{number}.cpp"
            made.write_text("".join(
                f'#include "{file}"  // NOLINT(bugprone-suspicious-include)\n' for file in batch))
            made_entries.append({
                "directory": str(folder), "file": str(made),
                "command": shlex.join(["c++", *key[1], "-c", str(made)])})
            work.append((len(batch), run_batch, (made, batch)))
    (MADE / "compile_commands.json").write_text(json.dumps(made_entries, indent=1))

    work.sort(key=lambda item: -item[0])  # the longest first
    good = True
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for found_nothing, text in pool.map(lambda item: item[1](*item[2]), work):
            good &= found_nothing
            print(text, end="", flush=True)
    if good:
        print(f"clang-tidy: {len(files)} sources without a finding")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
