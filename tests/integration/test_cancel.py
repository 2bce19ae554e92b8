"""Cancelling: from then on a job never runs, wherever it was; and one that has ended stays as it ended."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from arq.connections import ArqRedis
from sqlalchemy import URL

from db.database import open_database
from db.models import Project
from jobs.kinds import CreateProject, CreateTask
from ledgerq.admin.cancel import CancelAnswer, cancel
from ledgerq.broker import keys
from ledgerq.broker.connection import connect
from ledgerq.client import JobClient
from ledgerq.config import Config, WorkerConfig
from ledgerq.database.engine import Sessions
from ledgerq.database.settings import DatabaseConfig
from ledgerq.database.transaction import transaction
from ledgerq.errors import JobFailed, ResultExpired, StillRuns, Undecodable
from ledgerq.execution.delivery import Delivery
from ledgerq.execution.outcome import Buried, Completed, Duplicate, Outcome
from ledgerq.execution.retry import Policy
from ledgerq.staging import stage
from ledgerq.store import inbox
from ledgerq.store.tables import Action, AuditLog, JobState, OutboxMessage
from ledgerq.wire.envelope import Envelope, encode
from tests.support import count, delivery, eventually, process_one, rows, waiting_for_a_lock
from worker.app import app

LAUNCH = CreateProject(name="Launch")
QUEUE = "arq:queue"


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[ArqRedis]:
    client = connect(WorkerConfig(redis_url=redis_url))
    yield client
    await client.aclose(close_connection_pool=True)


@pytest.fixture
async def nowhere() -> AsyncIterator[ArqRedis]:
    """A Redis that does not answer."""
    client = connect(WorkerConfig(redis_url="redis://127.0.0.1:1"))
    yield client
    await client.aclose(close_connection_pool=True)


async def ask(
    redis: ArqRedis, sessions: Sessions, job_id: str = "job", **options: float
) -> CancelAnswer:
    said = {"actor": "me", "reason": "not wanted"}
    return await cancel(redis, sessions, QUEUE, job_id, **said, **options)  # type: ignore[arg-type]


async def run(sessions: Sessions, job_id: str = "job") -> Outcome:
    return await process_one(delivery(LAUNCH, job_id), app.registry(), sessions, Policy())


async def cancelled(sessions: Sessions, job_id: str = "job") -> bool:
    """The verdict, its entry in the log, and that a delivery finds it and does nothing."""
    entries = [e for e in await rows(sessions, AuditLog) if e.action == Action.CANCEL]
    (entry,) = entries
    assert (entry.entity_type, entry.entity_id, entry.job_id) == ("job", job_id, job_id)
    assert (entry.actor, entry.after) == ("me", {"reason": "not wanted"})
    again = await run(sessions, job_id)
    return again == Duplicate(JobState.CANCELLED) and await count(sessions, Project) == 0


async def left_on_redis(redis: ArqRedis) -> set[str]:
    return {key.decode() for key in await redis.keys("*")} - {keys.result_key("job")}


async def test_a_staged_job_is_cancelled(any_sessions: Sessions, redis: ArqRedis) -> None:
    """Its message goes in the same commit. Asked again, the answer is the same and nothing is written."""
    async with transaction(any_sessions) as session:
        await stage(session, LAUNCH, job_id="job")
    expected = CancelAnswer("job", JobState.CANCELLED, known=True, redis_reached=True)
    assert await ask(redis, any_sessions) == expected
    assert await count(any_sessions, OutboxMessage) == 0
    assert (await ask(redis, any_sessions)).state is JobState.CANCELLED
    assert await cancelled(any_sessions)
    async with transaction(any_sessions) as session:
        assert not (await stage(session, LAUNCH, job_id="job")).is_new


async def test_a_queued_job_is_taken_off_the_queue(
    any_sessions: Sessions, redis: ArqRedis, client: JobClient
) -> None:
    """Nothing is left of it on Redis but the answer to who waits for it."""
    job = await client.enqueue(LAUNCH, job_id="job")
    await redis.set(f"{keys.retry_key_prefix}job", 2)
    await redis.hset(keys.failures_key(QUEUE, "job"), "crashes", "1")  # type: ignore[misc]
    answer = await ask(redis, any_sessions)
    assert answer == CancelAnswer("job", JobState.CANCELLED, known=True, redis_reached=True)
    assert await left_on_redis(redis) == set()
    with pytest.raises(JobFailed, match="was cancelled"):
        await job.result(timeout=5)
    info = await job.as_arq_job.result_info()
    assert info
    assert (info.success, info.function, info.kwargs) == (
        False,
        "create_project",
        {"name": "Launch"},
    )
    assert 0 < await redis.ttl(keys.result_key("job")) <= 3600
    assert await cancelled(any_sessions)


async def test_no_result_is_kept_if_none_are(
    any_sessions: Sessions, redis: ArqRedis, client: JobClient
) -> None:
    """LEDGERQ_KEEP_RESULT=0 holds here too."""
    job = await client.enqueue(LAUNCH, job_id="job")
    await ask(redis, any_sessions, keep_result=0)
    with pytest.raises(ResultExpired):
        await job.result(timeout=5)


async def test_a_job_yet_to_come_is_cancelled(any_sessions: Sessions, redis: ArqRedis) -> None:
    """Nobody knows it, and the answer says so; should it come, it will not run."""
    answer = await ask(redis, any_sessions)
    assert answer == CancelAnswer("job", JobState.CANCELLED, known=False, redis_reached=True)
    assert await redis.keys("*") == []
    assert await cancelled(any_sessions)


async def test_a_job_that_has_ended_stays_as_it_is(any_sessions: Sessions, redis: ArqRedis) -> None:
    """Done is done and dead is dead: the answer says which, and nothing is written."""
    assert isinstance(await run(any_sessions, "done"), Completed)
    broken = delivery(CreateTask(title="x", project_id=99), "dead")
    assert isinstance(await process_one(broken, app.registry(), any_sessions, Policy()), Buried)
    for job_id, state in (("done", JobState.DONE), ("dead", JobState.DEAD)):
        assert (await ask(redis, any_sessions, job_id)).state is state
    assert Action.CANCEL not in {entry.action for entry in await rows(any_sessions, AuditLog)}
    assert await redis.keys("*") == []


@pytest.mark.parametrize("body", [b"{", b""])
async def test_an_illegible_job_is_cancelled(
    any_sessions: Sessions, redis: ArqRedis, body: bytes
) -> None:
    """By its id alone, also if its body is lost."""
    if body:
        await redis.set(keys.job_key("job"), body)
    await redis.zadd(QUEUE, {"job": 1})
    answer = await ask(redis, any_sessions)
    assert answer == CancelAnswer("job", JobState.CANCELLED, known=True, redis_reached=True)
    assert await left_on_redis(redis) == set()


async def test_an_id_that_no_job_has_is_refused(any_sessions: Sessions, redis: ArqRedis) -> None:
    """Before anything is written."""
    with pytest.raises(Undecodable, match="job_id"):
        await ask(redis, any_sessions, "a\nb")
    assert await redis.keys("*") == []


async def test_what_a_worker_has_is_left_to_it(any_sessions: Sessions, redis: ArqRedis) -> None:
    """Its claim is its own to end: it will find the job cancelled."""
    body = encode(Envelope("create_project", {"name": "Launch"}))
    await redis.set(keys.job_key("job"), body)
    await redis.zadd(QUEUE, {"job": 1})
    await redis.set(f"{keys.in_progress_key_prefix}job", b"token")
    assert (await ask(redis, any_sessions)).state is JobState.CANCELLED
    assert await redis.get(keys.job_key("job")) == body
    assert await redis.zscore(QUEUE, "job") == 1
    assert await redis.exists(keys.result_key("job"), keys.cancel_key(QUEUE)) == 0


async def test_a_job_is_cancelled_while_redis_is_away(
    any_sessions: Sessions, nowhere: ArqRedis
) -> None:
    """The database is what counts; the answer says that Redis was not told."""
    async with transaction(any_sessions) as session:
        await stage(session, LAUNCH, job_id="job")
    answer = await ask(nowhere, any_sessions)
    assert answer == CancelAnswer("job", JobState.CANCELLED, known=True, redis_reached=False)
    assert await cancelled(any_sessions)


async def test_a_running_job_that_is_rolled_back_is_cancelled(
    sessions: Sessions, redis: ArqRedis
) -> None:
    """Its worker is asked on Redis for as long as the job holds its row in the inbox, and no longer."""
    before = int(time.time()) * 1000
    with pytest.raises(ZeroDivisionError):
        async with transaction(sessions) as running:
            await inbox.insert_receipt(running, "job", "create_project", b"")
            asked = asyncio.create_task(ask(redis, sessions))
            await eventually(
                lambda: waiting_for_a_lock(sessions, "INSERT INTO ledgerq.processed_job")
            )
            ((job_id, score),) = await redis.zrange(keys.cancel_key(QUEUE), 0, -1, withscores=True)
            assert (job_id, asked.done()) == (b"job", False)
            assert before - 2000 <= score <= time.time() * 1000 + 2000
            raise ZeroDivisionError
    assert (await asked).state is JobState.CANCELLED
    assert await cancelled(sessions)
    assert await redis.keys("*") == []


async def test_a_running_job_that_commits_is_done(sessions: Sessions, redis: ArqRedis) -> None:
    """Cancelling came too late, and says so."""
    async with transaction(sessions) as running:
        await inbox.insert_receipt(running, "job", "create_project", b"")
        asked = asyncio.create_task(ask(redis, sessions))
        await eventually(lambda: waiting_for_a_lock(sessions, "INSERT INTO ledgerq.processed_job"))
    assert (await asked).state is JobState.DONE
    assert await redis.keys("*") == []
    assert await count(sessions, AuditLog) == 0


async def test_a_wait_for_a_lock_is_begun_again_until_the_time_is_over(
    postgresql_url: URL, redis: ArqRedis
) -> None:
    """LEDGERQ_DB_LOCK_TIMEOUT is shorter than a worker may need to roll back."""
    async with open_database(DatabaseConfig(url=postgresql_url, lock_timeout=0.1)) as impatient:
        sessions = impatient.sessions
        async with transaction(sessions) as running:
            await inbox.insert_receipt(running, "job", "create_project", b"")
            with pytest.raises(StillRuns, match="job job still runs after"):
                await ask(redis, sessions, timeout=0.5)
            assert await redis.keys("*") == []
            asked = asyncio.create_task(ask(redis, sessions))
            await asyncio.wait({asked}, timeout=0.5)
            assert not asked.done()
        assert (await asked).state is JobState.DONE


async def test_a_wait_ends_in_its_time_and_leaves_nothing(
    sessions: Sessions, redis: ArqRedis
) -> None:
    """In the middle of the wait for the lock; the job goes on and is done."""
    async with transaction(sessions) as running:
        await inbox.insert_receipt(running, "job", "create_project", b"")
        with pytest.raises(StillRuns):
            await ask(redis, sessions, timeout=0.3)
        assert not await waiting_for_a_lock(sessions, "INSERT INTO ledgerq.processed_job")
    assert await redis.keys("*") == []
    assert (await ask(redis, sessions)).state is JobState.DONE


async def test_a_cancelled_job_that_is_delivered_settles_its_message(
    any_sessions: Sessions, config: Config, nowhere: ArqRedis
) -> None:
    """Redis had it when it was cancelled without Redis: the delivery does nothing."""
    await ask(nowhere, any_sessions)
    body = encode(replace(Envelope("create_project", {"name": "x"}), staged=True))
    outcome = await process_one(Delivery("job", 1, body), app.registry(), any_sessions, Policy())
    assert outcome == Duplicate(JobState.CANCELLED)
    assert await count(any_sessions, Project) == 0
