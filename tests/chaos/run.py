"""The schedule: phases of random faults from one seed, each healed, drained and checked; then the drills."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random

import asyncpg
import redis as redis_sync
from rich.console import Console

from tests.chaos import checker, faults, leaks
from tests.chaos.faults import Break
from tests.chaos.in_flight import hits, steps_of
from tests.chaos.outside_checker import check_outside, look_outside
from tests.chaos.party import SLOWEST_STEP
from tests.chaos.producers import LONGEST_PAUSE
from tests.chaos.report import Report, exposures
from tests.chaos.servers import wait_until
from tests.chaos.staged_jobs import stage_every_guest, stage_outside
from tests.chaos.world import World, world

MAX_VIOLATIONS = 200


@dataclass(frozen=True, slots=True)
class Phase:
    """Some minutes of faults on one set of servers."""

    name: str
    seconds: float
    faults: dict[Break, int]
    cuts: float = 0.0  # a second, beside the others
    pause: float = 0.7  # seconds between two faults, about
    rate: float = 30.0
    outside: float = 3.0  # jobs a second that work outside, beside those of the producers
    lease: float = 15.0
    drain: float = 150.0
    attempts: int = 5
    slowest_step: float = SLOWEST_STEP  # at the party
    longest_pause: float = LONGEST_PAUSE  # seconds between two effects of a producer's job


def run_phase(phase: Phase, seed: int, folder: Path, report: Report, out: Console) -> None:
    """Break things for as long as the phase lasts, then heal, drain, and ask what is true."""
    folder.mkdir()
    attempts, pause = str(phase.attempts), str(phase.longest_pause)
    with world(
        folder, seed, lease=phase.lease, rate=phase.rate, LEDGERQ_MAX_ATTEMPTS=attempts,
        CHAOS_LONGEST_PAUSE=pause,
    ) as made:  # fmt: skip
        made.party.slowest_step = phase.slowest_step
        stage_every_guest(made)
        stage_outside(made, seed, "first", int(phase.outside * 5), 0)
        made.producers.start()
        wait_until(lambda: made.producers.have_sent, "the producer sends nothing", 60)
        stage_outside(made, seed, "outside", int(phase.outside * phase.seconds), phase.seconds)
        made.party.wait_for("charge")  # so that the first faults meet a step
        until = time.monotonic() + phase.seconds
        with _cutting(made, phase.cuts, seed):
            while time.monotonic() < until:
                _break(made, faults.choose(made.random, phase.faults), report)
                made.producers.ensure()
                time.sleep(made.random.uniform(0.5, 1.5) * phase.pause)
        made.producers.kill()
        finish(made, report, phase.name, phase.drain, out)


def _break(made: World, fault: Break, report: Report) -> None:
    """Do it; a server that the harness itself does not reach is healed, and noted."""
    try:
        fault(made)
    except (redis_sync.RedisError, asyncpg.PostgresError, OSError, TimeoutError) as error:
        trouble = f"{fault.__name__}: {type(error).__name__}: {error}"
        report.notes.setdefault("harness_troubles", []).append(trouble)
        made.heal()


def finish(made: World, report: Report, name: str, drain: float, out: Console) -> None:
    """Heal, drain, stop the workers, check, and add to the report."""
    made.heal()
    waited = made.drain(drain)
    leftovers = _settled(made)
    made.fleet.stop()
    found = checker.look(made.postgresql)
    made.history.update()
    jobs = list(made.history.jobs.values())
    verdict = checker.check(jobs, found, made.destroyed)
    traces = look_outside(made.postgresql, made.party.calls)
    check_outside(jobs, found, traces, verdict)
    noted = sorted(made.faults, key=lambda fault: fault.at)
    violations = verdict.violations + leftovers + made.fleet.unexpected
    violations += leaks.told(made.folder / "logs") + leaks.blamed(found, made.fleet, noted, verdict)
    verdict.counts["starts refused"] += made.fleet.refused_starts
    verdict.counts.update(hits(noted, steps_of(traces, made.fleet)))
    verdict.counts["jobs sent"] += len(jobs)
    report.add(exposures(noted, jobs, found, made.claims), dict(verdict.counts))
    report.violations += [f"{name}: {each}" for each in violations[:MAX_VIOLATIONS]]
    report.notes.setdefault("drain_seconds", {})[name] = round(waited, 1)
    out.print(
        f"{name}: {len(noted)} faults, {len(jobs)} jobs, drained in {waited:.0f} s, "
        f"{len(violations)} violations",
        highlight=False,
    )


def _settled(made: World) -> list[str]:
    """What is left behind; given a moment, because an acknowledgement follows the commit."""
    deadline = time.monotonic() + made.lease + 10
    while True:
        with made.redis.client() as client:
            left = checker.check_leftovers(client, made.postgresql)
        left += leaks.connections(made) + leaks.children(made)
        if made.destroyed:  # who deletes the queue, but not all bodies, leaves some of them behind
            left = [each for each in left if "arq:job:" not in each]
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.5)


@contextmanager
def _cutting(made: World, rate: float, seed: int) -> Iterator[None]:
    """Cut connections beside the other faults; each that fires is one more."""
    ended = threading.Event()
    random = Random(seed + 1)

    def cut() -> None:
        while rate and not ended.wait(random.expovariate(rate)):
            faults.cut_some(made, random)

    thread = threading.Thread(target=cut, daemon=True, name="cuts")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        for hop in (made.to_redis, made.to_postgresql):
            for at, caller in hop.fired:
                made.note(f"cut_{hop.name}", at, frozenset({caller or "not known yet"}))
