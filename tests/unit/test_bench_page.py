"""The page of figures is what the benchmark printed."""

import json

from bench.page import PAGE, RESULTS, render


def test_no_figure_of_the_page_was_typed_by_hand() -> None:
    """docs/bench.md is made from bench/results.json: `python -m bench.page` writes it anew."""
    assert PAGE.read_text() == render(json.loads(RESULTS.read_text()))
