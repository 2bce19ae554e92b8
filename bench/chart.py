"""The chart, from bench/results.json to docs/bench.svg and docs/bench.png.

Runs in an environment of its own, which has matplotlib: `python -m bench.chart RESULTS FOLDER`.
"""

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("agg")
from matplotlib import pyplot as plt

OURS, PEER, YARDSTICK = "#0b7285", "#adb5bd", "#e8590c"
_OUR_NAMES = ("ours", "staged", "direct", "plain", "shared", "stock-client")


def draw(results: dict[str, Any], folder: Path) -> None:
    """Three panels: throughput, latency when idle, and many workers."""
    plt.rcParams.update({"font.size": 9, "svg.hashsalt": "ledgerq", "svg.fonttype": "none"})
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(14, 4.4), width_ratios=(4, 4, 3.6))
    titles = results["titles"]
    throughput(left, results["medians"].get("create", {}), results["values"], titles)
    latency(middle, results["medians"], titles)
    scaling(right, results["medians"], titles)
    machine = results["machine"]
    figure.suptitle("One worker, one task row and one audit entry a job, one transaction, fsync on")
    note = f"{results['date'][:10]}, {machine['processor']}, {machine['cores']} cores, medians"
    figure.text(0.5, 0.005, note, ha="center", fontsize=7, color="#666666")
    figure.tight_layout(rect=(0, 0.02, 1, 0.98))
    folder.mkdir(exist_ok=True)
    figure.savefig(folder / "bench.svg", metadata={"Date": None})
    figure.savefig(folder / "bench.png", dpi=130)


def throughput(axes: Any, medians: dict[str, float], values: Any, titles: dict[str, str]) -> None:
    """Jobs a second; the thin line is from the least round to the most."""
    names = sorted(medians, key=lambda name: medians[name])
    axes.barh(
        [titles[name] for name in names],
        [medians[name] for name in names],
        color=[_colour(name) for name in names],
    )
    for place, name in enumerate(names):
        known = [value for value in values["create"][name] if value is not None]
        axes.plot([min(known), max(known)], [place, place], color="#343a40", linewidth=1)
        axes.text(max(known), place, f" {medians[name]:,.0f}", va="center", fontsize=8)
    axes.set_title("Jobs a second of one worker")
    axes.margins(x=0.18)
    _bare(axes)


def latency(axes: Any, medians: dict[str, dict[str, float]], titles: dict[str, str]) -> None:
    """Milliseconds from enqueue to commit: a dot for the median, a line to one in a hundred."""
    middle = medians.get("latency, idle, p50", {})
    slow = medians.get("latency, idle, p99", {})
    names = sorted(middle, key=lambda name: -middle[name])
    for place, name in enumerate(names):
        axes.plot([middle[name], slow[name]], [place, place], color=_colour(name), linewidth=2)
        axes.plot(middle[name], place, "o", color=_colour(name))
        said = f"  {middle[name]:,.1f} to {slow[name]:,.0f}"
        axes.text(slow[name], place, said, va="center", fontsize=8)
    axes.set_yticks(range(len(names)), [titles[name] for name in names])
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("")
    axes.set_title("Idle: ms from enqueue to commit, median to p99")
    axes.margins(x=0.3, y=0.1)
    _bare(axes)


def scaling(axes: Any, medians: dict[str, dict[str, float]], titles: dict[str, str]) -> None:
    """All workers together, by their number."""
    counts = [count for count in (1, 2, 4, 8, 16, 32) if f"{count} workers" in medians]
    for name in dict.fromkeys(name for count in counts for name in medians[f"{count} workers"]):
        known = [count for count in counts if medians[f"{count} workers"].get(name)]
        rates = [medians[f"{count} workers"][name] for count in known]
        axes.plot(known, rates, "o-", color=_colour(name), label=titles[name])
    axes.set_xscale("log", base=2)
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.set_ylim(bottom=0)
    axes.set_title("Jobs a second of 1 to 32 workers", loc="right")
    if counts:
        axes.legend(frameon=False)
    _bare(axes)


def _colour(name: str) -> str:
    if name in _OUR_NAMES:
        return OURS
    return YARDSTICK if name in {"pgbench", "core", "alone", "alone-shared"} else PEER


def _bare(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(length=0)


if __name__ == "__main__":
    draw(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
