"""Defects that were found in the delivery of jobs, each kept from coming back."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from alembic import command
from arq.connections import ArqRedis
from sqlalchemy import text
from sqlalchemy.engine import URL

from db.database import open_database
from db.inputs import NewTask
from db.models import Project, Task
from db.schema import alembic_config, migrate
from jobs.kinds import BulkCreateTasks, CreateProject, CreateTask
from ledgerq.broker.claims import Broker, LeaseSettings
from ledgerq.broker.connection import connect
from ledgerq.broker.keys import exclusive_slot_key, failures_key
from ledgerq.broker.relay import Relay
from ledgerq.client import JobClient
from ledgerq.config import Config
from ledgerq.database.engine import Sessions
from ledgerq.database.settings import DatabaseConfig
from ledgerq.database.transaction import transaction
from ledgerq.errors import Undecodable
from ledgerq.execution import interventions
from ledgerq.execution.outcome import Buried, Completed, Duplicate
from ledgerq.execution.process import process
from ledgerq.execution.registry import Registry
from ledgerq.execution.retry import Policy
from ledgerq.job import JobContext, Kind
from ledgerq.staging import stage, stage_many
from ledgerq.store import inbox
from ledgerq.store.tables import DeadLetter, JobState, OutboxMessage, ProcessedJob
from ledgerq.wire.payload import Payload
from ledgerq.wire.request import Request, Unique
from tests.support import (
    count,
    delivery,
    done,
    drain,
    eventually,
    new_project,
    our_worker,
    process_one,
    rows,
)
from worker.app import app

LAUNCH = CreateProject(name="Launch")
PAST_THE_DOOR = text(  # enqueue_job refuses such; somebody's own SQL, or an older version, may not
    "INSERT INTO ledgerq.outbox_message (kind, payload, job_id, ordering_key, actor) "
    "VALUES (:kind, CAST(:payload AS jsonb), :job_id, :key, 'sql')"
)


class Odd(Payload, kind="odd"):
    """A job with a number, which fails in an odd way."""

    x: float = 0


async def burst(config: Config, registry: Registry | None = None) -> None:
    known = registry or app.registry()
    await drain(our_worker(config, known, burst=True, handle_signals=False))


async def test_an_error_that_is_no_text_keeps_no_other_job_from_ending(
    config: Config, client: JobClient, sessions: Sessions
) -> None:
    """Half a character in an error's message, as of a file whose name is not UTF-8."""

    async def fail(context: JobContext, odd: Odd) -> None:
        raise RuntimeError("cannot open '\udcff.txt'")

    registry = Registry([*app.registry(), Kind(Odd, fail)])
    worker = our_worker(config, registry, handle_signals=False)
    running = asyncio.create_task(worker.main())
    await client.enqueue(Odd(), job_id="poison")
    after = await client.enqueue(LAUNCH)
    assert await after.result(timeout=10)

    async def buried() -> int:
        return await count(sessions, DeadLetter)

    await eventually(buried, seconds=40)
    await worker.close()
    await running


@pytest.mark.parametrize(
    "payload",
    ['{"title": "x", "project_id": 1e5000}', '{"title": ' + "[" * 1500 + "]" * 1500 + "}"],
)
async def test_what_python_cannot_read_stops_no_relay(
    config: Config, sessions: Sessions, payload: str
) -> None:
    """A number of thousands of digits, a value nested a thousand deep: buried, and the next job runs."""
    async with transaction(sessions) as session:
        for values in (("create_task", payload, "huge"), ("create_project", '{"name": "x"}', "ok")):
            kind, body, job_id = values
            given = {"kind": kind, "payload": body, "job_id": job_id, "key": None}
            await session.execute(PAST_THE_DOOR, given)
    await burst(config)
    assert [letter.job_id for letter in await rows(sessions, DeadLetter)] == ["huge"]
    assert await done(sessions) == 1
    assert await count(sessions, OutboxMessage) == 0


async def test_an_id_that_no_worker_takes_holds_up_nobody(
    config: Config, sessions: Sessions
) -> None:
    """It is buried under a readable id, and its own message goes: the next of its key runs."""
    async with transaction(sessions) as session:
        for job_id in ("a\u200bb", "next"):
            given = {"kind": "create_project", "payload": '{"name": "x"}', "key": "k"}
            await session.execute(PAST_THE_DOOR, {**given, "job_id": job_id})
    await burst(config)
    assert await done(sessions) == 1
    assert await count(sessions, DeadLetter) == 1
    assert await count(sessions, OutboxMessage) == 0


async def test_another_payload_under_a_dead_jobs_id_is_kept_too(any_sessions: Sessions) -> None:
    """Two letters: what was asked for first, and what was asked for under its name."""
    registry, policy = app.registry(), Policy()
    for title in ("A", "B", "A"):
        payload = CreateTask(title=title, project_id=999)
        await process_one(delivery(payload, "M"), registry, any_sessions, policy)
    found = {letter.payload["title"]: letter for letter in await rows(any_sessions, DeadLetter)}
    assert found.keys() == {"A", "B"}
    assert found["A"].job_id == "M"
    assert found["B"].job_id.startswith("M~")
    assert found["B"].reason == "payload_mismatch"


async def test_a_lost_body_comes_back_though_the_relay_is_faster(
    config: Config, sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end of the delivery without a body must not take the new body along."""
    async with transaction(sessions) as session:
        await stage(session, LAUNCH, job_id="P")
    redis = connect(config.worker)
    relay = Relay(redis, sessions, config.worker.queue, 60)
    await relay.dispatch()
    await redis.delete("arq:job:P")
    finish = Broker.acknowledge

    async def slow(self: Broker, *args: Any) -> Any:
        await relay.dispatch()
        return await finish(self, *args)

    monkeypatch.setattr(Broker, "acknowledge", slow)
    await burst(config)
    assert await done(sessions) == 1
    await redis.aclose(close_connection_pool=True)


async def test_more_jobs_than_a_statement_has_parameters(sessions: Sessions) -> None:
    """33,000 named jobs in one call."""
    async with transaction(sessions) as session:
        requests = [Request(LAUNCH, job_id=f"j{n}") for n in range(33_000)]
        assert all(job.is_new for job in await stage_many(session, requests))
    assert await count(sessions, OutboxMessage) == 33_000


async def test_unique_keys_in_another_order_do_not_deadlock(sessions: Sessions) -> None:
    """Two producers take the same thirty keys, one from the front and one from the back."""
    keyed = [Request(LAUNCH, unique=Unique(f"k{n:02}", timedelta(hours=1))) for n in range(30)]

    async def staged(requests: list[Request]) -> int:
        async with transaction(sessions) as session:
            return sum(job.is_new for job in await stage_many(session, requests))

    assert sum(await asyncio.gather(staged(keyed), staged(keyed[::-1]))) == 30


async def test_a_unique_window_outlives_the_inbox(sessions: Sessions) -> None:
    """The key is taken: its job is not staged again, though the inbox has forgotten it."""
    year = Request(LAUNCH, unique=Unique("k", timedelta(days=365)))
    async with transaction(sessions) as session:
        (first,) = await stage_many(session, [year])
        await session.execute(text("DELETE FROM ledgerq.outbox_message"))
    async with transaction(sessions) as session:
        (again,) = await stage_many(session, [year])
    assert (again.job_id, again.is_new) == (first.job_id, False)
    assert await count(sessions, OutboxMessage) == 0


async def test_the_same_number_is_the_same_payload(any_sessions: Sessions) -> None:
    """PostgreSQL gives 1e16 back as a whole number; staged twice it is one job."""
    for expected in (True, False):
        async with transaction(any_sessions) as session:
            assert (await stage(session, Odd(x=1e16), job_id="f")).is_new is expected


async def test_a_job_that_was_cancelled_before_it_came_is_not_staged(
    any_sessions: Sessions,
) -> None:
    """That is no mismatch: nobody knew its payload."""
    async with transaction(any_sessions) as session:
        state = await interventions.cancel(session, "Q", actor="ada", reason="not needed")
    assert state is JobState.CANCELLED
    async with transaction(any_sessions) as session:
        assert not (await stage(session, LAUNCH, job_id="Q")).is_new
    assert await count(any_sessions, OutboxMessage) == 0


async def test_a_body_that_is_too_long_is_refused_at_once(
    client: JobClient, sessions: Sessions
) -> None:
    """By the client and in a transaction, with its length."""
    task = NewTask(title="x", description="x" * 20_000, project_id=1)
    long = BulkCreateTasks(tasks=[task] * 60)
    with pytest.raises(Undecodable, match=r"body: has \d+ bytes"):
        await client.enqueue(long)
    with pytest.raises(Undecodable, match=r"body: has \d+ bytes"):
        async with transaction(sessions) as session:
            await stage(session, long)


async def test_a_lane_that_another_worker_holds_is_no_busy_loop(config: Config) -> None:
    """What is due and not for us does not come round as fast as Redis answers."""
    redis = connect(config.worker)
    other = Broker.connect(redis, config.worker.queue, "other", LeaseSettings())
    await redis.set("arq:job:suspect", b'{"t": null, "f": "odd", "a": [], "k": {}, "et": 1}')
    await redis.zadd(config.worker.queue, {"suspect": 1})
    await redis.hset(failures_key(config.worker.queue, "suspect"), "crashes", "2")  # type: ignore[misc]
    assert (await other.claim(1, busy=1)).drain_first
    looks, begun = 0, asyncio.Event()
    claim = Broker.claim

    async def counted(self: Broker, *args: Any, **options: Any) -> Any:
        nonlocal looks
        looks += 1
        begun.set()
        return await claim(self, *args, busy=1, **{k: v for k, v in options.items() if k != "busy"})

    worker = our_worker(config, Registry([Kind(Odd, _nothing)]), handle_signals=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Broker, "claim", counted)
        running = asyncio.create_task(worker.main())
        await begun.wait()
        await asyncio.sleep(1)
        await worker.close()
        await running
    assert looks < 60
    await other.close()
    await redis.aclose(close_connection_pool=True)


async def test_an_abort_is_heard_while_a_job_that_must_run_alone_waits(
    config: Config, client: JobClient, redis: ArqRedis
) -> None:
    """The worker polls about each second until the other jobs have ended, however long its lease is."""
    begun, queue = asyncio.Event(), config.worker.queue

    async def wait(context: JobContext, odd: Odd) -> None:
        begun.set()
        if odd.x:
            await asyncio.sleep(60)

    long_lease = replace(config, worker=config.worker.model_copy(update={"lease": 180}))
    worker = our_worker(long_lease, Registry([Kind(Odd, wait)]), handle_signals=False)
    running = asyncio.create_task(worker.main())
    other = await client.enqueue(Odd(x=1))
    await asyncio.wait_for(begun.wait(), 10)
    await redis.hset(failures_key(queue, "suspect"), "crashes", "2")  # type: ignore[misc]
    suspect = await client.enqueue(Odd(), job_id="suspect")

    async def waits() -> bool:
        return bool(await redis.exists(exclusive_slot_key(queue)))

    await eventually(waits)
    assert await other.as_arq_job.abort(timeout=10)
    await suspect.result(timeout=10)
    await worker.close()
    await running


async def _nothing(context: JobContext, odd: Odd) -> None:
    """Done at once."""


async def test_cancelling_one_of_a_batch_does_not_start_the_others_at_once(
    config: Config, client: JobClient, sessions: Sessions
) -> None:
    """They are handed back and claimed again: never more at once than LEDGERQ_MAX_JOBS and two batches."""
    at_once, most = 0, 0
    first = asyncio.Event()

    async def handle(context: JobContext, odd: Odd) -> None:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        first.set()
        try:
            await asyncio.sleep(0.01)
        finally:
            at_once -= 1

    registry = Registry([Kind(Odd, handle, shares_commit=True)])
    jobs = await client.enqueue_many([Odd() for _ in range(100)])
    worker = our_worker(config, registry, handle_signals=False)
    running = asyncio.create_task(worker.main())
    await asyncio.wait_for(first.wait(), 10)
    assert await jobs[50].as_arq_job.abort(timeout=10)

    async def all_ended() -> bool:
        return await count(sessions, ProcessedJob) == 100

    await eventually(all_ended, seconds=30)
    await worker.close()
    await running
    assert await done(sessions) == 99
    assert most <= 2


async def test_a_migration_that_fails_half_way_is_begun_again(empty_postgresql_url: URL) -> None:
    """The tables are one revision, the checks of old rows and the indexes another, which may be repeated."""
    config = DatabaseConfig(url=empty_postgresql_url)
    await asyncio.to_thread(command.upgrade, alembic_config(config), "0003")
    async with open_database(config) as database, database.engine.begin() as connection:
        await connection.execute(
            text("ALTER TABLE audit_log VALIDATE CONSTRAINT ck_audit_log_action")
        )
        await connection.execute(
            text("CREATE INDEX ix_dead_letter_fingerprint ON dead_letter (fingerprint)")
        )
    await asyncio.to_thread(migrate, config)
    await asyncio.to_thread(command.check, alembic_config(config))


async def test_letters_from_before_stay_dead(empty_postgresql_url: URL) -> None:
    """A job that was buried by an older version does not run when it is delivered once more."""
    config = DatabaseConfig(url=empty_postgresql_url)
    await asyncio.to_thread(command.upgrade, alembic_config(config), "0002")
    async with open_database(config) as database:
        async with database.engine.begin() as connection:
            await connection.execute(
                text(
                    "INSERT INTO dead_letter (job_id, kind, payload, reason, error, attempt) "
                    "VALUES ('S', 'create_project', '{\"name\": \"x\"}', 'failed', 'x', 5)"
                )
            )
        await asyncio.to_thread(migrate, config)
        arrived = delivery(CreateProject(name="x"), "S")
        outcome = await process_one(arrived, app.registry(), database.sessions, Policy())
        assert isinstance(outcome, Duplicate)
        assert outcome.state is JobState.DEAD
        assert await count(database.sessions, Project) == 0


async def test_a_batch_member_that_is_dead_under_another_payload_is_buried(
    sessions: Sessions,
) -> None:
    """The bulk path and the single path refuse it alike."""
    project_id = await new_project(sessions)
    async with transaction(sessions) as session:
        await inbox.insert_receipt(session, "job-1", "create_task", b"another", state=JobState.DEAD)
    registry = app.registry()
    found = [delivery(CreateTask(title="x", project_id=project_id), f"job-{n}") for n in (1, 2)]
    outcomes = await process(found, registry, sessions, Policy())
    assert [type(outcome) for outcome in outcomes] == [Buried, Completed]
    assert await count(sessions, Task) == 1
