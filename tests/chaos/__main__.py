"""The command line: `python -m tests.chaos`."""

import os
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import SystemRandom
from typing import Annotated

import typer
from rich.console import Console

from tests.chaos import faults, server_faults, start
from tests.chaos.drills import DRILLS
from tests.chaos.exhaustive import exhaustive
from tests.chaos.in_flight import IN_STEPS
from tests.chaos.outage_drill import outages
from tests.chaos.report import Bar, Report
from tests.chaos.run import Phase, run_phase
from tests.chaos.selftest import catch, self_test
from tests.chaos.servers import PostgreSQL
from tests.chaos.waiting_drill import waiting

REPORT = Path(__file__).resolve().parents[2] / "docs" / "reliability.json"
out = Console(width=150)


SLICE = Phase(
    "slice",
    seconds=10,
    faults={
        fault: 1
        for fault in faults.KEEPING
        if fault not in {faults.half_open, server_faults.lock_table, server_faults.pause_redis}
    },
    cuts=10,
    rate=25,
    lease=3,
    drain=100,
    attempts=3,  # those that fail have ended sooner
    slowest_step=2,
)
FAULTS = 300  # a minute …
IN_STEPS_BAR = 100  # … and of these, with a step in flight
SLICE_BUGS = ("receipt_after_effects", "fence_not_put_up")


def main(
    minutes: Annotated[float, typer.Option(help="About how long; CHAOS_MINUTES too.")] = float(
        os.environ.get("CHAOS_MINUTES", "10")
    ),
    seed: Annotated[int | None, typer.Option(help="Replays a schedule.")] = None,
    self_tested: Annotated[
        bool, typer.Option("--self-test", help="Put in bugs; each must be caught.")
    ] = False,
    complete: Annotated[
        bool,
        typer.Option("--exhaustive", help="A kill at every send, a cancellation at every await."),
    ] = False,
    sliced: Annotated[
        bool, typer.Option("--slice", help="A minute of everything, without a report.")
    ] = False,
) -> None:
    """Break everything, for a while, and see whether the promises hold. Exit status 1 if one does not."""
    chosen = SystemRandom().randrange(2**31) if seed is None else seed
    out.print(f"seed {chosen}", highlight=False)
    report = Report(chosen)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="ledgerq-chaos-") as name:
        folder = Path(name)
        if self_tested:
            report.violations += self_test(folder, out)
        elif complete:
            exhaustive(folder / "exhaustive", report, out)
        elif sliced:
            _slice(chosen, folder, report)
        else:
            _everything(minutes, chosen, folder, report)
    report.seconds = time.monotonic() - started
    report.show(out)
    if not (self_tested or complete or sliced):
        report.write(REPORT)
    sys.exit(0 if report.ok else 1)


def _slice(seed: int, folder: Path, report: Report) -> None:
    """Some of it, and meanwhile two of the bugs."""
    start.how.forking = True
    postgresql = PostgreSQL.create(folder / "postgresql")
    with ThreadPoolExecutor(1) as beside:
        uncaught = beside.submit(catch, folder, out, SLICE_BUGS, postgresql)
        run_phase(SLICE, seed, folder / "slice", report, out)
        report.violations += uncaught.result()


def _everything(minutes: float, seed: int, folder: Path, report: Report) -> None:
    for number, phase in enumerate(phases(minutes * 60)):
        run_phase(phase, seed + number * 1000, folder / f"phase-{number}", report, out)
    for number, drill in enumerate((*DRILLS, outages, waiting)):
        drill(seed + number, folder / drill.__name__, report, out)
    in_steps = report.counts.get(IN_STEPS, 0)
    report.bars += [
        Bar("faults", report.total().faults, FAULTS * minutes, higher=True),
        Bar(IN_STEPS, in_steps, IN_STEPS_BAR * minutes, higher=True),
    ]


def phases(seconds: float) -> list[Phase]:
    """The random part, split between losing nothing and losing what Redis has."""
    return [
        Phase("everything but loss", seconds * 0.38, faults.KEEPING, cuts=28),
        Phase("Redis loses data", seconds * 0.1, faults.DESTROYING, cuts=14, pause=2),
    ]


if __name__ == "__main__":
    typer.run(main)
