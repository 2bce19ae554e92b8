"""The charts of `make bench-growth`, docs/growth.svg: `python -m bench.growth_chart RESULTS FOLDER`, as bench/chart.py."""

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("agg")
from matplotlib import pyplot as plt

from bench.chart import OURS, _bare


def draw(run: dict[str, Any], folder: Path) -> None:
    """A panel for each series."""
    plt.rcParams.update({"font.size": 9, "svg.hashsalt": "ledgerq", "svg.fonttype": "none"})
    figure, panels = plt.subplots(1, len(run["points"]), figsize=(3.2 * len(run["points"]), 3.2))
    for axes, (name, points) in zip(panels, run["points"].items(), strict=True):
        title, unit = run["about"][name]
        places = range(len(points))
        axes.plot(places, list(points.values()), "o-", color=OURS)
        axes.set_xticks(places, [f"{int(step):,}" for step in points], rotation=30)
        axes.set_ylim(bottom=0)
        axes.set_title(f"{unit} by {title}")
        _bare(axes)
    figure.tight_layout()
    figure.savefig(folder / "growth.svg", metadata={"Date": None})


if __name__ == "__main__":
    draw(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
