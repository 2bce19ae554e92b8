"""The page of figures is what the benchmark printed."""

import json

from bench.outside import CALL
from bench.page import PAGE, RESULTS, render


def test_no_figure_of_the_page_was_typed_by_hand() -> None:
    """docs/bench.md is made from bench/results.json: `python -m bench.page` writes it anew."""
    assert PAGE.read_text() == render(json.loads(RESULTS.read_text()))


def test_the_page_shows_the_connections_beside_the_speed() -> None:
    """Of the contenders that call a service; the service itself holds none."""
    run = json.loads(RESULTS.read_text())
    run["titles"]["service"] = "the service alone"
    run["values"][CALL] = {"ours": [150.0, 170.0, 160.0], "service": [4_000.0]}
    for column, value in (("connections", 16), ("in use", 3)):
        for of in ("median", "most"):
            run["values"][f"{CALL}: {column}, {of}"] = {"ours": [value]}
    lines = render(run).splitlines()
    assert "| the service alone | 4,000 | 4,000 to 4,000 |  |  |  |  |" in lines
    ours = "| ledgerq, jobs on Redis | 160 | 150 to 170 | 16.00 | 16.00 | 3.00 | 3.00 |"
    assert ours in lines
