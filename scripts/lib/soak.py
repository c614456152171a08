#!/usr/bin/env python3
"""soak.py BUILD OUT --seconds N --seed N [--keep-going] TEST...: runs tests of a build until the time
is over, each time with the next seed and all rounds (LOCKFS_TEST_SCALE=1).

How a test is run is asked of ctest, so that sanitizers report as they do there. There is no limit of
time: whoever soaks is there to look at what hangs. Of each test OUT keeps the output of the last run
(TEST.log) and of each failure (TEST.SEED.log). Fails if a test failed, or if none of them is in the
build.
"""
import argparse
import json
import os
import pathlib
import subprocess
import sys
import time


def tests_of(build):
    """Name without "_test" and what follows -> (command, environment, folder), from ctest."""
    shown = subprocess.run(["ctest", "--test-dir", build, "--show-only=json-v1"],
                           stdout=subprocess.PIPE, check=True).stdout
    tests = {}
    for test in json.loads(shown)["tests"]:
        values = {each["name"]: each["value"] for each in test.get("properties", [])}
        environment = dict(each.split("=", 1) for each in values.get("ENVIRONMENT", []))
        command = test.get("command", [])
        if command[:1] == ["timeout"]:
            command = command[3:]
        tests[test["name"].split("@")[0].removesuffix("_test")] = (command, environment, values.get("WORKING_DIRECTORY"))
    return tests


def reports_of(environment):
    """The files that sanitizers have written."""
    for name in ("ASAN_OPTIONS", "TSAN_OPTIONS", "UBSAN_OPTIONS"):
        for option in environment.get(name, "").split(":"):
            if option.startswith("log_path="):
                path = pathlib.Path(option.removeprefix("log_path="))
                path.parent.mkdir(parents=True, exist_ok=True)
                yield from path.parent.glob(path.name + ".*")


def run(test, seed, log):
    """Whether the test passed and no sanitizer had anything to say; both are in `log`."""
    command, environment, folder = test
    for report in reports_of(environment):
        report.unlink()
    environment = environment | {"LOCKFS_TEST_SCALE": "1", "LOCKFS_TEST_SEED": str(seed)}
    with open(log, "w", encoding="utf-8") as out:
        status = subprocess.run(command, cwd=folder, env=os.environ | environment, stdout=out,
                                stderr=subprocess.STDOUT, check=False).returncode
        reports = list(reports_of(environment))
        for report in reports:
            out.write(report.read_text(encoding="utf-8", errors="replace"))
    return status == 0 and not reports


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("build")
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--seconds", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--keep-going", action="store_true")
    parser.add_argument("tests", nargs="+")
    arguments = parser.parse_args()
    known = tests_of(arguments.build)
    names = [name for name in arguments.tests if name in known]
    for name in arguments.tests:
        if name not in known:
            print(f"{name} is not in this build")
    arguments.out.mkdir(parents=True, exist_ok=True)

    end = time.monotonic() + arguments.seconds
    seed, rounds, failures = arguments.seed, 0, 0
    while names and (rounds == 0 or time.monotonic() < end):
        rounds += 1
        print(f"round {rounds}, LOCKFS_TEST_SEED={seed}", flush=True)
        for name in names:
            log = arguments.out / f"{name}.log"
            start = time.monotonic()
            good = run(known[name], seed, log)
            print(f"  {name}: {'good' if good else 'FAILED'}, {time.monotonic() - start:.1f} s",
                  flush=True)
            if not good:
                failures += 1
                kept = log.rename(arguments.out / f"{name}.{seed}.log")
                print("".join(kept.read_text(errors="replace").splitlines(True)[-40:]), end="")
                print(f"  all of it: {kept}", flush=True)
                if not arguments.keep_going:
                    return 1
        seed += 1
    return 1 if failures or not names else 0


if __name__ == "__main__":
    sys.exit(main())
