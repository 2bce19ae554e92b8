"""Status: where the jobs are, and where one of them is; the database's verdict before Redis' word."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from arq.connections import ArqRedis
from pydantic import SecretStr
from sqlalchemy import URL

from jobs.kinds import CreateProject, CreateTask
from ledgerq.admin.job_status import JobStatus, job_status
from ledgerq.admin.status import Ledger, Queue, Status, status
from ledgerq.broker import keys, presence
from ledgerq.broker.connection import connect
from ledgerq.client import JobClient
from ledgerq.config import Config, WorkerConfig
from ledgerq.database.engine import Sessions
from ledgerq.database.settings import DatabaseConfig
from ledgerq.database.transaction import transaction
from ledgerq.execution import interventions
from ledgerq.execution.retry import Policy
from ledgerq.staging import stage
from ledgerq.store.tables import JobState, OutboxMessage
from tests.support import delivery, process_one, rows
from worker.app import app

LAUNCH = CreateProject(name="Launch")
QUEUE = "arq:queue"
HOUR = timedelta(hours=1)
SINCE = datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC)


@pytest.fixture
def either(any_url: URL, redis_url: str) -> Config:
    return Config(WorkerConfig(redis_url=redis_url), DatabaseConfig(url=any_url))


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[ArqRedis]:
    client = connect(WorkerConfig(redis_url=redis_url))
    yield client
    await client.aclose(close_connection_pool=True)


async def run(sessions: Sessions, payload: Any = LAUNCH, job_id: str = "job") -> None:
    await process_one(delivery(payload, job_id), app.registry(), sessions, Policy())


async def claim(redis: ArqRedis, job_id: str, *, held: bool = True) -> None:
    """As a worker of ours notes what it runs."""
    entry = f"token|{int(SINCE.timestamp() * 1000)}|2|host:1"
    await redis.hset(keys.running_key(QUEUE), job_id, entry)  # type: ignore[misc]
    if held:
        await redis.set(f"{keys.in_progress_key_prefix}{job_id}", "token")
        await redis.zadd(QUEUE, {job_id: (datetime.now(UTC) + HOUR).timestamp() * 1000}, xx=True)


def away(config: Config) -> Config:
    """The same with a Redis that does not answer."""
    nowhere = config.worker.model_copy(update={"redis_url": SecretStr("redis://127.0.0.1:1")})
    return Config(nowhere, config.database)


async def test_nothing_is_there_yet(either: Config) -> None:
    """Zeros, not errors."""
    empty = Queue(queued=0, deferred=0, retrying=0, running=[], workers=[])
    assert await status(either) == Status(empty, Ledger(0, None, 0, 0, 0, 0))
    assert await job_status(either, "job") == JobStatus("job", attempts=[], audit=[])


async def test_every_job_is_counted_where_it_is(
    either: Config, any_sessions: Sessions, redis: ArqRedis, client: JobClient
) -> None:
    """Due, held back, tried before, running, left by a dead worker; staged, done, cancelled, dead."""
    for job_id in ("due", "runs", "lost"):
        await client.enqueue(LAUNCH, job_id=job_id)
    for job_id in ("later", "again"):
        await client.enqueue(LAUNCH, job_id=job_id, delay=HOUR)
    await redis.set(f"{keys.retry_key_prefix}again", 1)
    await claim(redis, "runs")
    await claim(redis, "lost", held=False)
    await presence.beat(redis, redis.default_queue_name, "host:1", lease=15)
    await run(any_sessions)
    for job_id in ("dead", "discarded"):
        await run(any_sessions, CreateTask(title="x", project_id=99), job_id)
    async with transaction(any_sessions) as session:
        await stage(session, LAUNCH, job_id="staged")
        await interventions.discard(session, ["discarded"], actor="me", reason="")
        await interventions.cancel(session, "cancelled", actor="me", reason="")
    found = await status(either)
    assert found.queue
    assert (found.queue.queued, found.queue.deferred, found.queue.retrying) == (2, 2, 1)
    assert [(r.job_id, r.held) for r in found.queue.running] == [("lost", False), ("runs", True)]
    runs = found.queue.running[1]
    assert (runs.worker, runs.since, runs.attempt) == ("host:1", SINCE, 2)
    assert found.queue.workers == ["host:1"]
    (message,) = await rows(any_sessions, OutboxMessage)
    assert found.ledger == Ledger(1, message.created_at, done=1, cancelled=1, dead=2, letters=1)


async def test_without_redis_the_database_still_answers(
    either: Config, any_sessions: Sessions
) -> None:
    """With what it knows, and what is wrong."""
    await run(any_sessions)
    found = await status(away(either))
    assert found.queue is None
    assert found.ledger.done == 1
    assert "REDIS_URL: no answer from 127.0.0.1:1" in str(found.problem)
    one = await job_status(away(either), "job")
    assert one.state == "done"
    assert "REDIS_URL" in str(one.problem)


async def test_a_job_on_its_way(
    either: Config, any_sessions: Sessions, redis: ArqRedis, client: JobClient
) -> None:
    """Staged, queued, running, left by a dead worker, held back: each is said, with what is known of it."""
    async with transaction(any_sessions) as session:
        await stage(session, LAUNCH, job_id="job")
    staged = await job_status(either, "job")
    assert (staged.state, staged.kind) == ("staged", "create_project")
    assert staged.staged_at
    assert staged.due_at
    await client.enqueue(LAUNCH, job_id="job")
    queued = await job_status(either, "job")
    assert (queued.state, queued.attempt, queued.attempts) == ("queued", None, [])
    assert queued.enqueued_at
    await claim(redis, "job")
    running = await job_status(either, "job")
    assert (running.state, running.worker, running.running_since, running.attempt) == (
        "running", "host:1", SINCE, 2,
    )  # fmt: skip
    await redis.delete(f"{keys.in_progress_key_prefix}job")
    lost = await job_status(either, "job")
    assert (lost.state, lost.attempt) == ("retrying", 2)
    await client.enqueue(LAUNCH, job_id="later", delay=HOUR)
    later = await job_status(either, "later")
    assert later.state == "deferred"
    assert later.due_at
    assert later.due_at > datetime.now(UTC) + HOUR / 2


async def test_what_went_wrong_so_far_is_shown(
    either: Config, redis: ArqRedis, client: JobClient
) -> None:
    """Attempts, crashes, interruptions and the log; a line that is no JSON is shown as it is."""
    await client.enqueue(LAUNCH, job_id="job", delay=HOUR)
    await redis.set(f"{keys.retry_key_prefix}job", 3)
    trouble = {"crashes": "1", "interruptions": "2", "log": '{"attempt":1,"error":"E: x"}\n[1]\n'}
    await redis.hset(keys.failures_key(QUEUE, "job"), mapping=trouble)  # type: ignore[misc]
    found = await job_status(either, "job")
    assert (found.state, found.attempt, found.crashes, found.interruptions) == ("retrying", 3, 1, 2)
    assert found.attempts == [{"attempt": 1, "error": "E: x"}, {"error": "[1]"}]


async def test_the_database_has_the_last_word(
    either: Config, any_sessions: Sessions, client: JobClient
) -> None:
    """A job that has ended is not queued, whatever Redis still has of it."""
    for job_id in ("job", "dead", "cancelled"):
        await client.enqueue(LAUNCH, job_id=job_id)
    await run(any_sessions)
    await run(any_sessions, CreateTask(title="x", project_id=99), "dead")
    async with transaction(any_sessions) as session:
        await interventions.cancel(session, "cancelled", actor="me", reason="")
    done = await job_status(either, "job")
    assert (done.state, done.attempt, done.kind) == ("done", 1, "create_project")
    assert isinstance(done.result, int)
    assert [(e.actor, e.action, e.entity) for e in done.audit] == [
        ("tester", "create", f"project {done.result}")
    ]
    dead = await job_status(either, "dead")
    assert (dead.state, dead.reason, dead.attempt) == ("dead", "refused", 1)
    assert "project_id" in str(dead.error)
    assert len(dead.attempts) == 1
    over = await job_status(either, "cancelled")
    assert (over.state, over.audit[0].action, over.audit[0].entity) == (
        "cancelled",
        "cancel",
        "job cancelled",
    )
    assert over.ended_at
    assert JobState(over.state) is JobState.CANCELLED


@pytest.mark.parametrize("entry", ["", "|", "token|x|y|z", "token|99999999999999999999|1|w|w"])
async def test_a_worker_entry_that_nobody_understands_is_shown(
    either: Config, redis: ArqRedis, client: JobClient, entry: str
) -> None:
    """A status that falls over an odd key is no help."""
    await client.enqueue(LAUNCH, job_id="job")
    await claim(redis, "job")
    await redis.hset(keys.running_key(QUEUE), "job", entry)  # type: ignore[misc]
    await redis.hset(keys.running_key(QUEUE), b"\xff", entry)  # type: ignore[arg-type,misc]
    found = await status(either)
    assert found.queue
    assert [each.job_id for each in found.queue.running] == ["job", "\\xff"]
    assert (await job_status(either, "job")).state == "running"
