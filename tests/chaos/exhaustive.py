"""Not random but complete: a kill at every send of a worker, and a cancellation at every await of a job."""

import asyncio
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from rich.console import Console

import ledgerq.execution.process
from db.database import open_database
from db.schema import migrate
from ledgerq.database.engine import Database
from ledgerq.database.settings import DatabaseConfig
from ledgerq.execution.delivery import Delivery
from ledgerq.execution.outcome import Outcome, Retry
from ledgerq.execution.retry import Policy
from tests.chaos import checker
from tests.chaos.effects import Effects
from tests.chaos.exhaustive_outside import hit_everywhere, stage, violated
from tests.chaos.fleet import lease_setting, settings
from tests.chaos.history import Sent, Source
from tests.chaos.kinds import ChaosEffects, registry
from tests.chaos.outside_kinds import ChaosOutsideOnce, expected_outside
from tests.chaos.party import Call, party
from tests.chaos.report import Report
from tests.chaos.servers import PostgreSQL, Redis, servers
from tests.chaos.start import ROOT
from tests.chaos.world import new_project_at
from tests.support import NeverReached, cancelled_at

MAX_POINTS = 300
SENDS = 150
Prepared = tuple[Redis, PostgreSQL, int]  # and a project
SOURCES: tuple[Source, ...] = ("client", "sql")


def kinds(project: int) -> dict[str, tuple[dict[str, Any], int]]:
    """What is cancelled at every await: the fields of each kind, and how many tasks it leaves."""
    task = {"title": "a task", "project_id": project}
    return {
        "create_task": (task, 1),
        "bulk_create_tasks": ({"tasks": [task] * 3}, 3),
        "chaos_effects": ({"project_id": project, "effects": 2}, 2),
        "chaos_conflict": (
            {"project_id": project, "effects": 2, "sqlstate": "40001", "times": 1}, 2,
        ),
        "chaos_guest": ({"project_id": project, "effects": 2, "what": "COMMIT, swallowed"}, 2),
    }  # fmt: skip


def exhaustive(folder: Path, report: Report, out: Console) -> None:
    """All of them; each point is an exposure of its own."""
    folder.mkdir()
    with _prepared(folder) as prepared:
        _cancel_everywhere(prepared[1], prepared[2], report, out)
        payload = ChaosEffects(project_id=prepared[2], effects=2)
        for source in SOURCES:
            kill_everywhere(prepared, Sends(source, source, payload), report, out)
        exhaustive_outside(prepared, report, out)


def exhaustive_outside(prepared: Prepared, report: Report, out: Console) -> None:
    """A job that works outside is hit at every await, and its worker is killed at every send."""
    with party(Random(0)) as other:
        other.answer_at_once()
        payload = ChaosOutsideOnce(project_id=prepared[2], effects=2, url=other.url)
        hit_everywhere(prepared[1], payload, other.calls, report, out)
        kill_everywhere(prepared, Sends("outside", "sql", payload, other.calls), report, out)


@contextmanager
def _prepared(folder: Path) -> Iterator[Prepared]:
    with servers(folder) as (redis, postgresql):
        migrate(DatabaseConfig(url=postgresql.url()))
        postgresql.execute(checker.SETUP)
        yield redis, postgresql, new_project_at(postgresql.url())


def _cancel_everywhere(postgresql: PostgreSQL, project: int, report: Report, out: Console) -> None:
    """Each job is cancelled at one of its awaits and delivered again, until it is acknowledged."""
    postgresql.copy_database("cancelled")
    sent: list[Sent] = []
    for kind, (fields, effects) in kinds(project).items():
        for source in SOURCES:
            for step in range(1, MAX_POINTS):
                job = Sent(
                    f"{kind}-{source}-{step}",
                    source,
                    kind,
                    effects,
                    poison=False,
                    invoked=0,
                    answer="ok",
                )
                sent.append(job)
                if source == "sql":
                    stage(postgresql, "cancelled", job, fields)
                if not asyncio.run(_cancelled(postgresql.url("cancelled"), job, fields, step)):
                    break
    violations = checker.check(sent, checker.look(postgresql, "cancelled")).violations
    report.violations += [f"cancelled at an await: {each}" for each in violations]
    report.notes["cancelled at every await"] = len(sent)
    out.print(
        f"a cancellation at every await: {len(sent)} points, {len(violations)} violations",
        highlight=False,
    )


async def _cancelled(url: str, job: Sent, fields: dict[str, Any], step: int) -> bool:
    """False if the job was over before its `step`-th await."""
    async with open_database(DatabaseConfig(url=url, pool_size=2)) as database:
        try:
            work = asyncio.ensure_future(cancelled_at(step, _process(database, job, fields)))
            await asyncio.wait({work})
            outcome = None if work.cancelled() else work.result()
        except NeverReached:
            return False
        while outcome is None or isinstance(outcome, Retry):
            outcome = await _process(database, job, fields)
        return True


async def _process(database: Database, job: Sent, fields: dict[str, Any]) -> Outcome:
    content = {**fields, "_staged": "1"} if job.in_database else fields
    body = json.dumps({"f": job.kind, "k": content, "a": [], "t": None, "et": 1}).encode()
    delivery = Delivery(job.job_id, 1, body)
    [outcome] = await ledgerq.execution.process.process(
        [delivery], registry(), database.sessions, Policy()
    )
    return outcome


@dataclass(frozen=True, slots=True)
class Sends:
    """What a worker runs that is killed at each of its sends."""

    name: str
    source: Source
    payload: Effects
    calls: Sequence[Call] = ()  # of the party


def kill_everywhere(servers: Prepared, sends: Sends, report: Report, out: Console) -> None:
    """SIGKILL at the n-th send of a worker that runs one job, for n = 1, 2, … until it lives."""
    if shutil.which("strace") is None:
        out.print(f"a kill at every send, {sends.name}: skipped: no strace")
        return
    points = 0
    violations: list[str] = []
    with ThreadPoolExecutor(2) as pool:
        for first in range(1, SENDS, 2):
            pair = [pool.submit(_kill_at, servers, sends, number) for number in (first, first + 1)]
            results = [each.result() for each in pair]
            points += sum(killed for killed, _ in results)
            violations += [each for _, found in results for each in found]
            if not all(killed for killed, _ in results):
                break
    report.violations += [f"killed at a send: {each}" for each in violations]
    report.notes.setdefault("killed at every send", {})[sends.name] = points
    out.print(
        f"a kill at every send, {sends.name}: {points} points, {len(violations)} violations",
        highlight=False,
    )


def _kill_at(servers: Prepared, sends: Sends, number: int) -> tuple[bool, list[str]]:
    """True if there was such a send, and what is wrong after a clean worker has been."""
    redis, postgresql, _ = servers
    name = f"sends_{sends.name}_{number}"
    postgresql.copy_database(name)
    payload = sends.payload
    job = Sent(
        name, sends.source, payload.kind, payload.effects, poison=False, invoked=0, answer="ok",
        **expected_outside(payload),
    )  # fmt: skip
    fields = payload.model_dump(mode="json")
    if sends.source == "sql":
        stage(postgresql, name, job, fields)
    else:
        _enqueue(redis, name, payload.kind, fields)
    environment = settings(
        0, redis.port, LEDGERQ_QUEUE=name, CHAOS_BURST="1", **lease_setting(1),
        DATABASE_URL=postgresql.url(name),
    )  # fmt: skip
    killed = _worker(environment, at=number) != 0
    deadline = time.monotonic() + 60
    while checker.look(postgresql, name).state.get(name) is None and time.monotonic() < deadline:
        _worker(environment)
    if sends.source == "sql" and checker.look(postgresql, name).outbox:
        _worker(environment)
    calls = [call for call in sends.calls if call.job_id == name]
    return killed, violated(postgresql, name, calls, [job])


def _enqueue(redis: Redis, name: str, kind: str, fields: dict[str, Any]) -> None:
    body = json.dumps({"f": kind, "k": fields, "a": [], "t": None, "et": 1})
    with redis.client() as client:
        client.set(f"arq:job:{name}", body)
        client.zadd(name, {name: 1})


def _worker(environment: dict[str, str], at: int = 0) -> int:
    """A worker that ends when its queue is empty; under strace it is killed at that send."""
    inject = f"inject=sendto,sendmsg:signal=SIGKILL:when={at}"
    strace = (
        "strace",
        "-f",
        "-qq",
        "-o",
        "/dev/null",
        "-e",
        "trace=sendto,sendmsg",
        "-e",
        inject,
    )
    command = (*(strace if at else ()), sys.executable, "-m", "tests.chaos.worker")
    ended = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, check=False, timeout=180
    )
    return ended.returncode
