"""How the cost of a job grows, `make bench-growth`: with the tables, the payload, the entries of a job, the workers, the queue.

Only ledgerq takes part. ONLY=tables,payload picks series, SECONDS=4 says how long each point lasts, ROUNDS=2 how often it is
measured. Writes docs/growth.md and its charts, docs/growth.svg, after a run of all series.
"""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench import venvs
from bench.contenders import OURS
from bench.measure import begin, counter, drain, rate_between
from bench.processes import ask, workers
from bench.results import Results, shown
from bench.rounds import Pacing, Segment, play
from bench.servers import GROWN, ROOT, Servers, servers
from bench.workloads import crowd, front

RESULTS = ROOT / ".bench" / "growth.json"
DOCS = ROOT / "docs"
_CROWD = 30_000  # jobs for one to many workers

Point = Callable[[Servers, int, Pacing], Awaitable[float]]


@dataclass(frozen=True, slots=True)
class Series:
    """What grows, by which steps, and how a step is measured: jobs or entries a second."""

    name: str
    title: str
    steps: Sequence[int]
    point: Point
    unit: str = "jobs/s"


async def tables(servers: Servers, rows: int, pace: Pacing) -> float:
    """So many receipts and audit entries are there before."""
    template = f"grown_{rows}" if rows else "empty"
    return (await drain(servers, OURS, "create", pace.jobs, template=template)).rate


async def payload(servers: Servers, size: int, pace: Pacing) -> float:
    """A description of so many random hex digits."""
    sized = replace(OURS, environment={"BENCH_BYTES": str(size)})
    return (await drain(servers, sized, "create", pace.jobs)).rate


async def entries(servers: Servers, number: int, pace: Pacing) -> float:
    """One job creates so many tasks, each with its entry, in one transaction."""
    many = replace(OURS, environment={"BENCH_ENTRIES": str(number)})
    jobs = max(20, pace.jobs // number)
    await begin(servers, many, "create")
    await asyncio.to_thread(ask, servers, many, "fill", "create", jobs)
    async with counter(servers, "create", Path()) as done:
        with workers(servers, many, "create") as running:
            all_of_them = jobs * number
            return await rate_between(done, all_of_them // 10, all_of_them, running)


async def many_workers(servers: Servers, count: int, pace: Pacing) -> float:
    """So many workers on two cores, together."""
    return (await crowd(servers, OURS, count, _CROWD)).rate


async def queue(servers: Servers, length: int, pace: Pacing) -> float:
    """The first of so many queued jobs."""
    return await front(servers, OURS, length)


SERIES = (
    Series("tables", "receipts and audit entries", (0, 100_000, 1_000_000, GROWN), tables),
    Series("payload", "bytes of payload", (0, 100, 1_000, 5_000, 20_000), payload),
    Series("entries", "entries a job", (1, 10, 100, 1_000), entries, "entries/s"),
    Series("workers", "workers", (1, 2, 4, 8, 16, 32), many_workers),
    Series("queue", "queued jobs", (10_000, 100_000, 300_000, 1_000_000), queue),
)


def main() -> int:
    """Measure; exit status 1 if a point could not be."""
    console, results = Console(width=100), Results()
    only = [name for name in os.environ.get("ONLY", "").split(",") if name]
    wanted = [each for each in SERIES if not only or each.name in only]
    pace, rounds = Pacing(float(os.environ.get("SECONDS", "4"))), int(os.environ.get("ROUNDS", "2"))
    with servers() as ours:
        for series in wanted:
            segments = [
                Segment(f"{n:,}", series.name, _work(ours, series, n)) for n in series.steps
            ]
            asyncio.run(play(segments, rounds, pace, results, console, rehearse=False))
    points = {each.name: _points(results, each) for each in wanted}
    for series in wanted:
        console.print(_table(series, points[series.name]))
    for what, why in results.failures.items():
        console.print(f"left out: {what}: {why}", style="yellow", markup=False, highlight=False)
    if not only and not results.failures:
        _write(points, console)
    return 1 if results.failures else 0


def _work(
    servers: Servers, series: Series, step: int
) -> Callable[[Pacing], Awaitable[dict[str, float]]]:
    async def work(pace: Pacing) -> dict[str, float]:
        rate = await series.point(servers, step, pace)
        pace.learn(rate)
        return {f"{step:,}": rate}

    return work


def _points(results: Results, series: Series) -> dict[int, float]:
    found = {step: results.median(f"{step:,}", series.name) for step in series.steps}
    return {step: rate for step, rate in found.items() if rate is not None}


def _table(series: Series, points: dict[int, float]) -> Table:
    table = Table(series.title, series.unit, "to the first")
    for row in _rows(points):
        table.add_row(*row)
    return table


def _rows(points: dict[int, float]) -> list[tuple[str, str, str]]:
    first = next(iter(points.values()), 0.0)
    return [(f"{n:,}", shown(rate), f"{rate / first:.2f}x") for n, rate in points.items()]


def _write(points: dict[str, dict[int, float]], console: Console) -> None:
    """The page, and its charts by an environment of their own."""
    about = {each.name: [each.title, each.unit] for each in SERIES}
    day = datetime.now(UTC).date().isoformat()
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps({"date": day, "about": about, "points": points}))
    lines = [
        "# Growth: what a job costs when things get large", "",
        f"`make bench-growth` of {day}. One worker, product defaults, creating tasks with their audit entries on this machine's",
        f"{os.cpu_count()} cores, where the figures say little; the last column is the ratio to the first row, within one run.", "",
        "![Charts of the tables below](growth.svg)", "",
    ]  # fmt: skip
    for series in SERIES:
        lines += [f"| {series.title} | {series.unit} | to the first |", "|---|---|---|"]
        lines += [f"| {' | '.join(row)} |" for row in _rows(points[series.name])]
        lines.append("")
    (DOCS / "growth.md").write_text("\n".join(lines))
    try:
        venvs.ensure(venvs.CHART)
        draw = [
            str(venvs.python_of(venvs.CHART)),
            "-m",
            "bench.growth_chart",
            str(RESULTS),
            str(DOCS),
        ]
        subprocess.run(draw, cwd=ROOT, check=True)
    except (venvs.NoEnvironment, subprocess.CalledProcessError) as error:
        console.print(f"no chart: {error}", style="yellow", markup=False)


if __name__ == "__main__":
    sys.exit(main())
