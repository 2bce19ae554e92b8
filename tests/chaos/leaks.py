"""What guests may leave behind: connections, children, what a neighbour sees, and a crash that is not its job's."""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ledgerq.config import Config, WorkerConfig
from ledgerq.database.settings import DatabaseConfig
from tests.chaos.checker import Found, Verdict
from tests.chaos.fleet import Fleet
from tests.chaos.world import Fault, World

DIED = "the worker died"  # as the engine notes it
CRASHES = 3  # after so many a job is given up

_CONNECTIONS = """
SELECT pid, application_name AS name, state,
       coalesce(now() - xact_start > interval '2 s' AND state LIKE 'idle in transaction%', false) AS idle
FROM pg_stat_activity WHERE application_name LIKE 'ledgerq:%'
"""


def connections(made: World) -> list[str]:
    """After the drain no worker holds more than its pool has, nor a transaction in which nothing is done."""
    rows = made.postgresql.fetch(_CONNECTIONS)
    wrong = [
        f"leaked: backend {row['pid']} of {row['name']} is {row['state']}"
        for row in rows
        if row["idle"]
    ]
    for name in {row["name"] for row in rows}:
        held = sum(row["name"] == name for row in rows)
        if held > (most := pool_size(made)):
            wrong.append(f"leaked: {name} holds {held} connections of {most}")
    return wrong


def pool_size(made: World) -> int:
    """Of each worker."""
    url = made.fleet.environment["DATABASE_URL"]
    redis_url = made.fleet.environment["REDIS_URL"]
    config = Config(WorkerConfig(redis_url=redis_url), DatabaseConfig(url=url))
    return config.for_worker().database.pool_size


def children(made: World) -> list[str]:
    """Processes with the settings of this world's workers that are none of them."""
    mark = f"REDIS_URL={made.fleet.environment['REDIS_URL']}\0".encode()
    workers = {member.pid for member in made.fleet.living()}
    sessions = workers | {member.pid for member in made.fleet.gone}
    return [
        f"leaked: process {pid}, a child of a worker: {what}"
        for pid, what in _processes(mark, sessions)
        if pid not in workers
    ]


def _processes(mark: bytes, sessions: set[int]) -> Iterator[tuple[int, str]]:
    """Those whose environment holds the mark, or of these sessions; the dead that nobody has waited for have none.

    The environment of a forked process is there the one with which the first of its line was started.
    """
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            with suppress(OSError):
                environment = (folder / "environ").read_bytes()
                if environment and (mark in environment or os.getsid(int(folder.name)) in sessions):
                    what = (folder / "cmdline").read_bytes().replace(b"\0", b" ")
                    yield int(folder.name), what.decode(errors="replace")


def told(logs: Path) -> list[str]:
    """What guests have seen that they must not see."""
    return [
        f"leaked: {event['what']}, seen by job {event['job_id']}"
        for event in events(logs, '"chaos.leak"')
    ]


def events(logs: Path, mark: str) -> Iterator[dict[str, Any]]:
    """The log lines that hold the mark."""
    for path in sorted(logs.glob("*.log")):
        for line in path.read_text(errors="replace").splitlines():
            if mark in line and line.startswith("{"):
                yield json.loads(line)


def blamed(found: Found, fleet: Fleet, faults: Sequence[Fault], verdict: Verdict) -> list[str]:
    """A job is given up for losing its workers only if we took each of them, by a kill or a long pause."""
    taken = {member.name for member in fleet.gone if member.told == "SIGKILL"}
    taken |= {name for fault in faults if fault.name == "pause_worker" for name in fault.victims}
    wrong = []
    for job_id, reason in found.letters.items():
        if reason != "worker_lost":
            continue
        lost = [each["worker"] for each in found.attempts[job_id] if DIED in each["error"]]
        innocent = [name for name in lost if name not in taken]
        if len(lost) < CRASHES or innocent:
            wrong.append(f"blamed: job {job_id} lost {lost}, of which we did not take {innocent}")
        else:
            verdict.counts["worker_lost by three kills"] += 1
    return wrong
