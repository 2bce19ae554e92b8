"""Two services, two queues, two databases, one Redis: the drill for what a queue may do to another one's jobs."""

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ledgerq.broker.scripts
from ledgerq.broker.connection import connect
from ledgerq.client import JobClient
from ledgerq.config import WorkerConfig
from ledgerq.errors import LedgerqError
from tests.chaos import checker
from tests.chaos.bugs import BUGS
from tests.chaos.bugs_around import replace
from tests.chaos.fleet import Fleet, fleet
from tests.chaos.history import Answer, Sent
from tests.chaos.kinds import ChaosEffects
from tests.chaos.servers import PostgreSQL
from tests.chaos.world import World, world

OTHER = "billing"
QUEUES = {PostgreSQL.DATABASE: "arq:queue", OTHER: "billing"}  # database → queue
SECONDS = 15.0


def two_queues(bug: str, folder: Path) -> list[str]:
    """Both services enqueue a job of one id: the second is refused, and each job is done where it belongs."""
    with world(folder, 0, lease=1.5, rate=1, workers=0, CHAOS_BUG=bug) as made:
        made.postgresql.copy_database(OTHER)
        sent = _enqueue(made, bug, *QUEUES)
        with fleet(folder / "billing-logs", _environment(made, OTHER), 1) as other:
            made.fleet.add()
            return _verdict(made, other, sent)


def stray_id(bug: str, folder: Path) -> list[str]:
    """An id stands on a queue whose body is another queue's, as any client may leave it there."""
    with world(folder, 0, lease=1.5, rate=1, workers=0, CHAOS_BUG=bug) as made:
        made.postgresql.copy_database(OTHER)
        sent = _enqueue(made, bug, PostgreSQL.DATABASE)
        with made.redis.client() as client:
            client.zadd(QUEUES[OTHER], {"the-job": 1})
        sent[OTHER] = Sent("the-job", "client", ChaosEffects.kind, 0, poison=False, invoked=0)
        with fleet(folder / "billing-logs", _environment(made, OTHER), 1) as other:
            deadline = time.monotonic() + 3
            while time.monotonic() < deadline and not _state(made, OTHER):
                time.sleep(0.1)
            made.fleet.add()
            return _verdict(made, other, sent)


def _environment(made: World, database: str) -> dict[str, str]:
    url = made.fleet.environment["DATABASE_URL"].replace(
        f"/{PostgreSQL.DATABASE}?", f"/{database}?"
    )
    return {**made.fleet.environment, "DATABASE_URL": url, "LEDGERQ_QUEUE": QUEUES[database]}


def _enqueue(made: World, bug: str, *databases: str) -> dict[str, Sent]:
    """A job of one id for each of these, by clients that have the bug too; what they were answered."""
    text_of = ledgerq.broker.scripts._text
    try:
        if bug:
            BUGS[bug]()
        return asyncio.run(_enqueued(made, databases))
    finally:
        replace(ledgerq.broker.scripts, _text=text_of)


async def _enqueued(made: World, databases: Sequence[str]) -> dict[str, Sent]:
    sent = {}
    for effects, database in enumerate(databases, start=2):
        config: Any = {
            "redis_url": made.fleet.environment["REDIS_URL"], "queue": QUEUES[database],
        }  # fmt: skip
        redis = connect(WorkerConfig(**config))
        payload = ChaosEffects(project_id=made.project, effects=effects)
        answer: Answer = "ok"
        try:
            await JobClient(redis).enqueue(payload, job_id="the-job", actor="chaos")
        except LedgerqError:
            answer = "fail"
        await redis.aclose(close_connection_pool=True)
        sent[database] = Sent(
            "the-job", "client", payload.kind, effects, poison=False, invoked=0, answer=answer
        )
    return sent


def _verdict(made: World, other: Fleet, sent: dict[str, Sent]) -> list[str]:
    """Nothing breaks here: what was accepted is done, each in its own database, and nothing else is."""
    deadline = time.monotonic() + SECONDS
    accepted = {name for name, job in sent.items() if job.answer == "ok"}
    while time.monotonic() < deadline and not all(_state(made, name) for name in accepted):
        time.sleep(0.1)
    time.sleep(0.5)  # for what is done beside it
    made.fleet.stop()
    other.stop()
    wrong = []
    for name, job in sent.items():
        found = checker.look(made.postgresql, name)
        wrong += [f"{QUEUES[name]}: {each}" for each in checker.check([job], found).violations]
        if name in accepted and found.state.get("the-job") != "done":
            wrong.append(f"{QUEUES[name]}: lost: the-job is {found.state.get('the-job')}")
    return wrong


def _state(made: World, database: str) -> object:
    return checker.look(made.postgresql, database).state.get("the-job")
