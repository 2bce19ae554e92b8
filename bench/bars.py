"""The bars: what a release must reach, as ratios within one run."""

from collections.abc import Iterator
from dataclasses import dataclass

from bench.contenders import PEERS
from bench.outside import HELD, MEMORY, SECONDS
from bench.results import Results
from bench.workloads import LONG, OLD, SHORT, YOUNG

_PEERS = [each.name for each in PEERS]


@dataclass(frozen=True, slots=True)
class Bar:
    """One of them. `found` is None if this run did not measure it.

    `ceiling` is what the handler's own work reaches by SQLAlchemy without any queue: no worker of one process that commits
    each job by itself has more.
    """

    what: str
    wanted: float
    found: float | None
    at_most: bool = False
    unit: str = "x"
    ceiling: float | None = None

    @property
    def passed(self) -> bool | None:
        """True or false; None if it was not measured."""
        if self.found is None:
            return None
        return self.found <= self.wanted if self.at_most else self.found >= self.wanted

    @property
    def wanted_text(self) -> str:
        """With its sign and unit."""
        return f"{'≤' if self.at_most else '≥'} {self.wanted:g} {self.unit}"


def bars(results: Results) -> list[Bar]:
    """All of them, in the order in which they are promised."""
    parts = (_throughput, _latency, _idle, _growth, _outside)
    return [bar for part in parts for bar in part(results)]


def _throughput(results: Results) -> Iterator[Bar]:
    ratio = results.ratio
    best = results.best("create", _PEERS) or "arq"
    own = "its own create"
    yield Bar("create, jobs on Redis, to tuned arq", 35, ratio("create", "ours", "arq"))
    yield Bar(f"create, jobs on Redis, to the best peer: {best}", 12, ratio("create", "ours", best))
    yield Bar("create, jobs on Redis, to pgbench", 2.3, ratio("create", "ours", "pgbench"))
    yield Bar(
        "create, jobs on Redis, to Core, batches of 100", 0.6, ratio("create", "ours", "core")
    )
    yield Bar("create, staged, left to a relay, to tuned arq", 8, ratio("create", "staged", "arq"))
    yield Bar(f"create, staged, to {own}", 0.6, ratio("create", "direct", "ours"))
    for what, wanted, workload, name, alone in (
        ("a plain handler, own commits, to tuned arq", 2.2, "create", "plain", "alone"),
        ("a plain handler, shared commits, to arq", 4.5, "create", "shared", "alone-shared"),
        ("an empty job, to tuned arq's", 1.2, "noop", "ours", "alone"),
    ):
        ceiling = ratio(workload, alone, "arq")
        yield Bar(what, wanted, ratio(workload, name, "arq"), ceiling=ceiling)
    yield Bar(f"status change, to {own}", 0.7, ratio("move", "ours", "ours", of="create"))
    bulk = "enqueue, in bulk"
    best = results.best(bulk, _PEERS) or "arq"
    yield Bar(f"bulk enqueue, to the best peer: {best}", 1.5, ratio(bulk, "ours", best))


def _latency(results: Results) -> Iterator[Bar]:
    for who, cut, most in (
        ("ours", "p50", 5),
        ("ours", "p99", 20),
        ("stock-client", "p50", 30),
    ):
        found = results.median(f"latency, idle, {cut}", who)
        client = "our client" if who == "ours" else "a stock arq client"
        yield Bar(f"enqueue to commit, idle, {client}, {cut}", most, found, True, "ms")

    p50, ratio = "latency, idle, p50", results.ratio
    yield Bar("enqueue to commit, idle, p50, to Taskiq", 0.85, ratio(p50, "ours", "taskiq"), True)
    yield Bar("staged to commit, idle, p50, to direct", 1.3, ratio(p50, "direct", "ours"), True)


def _idle(results: Results) -> Iterator[Bar]:
    for workload, most in (
        ("idle, % of a core", 1),
        ("idle, Redis commands/s", 10),
        ("idle, MB", 100),
    ):
        unit = workload.removeprefix("idle, ")
        yield Bar("an idle worker", most, results.median(workload, "ours"), True, unit)


def _growth(results: Results) -> Iterator[Bar]:
    commands = "workers: Redis commands a job"
    few, many = "2 workers", "32 workers"
    yield Bar(f"create, {OLD}, to {YOUNG}", 0.9, results.ratio(OLD, "ours", "ours", of=YOUNG))
    wal = results.median(f"{OLD}: WAL bytes a job", "ours")
    yield Bar(f"create, {OLD}, WAL a job", 2200, wal, True, "bytes")
    yield Bar("32 workers to 2, total", 0.85, results.ratio(many, "ours", "ours", of=few))
    grown = results.ratio(f"32 {commands}", "ours", "ours", of=f"2 {commands}")
    yield Bar("32 workers to 2, Redis commands a job", 2, grown, True)
    found = results.ratio(LONG, "ours", "ours", of=SHORT)
    yield Bar(f"{LONG}, to {SHORT}", 0.92, found)
    late, early = f"{LONG}: MB at the end", f"{LONG}: MB after a tenth"
    grown = results.ratio(late, "ours", "ours", of=early)
    yield Bar("worker memory after 1,000,000 jobs, to that after a tenth", 1.1, grown, True)


def _outside(results: Results) -> Iterator[Bar]:
    for what, workload, most, unit in (
        ("500 outside jobs that wait 1 s each, one worker", SECONDS, 8, "s"),
        ("1,000 outside jobs that wait, one worker", MEMORY, 60, "MB"),
        ("1,000 outside jobs that wait, one worker", HELD, 0, "connections in use"),
    ):
        yield Bar(what, most, results.median(workload, "ours"), True, unit)
