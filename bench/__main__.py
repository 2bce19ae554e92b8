"""The benchmark, `make bench`: ledgerq beside its peers, in one run, everybody on the same servers.

With QUICK=1 it takes four minutes and looks at creating tasks and at work outside of the database only. ONLY=create,idle
picks groups, ROUNDS=3 and SECONDS=4 say how long.
"""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from rich.console import Console

from bench import contenders as who
from bench import outside, page, report, venvs, workloads, yardsticks
from bench.processes import Contender
from bench.results import Results
from bench.rounds import Pacing, Segment, play
from bench.servers import ROOT, SETTINGS, Servers, servers

QUICK = os.environ.get("QUICK", "0") not in ("", "0")
OURS = (who.OURS, who.STAGED, who.DIRECT)
HANDLERS = (who.PLAIN, who.SHARED)  # take part where a task is created
OUTSIDE = ("ours", "arq", "saq", "taskiq", "procrastinate", "dbos")
QUICKEST = ("ours", "arq", "saq", "taskiq", "pgqueuer")  # who is worth a second look
FASTEST_DRIP = 1_000  # jobs a second that one client puts on the queue one by one


@dataclass(frozen=True, slots=True)
class Group:
    """Segments that take turns, in so many rounds. A quick run leaves out what has no `quick` rounds."""

    name: str
    segments: Callable[[Servers, Results, list[Contender]], list[Segment]]
    rounds: int
    rehearse: bool = True
    quick: int = 0


def groups() -> list[Group]:
    """What a whole run looks at, in order."""
    return [
        Group("create", lambda s, r, c: _create(s, [*c, *HANDLERS]), 5, quick=3),
        Group("grown", lambda s, r, c: workloads.grown(s, [who.OURS]), 3),
        Group("move", lambda s, r, c: workloads.drains(s, "move", _of(c, QUICKEST)), 3),
        Group("noop", lambda s, r, c: _noop(s, c), 3),
        Group("enqueue", lambda s, r, c: workloads.enqueues(s, c), 3),
        Group("latency", _latency, 2, rehearse=False),
        Group("idle", lambda s, r, c: workloads.idle(s, 10, _but_staged(c)), 2, rehearse=False),
        Group("scaling", lambda s, r, c: _scaling(s, c), 2, rehearse=False),
        Group("depth", lambda s, r, c: workloads.depth(s, 100_000, [who.OURS]), 3, False),
        Group("recovery", lambda s, r, c: workloads.recovery(s, [who.OURS]), 2, rehearse=False),
        Group("outside", lambda s, r, c: _outside(s, c), 3, rehearse=False, quick=1),
    ]


def _create(servers: Servers, taking_part: Iterable[Contender]) -> list[Segment]:
    return [*workloads.drains(servers, "create", taking_part), *yardsticks.create(servers)]


def _noop(servers: Servers, taking_part: list[Contender]) -> list[Segment]:
    drains = workloads.drains(servers, "noop", _of(taking_part, QUICKEST))
    return [*drains, *yardsticks.noop(servers)]


def _latency(servers: Servers, results: Results, taking_part: list[Contender]) -> list[Segment]:
    at, known = workloads.latency, {*QUICKEST, "staged", "direct"}
    some = [*_of(taking_part, known), who.STOCK_CLIENT]
    segments = [
        *at(servers, "latency, idle", 8, 12, [*some, *_of(taking_part, {"arq-default"})]),
        *at(servers, "latency, 100/s", 100, 6, some),
    ]
    for each in some:
        rate = results.median("create", "ours" if each is who.STOCK_CLIENT else each.name)
        fed = results.median("enqueue, one at a time", each.name) or 2 * FASTEST_DRIP
        half = min(rate / 2, fed / 2, FASTEST_DRIP) if rate else 100
        segments += at(servers, "latency, half load", half, 5, [each])
    return segments


def _scaling(servers: Servers, taking_part: list[Contender]) -> list[Segment]:
    return [
        *workloads.scaling(servers, (1, 2, 4, 8, 16, 32), 60_000, [who.OURS]),
        *workloads.scaling(servers, (2, 8), 3_000, _of(taking_part, {"arq", "saq"})),
    ]


def _outside(servers: Servers, taking_part: list[Contender]) -> list[Segment]:
    some = _of(taking_part, OUTSIDE)
    calls = outside.calls(servers, 3 if QUICK else 10, some, own=not QUICK)
    return [*calls, *outside.waiting(servers, [who.OURS])]


def _of(contenders: list[Contender], names: Collection[str]) -> list[Contender]:
    return [each for each in contenders if each.name in names]


def _but_dbos(contenders: list[Contender]) -> list[Contender]:
    return [each for each in contenders if each is not who.DBOS]


def _but_staged(contenders: list[Contender]) -> list[Contender]:
    return [each for each in contenders if each not in (who.STAGED, who.DIRECT)]


def _installed(peers: Iterable[Contender], results: Results, console: Console) -> list[Contender]:
    """Those whose environment is there, or can be made."""
    ready = []
    for each in peers:
        try:
            if each.venv:
                console.print(f"[dim]environment of {each.venv}[/]")
                venvs.ensure(each.venv)
        except venvs.NoEnvironment as error:
            results.fail("install", each.name, str(error))
        else:
            ready.append(each)
    return ready


async def measure(
    servers: Servers, results: Results, taking_part: list[Contender], console: Console
) -> None:
    """Play what was asked for; add to `taking_part` the peers that take part."""
    only = [name for name in os.environ.get("ONLY", "").split(",") if name]
    wanted = [
        each for each in groups() if (not only or each.name in only) and (each.quick or not QUICK)
    ]
    peers = [who.ARQ, who.SAQ] if QUICK else [*who.PEERS, who.DBOS]
    if all(group.name == "outside" for group in wanted):
        peers = _of(peers, OUTSIDE)
    taking_part += _installed(peers, results, console)
    pace = Pacing(float(os.environ.get("SECONDS", "2.5" if QUICK else "4")))
    for group in wanted:
        rounds = int(os.environ.get("ROUNDS") or (group.quick if QUICK else group.rounds))
        some = taking_part if group.name == "outside" else _but_dbos(taking_part)
        segments = group.segments(servers, results, some)
        await play(segments, rounds, pace, results, console, rehearse=group.rehearse)


def _keep(
    results: Results, servers: Servers, taking_part: list[Contender], console: Console
) -> None:
    """A whole run is written down and drawn; a part of one is kept aside."""
    how = {"quick": QUICK, "minutes": results.notes["minutes"], "servers": SETTINGS}
    whole = not QUICK and not os.environ.get("ONLY")
    path = page.RESULTS if whole else report.QUICK_RESULTS
    report.write(results, servers, taking_part, how, path)
    console.print(f"written: {path.relative_to(ROOT)}")
    if whole:
        try:
            report.draw()
        except (venvs.NoEnvironment, subprocess.CalledProcessError) as error:
            console.print(f"no chart: {error}", style="yellow", markup=False)


def main() -> int:
    """Run it; exit status 1 if nothing was measured."""
    console = Console(width=120)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the servers must not outlive us
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where a shell started us
    results, taking_part, started = Results(), [*OURS], time.monotonic()
    with servers() as ours:
        try:
            asyncio.run(measure(ours, results, taking_part, console))
        except KeyboardInterrupt:
            console.print("stopped: what follows is what there is")
        results.notes["minutes"] = round((time.monotonic() - started) / 60, 1)
        report.show(results, console)
        if results.values:
            _keep(results, ours, taking_part, console)
    return 0 if results.values else 1


if __name__ == "__main__":
    sys.exit(main())
