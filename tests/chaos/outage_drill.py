"""Outages of Redis that are longer than a lease, with jobs under way: no worker died, so no job is blamed for a death."""

import signal
import time
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path

from rich.console import Console

from ledgerq.broker.keys import FAILURES
from tests.chaos import checker
from tests.chaos.kinds import ChaosEffects
from tests.chaos.report import Bar, Report
from tests.chaos.run import finish
from tests.chaos.servers import wait_until
from tests.chaos.staged_jobs import stage_jobs
from tests.chaos.world import World, claims, world

LEASE = 3.0  # seconds
JOBS = 25
LASTS = 9.5  # seconds that each job takes; a transaction may be silent for 10
AWAY = (1.1, 1.5)  # leases


def outages(seed: int, folder: Path, report: Report, out: Console) -> None:
    """When Redis answers again, all leases have run out and all workers live: no job is blamed or changes hands."""
    folder.mkdir()
    outlived = 0
    for number, (away, leases) in enumerate(product(WAYS, AWAY)):
        name = f"outages: {away.__name__} for {leases} leases"
        with world(folder / str(number), seed + number, lease=LEASE, rate=1) as made:
            found = _meet(made, away, leases * LEASE)
            outlived += bool(_claimed(made))
            finish(made, report, name, 60, out)
            report.violations += [f"{name}: {each}" for each in found]
            jobs = made.history.jobs.values()
            report.violations += checker.check_starts(made.folder / "logs", jobs)
    wanted = len(AWAY) * len(WAYS)
    report.bars.append(
        Bar("long outages of Redis that jobs outlived", outlived, wanted, higher=True)
    )


def redis_away(bug: str, folder: Path) -> list[str]:
    """The first outage after which a job is blamed; for a seeded bug."""
    for away in WAYS:
        with world(folder / away.__name__, 0, lease=LEASE, rate=1, CHAOS_BUG=bug) as made:
            if found := _meet(made, away, AWAY[0] * LEASE):
                return found
    return []


def _meet(made: World, away: "Away", seconds: float) -> list[str]:
    """Take Redis away while each worker has jobs; which jobs have a crash counted then."""
    payload = ChaosEffects(project_id=made.project, pause=LASTS)
    stage_jobs(made, {f"job-{n}": payload for n in range(JOBS)}, 1)  # no worker takes all
    wait_until(partial(_all_are_claimed, made), "not all jobs are claimed")
    with made.fault(away.__name__):
        away(made, seconds)
    return [f"blamed: {each} has a crash counted" for each in sorted(_blamed(made, LEASE))]


def paused(made: World, seconds: float) -> None:
    """Redis stands still: connections stay, answers do not come."""
    made.redis.signal(signal.SIGSTOP)
    time.sleep(seconds)
    made.redis.signal(signal.SIGCONT)


def killed(made: World, seconds: float) -> None:
    """Redis is killed, and started again with its data."""
    made.redis.kill()
    time.sleep(seconds)
    made.redis.start()


def cut_off(made: World, seconds: float) -> None:
    """Redis goes on, but no worker reaches it."""
    made.to_redis.refuse()
    time.sleep(seconds)
    made.to_redis.resume()


Away = Callable[[World, float], None]
WAYS: tuple[Away, ...] = (paused, killed, cut_off)


def _claimed(made: World) -> set[str]:
    with made.redis.client() as client:
        return set(claims(client))


def _all_are_claimed(made: World) -> bool:
    return len(_claimed(made)) == JOBS


def _blamed(made: World, seconds: float) -> set[str]:
    """The keys of jobs that have a crash counted, at any time in these seconds."""
    found, until = set[str](), time.monotonic() + seconds
    with made.redis.client() as client:
        while time.monotonic() < until:
            for key in client.scan_iter(f"{FAILURES}*", count=1000):
                if client.hexists(key, "crashes") or client.hexists(key, "spared"):
                    found.add(key.decode())
            time.sleep(0.05)
    return found
