"""A slice of the fault suite, and the suite's test of itself: see tests/chaos for the whole."""

from pathlib import Path

import pytest
from rich.console import Console

from tests.chaos import faults
from tests.chaos.report import Report
from tests.chaos.run import Phase, run_phase
from tests.chaos.selftest import self_test
from worker.config import WorkerConfig

SEED = 20_261_123
SLICE = Phase(
    "slice",
    seconds=35,
    faults={
        fault: 1 for fault in faults.KEEPING if fault not in {faults.half_open, faults.lock_table}
    },
    cuts=10,
    rate=25,
    lease=3,
    drain=100,
)

pytestmark = [
    pytest.mark.timeout(240),
    pytest.mark.skipif(
        "lease" not in WorkerConfig.model_fields, reason="needs the engine's leases"
    ),
]


def test_nothing_is_lost_doubled_or_cut_in_half(tmp_path: Path) -> None:
    """Workers, Redis, PostgreSQL and the network are broken for a while, by a fixed seed."""
    report = Report(SEED)
    run_phase(SLICE, SEED, tmp_path / "slice", report, Console())
    assert report.violations == []
    assert report.total().exposures > 100
    assert report.counts["jobs done"] > 100


def test_the_checker_sees_what_it_is_for(tmp_path: Path) -> None:
    """Two of the seeded bugs; `python -m tests.chaos --self-test` puts in all."""
    assert self_test(tmp_path, Console(), ["receipt_after_effects", "outbox_settled_first"]) == []
