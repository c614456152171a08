#!/usr/bin/python3
"""Draws the results of scripts/bench as SVG: plots.py RESULTS FOLDER.

RESULTS holds mounts.json and manager.json; what is missing there is left out.
"""

import collections
import json
import pathlib
import sys

import matplotlib

matplotlib.use("svg")
# Text stays text, so that the files are small and can be searched.
matplotlib.rcParams["svg.fonttype"] = "none"
import matplotlib.pyplot as plt  # noqa: E402

COLOURS = {
    "backing": "#7f7f7f",
    "lockfs": "#1f77b4",
    "lockfs, mirror off": "#17becf",
    "do-nothing": "#ff7f0e",
}


def colour(target):
    return COLOURS.get(target)


def load(path):
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None


def rows(document, group):
    return [row for row in (document or {}).get("results", []) if row["group"] == group]


def save(figure, folder, name):
    figure.tight_layout()
    figure.savefig(folder / name, metadata={"Date": None})
    plt.close(figure)
    print(f"Written: {folder / name}")


def log_log(axis, xlabel, ylabel):
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xlabel(xlabel)
    axis.set_ylabel(ylabel)
    axis.grid(True, which="both", alpha=0.2)


def lock_latency(mounts, folder):
    """The distribution of a lock and an unlock, one picture a kind of lock."""
    found = rows(mounts, "lock + unlock")
    kinds = list(dict.fromkeys(row["name"] for row in found))
    if not kinds:
        return
    figure, axes = plt.subplots(1, len(kinds), figsize=(4.2 * len(kinds), 3.6), sharey=True,
                                squeeze=False)
    for axis, kind in zip(axes[0], kinds):
        for row in (r for r in found if r["name"] == kind):
            points = row["distribution"]
            axis.plot([p for p, _ in points], [ns / 1000 for _, ns in points], marker=".",
                      label=row["target"], color=colour(row["target"]))
        axis.set_yscale("log")
        axis.set_title(kind)
        axis.set_xlabel("percentile")
        axis.grid(True, which="both", alpha=0.2)
    axes[0][0].set_ylabel("lock + unlock, us")
    axes[0][-1].legend(fontsize="small")
    save(figure, folder, "lock-latency.svg")


def manager_scaling(manager, folder):
    """Time of a lock and an unlock over the number of locks on the file."""
    lines = collections.defaultdict(list)
    for run in (manager or {}).get("benchmarks", []):
        name, _, size = run["name"].partition("/")
        if size.isdigit() and run.get("run_type", "iteration") == "iteration":
            lines[name.removeprefix("BM_")].append((int(size), run["cpu_time"]))
    if not lines:
        return
    figure, axis = plt.subplots(figsize=(6.4, 4))
    for name, points in lines.items():
        points.sort()
        axis.plot([n for n, _ in points], [ns for _, ns in points], marker=".", label=name)
    log_log(axis, "granted locks (ManyFiles: files)", "lock + unlock, ns")
    axis.legend(fontsize="x-small")
    save(figure, folder, "manager-scaling.svg")


def waiter_scaling(mounts, folder):
    """Time from an unlock to the next one's grant over the number of those who wait."""
    lines = collections.defaultdict(list)
    for row in rows(mounts, "unlock to next one's grant"):
        number, _, rest = row["name"].partition(" ")
        if rest == "waiting":
            lines[row["target"]].append((int(number), row["p50"] / 1000, row["p99"] / 1000))
    if not lines:
        return
    figure, axis = plt.subplots(figsize=(6.4, 4))
    for target, points in lines.items():
        points.sort()
        sizes = [n for n, _, _ in points]
        axis.plot(sizes, [p50 for _, p50, _ in points], marker=".", color=colour(target),
                  label=f"{target}, median")
        axis.plot(sizes, [p99 for _, _, p99 in points], marker=".", linestyle=":",
                  color=colour(target), label=f"{target}, p99")
    log_log(axis, "waiters on the file", "unlock to next grant, us")
    axis.legend(fontsize="small")
    save(figure, folder, "waiter-scaling.svg")


def bars(found, folder, name):
    """Medians as multiples of the backing folder's."""
    names = list(dict.fromkeys(f"{row['group']}: {row['name']}" for row in found))
    targets = [t for t in dict.fromkeys(row["target"] for row in found) if t != "backing"]
    if not names or not targets:
        return
    value = {(f"{row['group']}: {row['name']}", row["target"]): row.get("ratio_backing", 0)
             for row in found}
    figure, axis = plt.subplots(figsize=(7.5, 0.5 * len(names) + 1.6))
    height = 0.8 / len(targets)
    for i, target in enumerate(targets):
        axis.barh([n + i * height for n in range(len(names))],
                  [value.get((label, target), 0) for label in names], height, label=target)
    axis.set_yticks([n + 0.4 - height / 2 for n in range(len(names))], names, fontsize="small")
    axis.invert_yaxis()
    axis.axvline(1, color=COLOURS["backing"], linewidth=1)
    axis.set_xlabel("median time, x backing folder")
    axis.legend(fontsize="small")
    save(figure, folder, name)


def data_bars(mounts, folder):
    found = [row for row in (mounts or {}).get("results", []) if row.get("mb_per_second")]
    bars(found, folder, "data.svg")


def metadata_bars(mounts, folder):
    bars(rows(mounts, "metadata") + rows(mounts, "trees"), folder, "metadata.svg")


def main():
    if len(sys.argv) != 3:
        print(__doc__.strip(), file=sys.stderr)
        return 2
    results, folder = (pathlib.Path(argument) for argument in sys.argv[1:])
    folder.mkdir(parents=True, exist_ok=True)
    mounts = load(results / "mounts.json")
    manager = load(results / "manager.json")
    if mounts is None and manager is None:
        print(f"plots.py: no mounts.json or manager.json in {results}: run scripts/bench first",
              file=sys.stderr)
        return 1
    lock_latency(mounts, folder)
    manager_scaling(manager, folder)
    waiter_scaling(mounts, folder)
    metadata_bars(mounts, folder)
    data_bars(mounts, folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
