"""`stage(…, client=…)`: the producer puts a staged job on its queue itself, and the outbox still decides."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest
from arq.connections import ArqRedis
from sqlalchemy import text, update
from sqlalchemy.ext.asyncio import AsyncSession

from db.models import Project, Task
from jobs.kinds import CreateProject, CreateTask
from ledgerq import JobContext, Outside, Payload, job
from ledgerq.broker.connection import connect
from ledgerq.broker.relay import Relay
from ledgerq.client import JobClient
from ledgerq.config import Config, WorkerConfig
from ledgerq.database.engine import Database, Sessions
from ledgerq.database.transaction import savepoint, transaction
from ledgerq.execution.delivery import Delivery
from ledgerq.execution.outcome import Buried, Completed, Dropped, Duplicate, Outcome
from ledgerq.execution.process import process
from ledgerq.execution.registry import Registry
from ledgerq.execution.retry import Policy
from ledgerq.settings import load
from ledgerq.staging import stage, stage_many
from ledgerq.store.tables import DeadLetter, OutboxMessage, ProcessedJob
from ledgerq.wire.envelope import decode, encode
from ledgerq.wire.request import Request
from tests.support import count, drain, eventually, new_project, our_worker, process_one, rows
from worker.app import app

LAUNCH = CreateProject(name="Launch")
REGISTRY = app.registry()


async def queued(redis: ArqRedis) -> list[str]:
    found = await redis.zrange(redis.default_queue_name, 0, -1)
    return [each.decode() for each in found]


async def body_of(redis: ArqRedis, job_id: str) -> bytes:
    found = await redis.get(f"arq:job:{job_id}")
    assert found is not None
    return bytes(found)


def sent(payload: Payload, job_id: str = "ghost", row: int = 1) -> Delivery:
    """As a producer sends it; if there is no such row, its transaction was not committed after all."""
    return Delivery(job_id, 1, encode(replace(Request(payload).envelope, staged=True, row=row)))


async def nothing_is_left(sessions: Sessions) -> bool:
    tables = (ProcessedJob, DeadLetter, OutboxMessage, Project, Task)
    return not any([await count(sessions, table) for table in tables])


async def test_a_job_is_on_its_queue_right_after_the_commit_and_not_before(
    sessions: Sessions, client: JobClient, redis: ArqRedis
) -> None:
    """No relay has looked, and none will for ten seconds."""
    async with transaction(sessions) as session:
        await stage(session, LAUNCH, job_id="once", client=client)
        await client.sent()
        assert await queued(redis) == []
    await client.sent()
    assert await queued(redis) == ["once"]
    [staged] = await rows(sessions, OutboxMessage)
    assert decode(await body_of(redis, "once")).row == staged.seq
    relay = Relay(redis, sessions, redis.default_queue_name, 0.05)
    assert await relay.dispatch() == 0


async def test_it_runs_once_and_leaves_nothing_behind(
    config: Config, sessions: Sessions, client: JobClient, redis: ArqRedis
) -> None:
    """Its transaction takes the row of the outbox with it, as for a job that a relay has brought."""
    project_id = await new_project(sessions)
    tasks = [CreateTask(title=str(n), project_id=project_id) for n in range(20)]
    async with transaction(sessions) as session:
        await stage_many(session, [LAUNCH, *tasks], client=client)
    await client.sent()
    await drain(our_worker(config, REGISTRY, burst=True, handle_signals=False))
    assert await count(sessions, Task) == 20
    assert await count(sessions, OutboxMessage) == 0
    assert await queued(redis) == []


async def test_a_rolled_back_transaction_sends_nothing(
    sessions: Sessions, client: JobClient, redis: ArqRedis
) -> None:
    """Nor does the next transaction of the same session send it."""
    async with sessions() as session:
        await stage(session, LAUNCH, job_id="never", client=client)
        await session.rollback()
        await stage(session, LAUNCH, job_id="once", client=client)
        await session.commit()
    await client.sent()
    assert await queued(redis) == ["once"]


async def test_a_job_of_a_rolled_back_savepoint_never_runs(
    config: Config, sessions: Sessions, client: JobClient, redis: ArqRedis
) -> None:
    """The worker looks into the outbox, and drops it: no row, no receipt, no dead letter, no result."""
    async with transaction(sessions) as session:
        with pytest.raises(ZeroDivisionError):
            async with savepoint(session):
                await stage(session, LAUNCH, job_id="never", client=client)
                raise ZeroDivisionError
        await client.sent()
        assert await queued(redis) == []  # the end of a savepoint is no commit
    await client.sent()
    await drain(our_worker(config, REGISTRY, burst=True, handle_signals=False))
    assert await nothing_is_left(sessions)
    assert await redis.keys("arq:*never") == []


async def test_a_second_try_under_the_same_id_is_the_one_that_counts(
    config: Config, sessions: Sessions, client: JobClient
) -> None:
    """The first was staged in a savepoint that was rolled back: its payload must not run in place of the second's."""
    async with transaction(sessions) as session:
        with pytest.raises(ZeroDivisionError):
            async with savepoint(session):
                await stage(session, CreateProject(name="wrong"), job_id="once", client=client)
                raise ZeroDivisionError
        async with savepoint(session):
            await stage(session, CreateProject(name="right"), job_id="once", client=client)
    await client.sent()
    await drain(our_worker(config, REGISTRY, burst=True, handle_signals=False))
    assert [each.name for each in await rows(sessions, Project)] == ["right"]
    assert await count(sessions, DeadLetter) == 0


async def test_a_ghost_does_not_take_the_row_of_another_job_of_its_id(sessions: Sessions) -> None:
    """However it came to the queue: its row is another one. The true job runs, and is not taken for a duplicate."""
    async with transaction(sessions) as session:
        await stage(session, CreateProject(name="right"), job_id="once")
    [staged] = await rows(sessions, OutboxMessage)
    ghost = sent(CreateProject(name="wrong"), "once", row=staged.seq + 1)
    assert await process_one(ghost, REGISTRY, sessions, Policy()) == Dropped()
    real = sent(CreateProject(name="right"), "once", row=staged.seq)
    assert isinstance(await process_one(real, REGISTRY, sessions, Policy()), Completed)
    assert await process_one(ghost, REGISTRY, sessions, Policy()) == Dropped()
    assert [each.name for each in await rows(sessions, Project)] == ["right"]
    assert await count(sessions, DeadLetter) == 0


class Foreign(Payload, kind="foreign"):
    """Of another application, which has this kind."""


async def test_a_worker_leaves_kinds_that_it_does_not_know_to_the_relays(
    sessions: Sessions, redis: ArqRedis
) -> None:
    """Only they know the queue: on this worker's own queue the job would be buried."""
    own = JobClient(redis, {"create_project": "billing"})
    async with transaction(sessions) as session:
        await stage(session, Foreign(), job_id="foreign", client=own)
        await stage(session, LAUNCH, job_id="ours", client=own)
        await stage(session, LAUNCH, job_id="named", queue="eu", client=own)
    await own.sent()
    assert await redis.zrange("billing", 0, -1) == [b"ours"]
    assert await redis.zrange("eu", 0, -1) == [b"named"]
    assert await queued(redis) == []
    queues = {each.job_id: each.queue for each in await rows(sessions, OutboxMessage)}
    assert queues == {"foreign": None, "ours": "billing", "named": "eu"}


async def test_a_running_job_holds_up_nobody_who_stages_it_again(sessions: Sessions) -> None:
    """Its row in the outbox is locked at its end only: the second request is answered at once."""
    begun, go_on = asyncio.Event(), asyncio.Event()

    @job
    async def linger(context: JobContext, payload: Strict) -> None:
        begun.set()
        await go_on.wait()

    async with transaction(sessions) as session:
        await stage(session, Strict(number=1), job_id="once")
    [staged] = await rows(sessions, OutboxMessage)
    arrived = sent(Strict(number=1), "once", staged.seq)
    running = asyncio.create_task(process_one(arrived, Registry([linger]), sessions, Policy()))
    await begun.wait()
    async with transaction(sessions) as session:
        again = await asyncio.wait_for(stage(session, Strict(number=1), job_id="once"), 2)
    assert not again.is_new
    go_on.set()
    assert isinstance(await running, Completed)


async def test_a_session_inside_another_transaction_leaves_its_jobs_to_the_relay(
    database: Database, client: JobClient, redis: ArqRedis
) -> None:
    """Its commit may be none: the connection's owner decides."""
    async with database.engine.begin() as connection:
        async with AsyncSession(connection, join_transaction_mode="create_savepoint") as session:
            await stage(session, LAUNCH, job_id="once", client=client)
            await session.commit()
        await client.sent()
        assert await queued(redis) == []
    relay = Relay(redis, database.sessions, redis.default_queue_name, 0.05)
    assert await relay.dispatch() == 1


async def test_jobs_that_must_wait_are_left_to_the_relay(
    sessions: Sessions, client: JobClient, redis: ArqRedis
) -> None:
    """It brings the second job of an ordering key when the first has ended, and a held back one when it is due."""
    async with transaction(sessions) as session:
        for name in ("first", "second"):
            await stage(session, LAUNCH, job_id=name, ordering_key="one", client=client)
        await stage(session, LAUNCH, job_id="later", delay=timedelta(hours=1), client=client)
    await client.sent()
    assert await queued(redis) == []
    relay = Relay(redis, sessions, redis.default_queue_name, 0.05)
    assert await relay.dispatch() == 1
    assert await queued(redis) == ["first"]


async def test_a_second_request_for_a_job_sends_nothing(
    sessions: Sessions, client: JobClient, redis: ArqRedis
) -> None:
    """Whoever staged it first has sent it, or has left it to the relays."""
    async with transaction(sessions) as session:
        await stage(session, LAUNCH, job_id="once")
    async with transaction(sessions) as session:
        assert not (await stage(session, LAUNCH, job_id="once", client=client)).is_new
    await client.sent()
    assert await queued(redis) == []


async def test_without_redis_the_commit_stands_and_a_relay_brings_the_job(
    sessions: Sessions, redis: ArqRedis
) -> None:
    """Ten seconds later; here the clock is turned."""
    nowhere = load(WorkerConfig, redis_url="redis://127.0.0.1:1/0")
    lost = connect(nowhere)
    client = JobClient(lost)
    async with transaction(sessions) as session:
        await stage(session, LAUNCH, job_id="once", client=client)
    await client.sent()
    await lost.aclose(close_connection_pool=True)
    async with transaction(sessions) as session:
        await session.execute(update(OutboxMessage).values(next_dispatch_at=text("now()")))
    relay = Relay(redis, sessions, redis.default_queue_name, 0.05)
    assert await relay.dispatch() == 1
    assert await queued(redis) == ["once"]
    assert decode(await body_of(redis, "once")).row is None


async def test_a_delivery_before_the_commit_is_dropped_and_the_job_runs_after_it(
    any_sessions: Sessions,
) -> None:
    """However the body came to be on the queue: only the commit makes the job exist."""
    early = sent(LAUNCH, "once", row=1)  # the first number that the database gives
    assert await process_one(early, REGISTRY, any_sessions, Policy()) == Dropped()
    assert await nothing_is_left(any_sessions)
    async with transaction(any_sessions) as session:
        await stage(session, LAUNCH, job_id="once")
    [staged] = await rows(any_sessions, OutboxMessage)
    early = sent(LAUNCH, "once", staged.seq)
    assert isinstance(await process_one(early, REGISTRY, any_sessions, Policy()), Completed)
    assert isinstance(await process_one(early, REGISTRY, any_sessions, Policy()), Duplicate)
    assert await count(any_sessions, OutboxMessage) == 0


class Strict(Payload, kind="strict"):
    """With a handler that fails."""

    number: int


@job
async def fail(context: JobContext, payload: Strict) -> None:
    """What the job should read is not there, because its producer was rolled back."""
    raise LookupError


async def ask(outside: Outside, payload: Strict) -> None:
    """May not be called for a job that does not exist."""
    raise AssertionError


@job(outside=ask)
async def asked(context: JobContext, payload: Strict, answer: None) -> None:
    """Has a function that works outside."""


@pytest.mark.parametrize("kind", [fail, asked], ids=["plain", "outside"])
async def test_no_function_of_a_service_is_called_for_a_job_that_does_not_exist(
    sessions: Sessions, kind: object
) -> None:
    """Else it would fail on what is not there, and be buried before its producer commits."""
    last = sent(Strict(number=1), row=4711)
    last.attempt = 5
    assert await process_one(last, Registry([kind]), sessions, Policy()) == Dropped()  # type: ignore[list-item]
    assert await nothing_is_left(sessions)


async def test_a_job_that_does_not_exist_has_no_dead_letter(sessions: Sessions) -> None:
    """Though its payload is not valid. If it is staged, it is buried as any other."""
    wrong = replace(Request(LAUNCH).envelope, payload={"nome": 1}, staged=True, row=4711)
    ghost = Delivery("ghost", 9, encode(wrong))
    assert await process_one(ghost, REGISTRY, sessions, Policy(deploy_attempts_factor=1)) == (
        Dropped()
    )
    assert await nothing_is_left(sessions)
    async with transaction(sessions) as session:
        await session.execute(
            text(
                "INSERT INTO ledgerq.outbox_message (seq, job_id, kind, payload, actor, next_dispatch_at) "
                "OVERRIDING SYSTEM VALUE "
                "VALUES (4711, 'ghost', 'create_project', '{\"nome\": 1}', 'x', now())"
            )
        )
    buried = await process_one(ghost, REGISTRY, sessions, Policy(deploy_attempts_factor=1))
    assert isinstance(buried, Buried)
    assert await count(sessions, OutboxMessage) == 0


async def test_of_a_batch_only_the_jobs_that_do_not_exist_are_dropped(sessions: Sessions) -> None:
    """The others commit."""
    project_id = await new_project(sessions)
    tasks = [CreateTask(title=str(n), project_id=project_id) for n in range(7)]
    async with transaction(sessions) as session:
        wanted = [Request(task, job_id=f"job-{n}") for n, task in enumerate(tasks) if n != 3]
        await stage_many(session, wanted)
    seqs = {each.job_id: each.seq for each in await rows(sessions, OutboxMessage)}
    arrived = [sent(task, f"job-{n}", seqs.get(f"job-{n}", 1)) for n, task in enumerate(tasks)]
    outcomes: list[Outcome] = await process(arrived, REGISTRY, sessions, Policy())
    assert [type(each) for each in outcomes] == [Completed] * 3 + [Dropped] + [Completed] * 3
    assert await count(sessions, Task) == 6
    assert await count(sessions, OutboxMessage) == 0


class First(Payload, kind="first"):
    """Stages another."""


@job
async def begin(context: JobContext, payload: First) -> None:
    """Its own commit makes the second job exist."""
    await context.stage(LAUNCH, job_id="second")


async def test_a_worker_sends_what_its_jobs_stage(
    config: Config, sessions: Sessions, client: JobClient
) -> None:
    """The row in the outbox is not due for its relay: the second job runs nevertheless, at once."""
    worker = config.worker.model_copy(update={"relay_interval": 3600.0})
    await client.enqueue(First(), job_id="first")
    running = our_worker(
        Config(worker, config.database), Registry([*app.jobs, begin]), handle_signals=False
    )
    task = asyncio.create_task(running.async_run())

    async def is_done() -> bool:
        return await count(sessions, Project) == 1

    try:
        await eventually(is_done)
        [second] = [each for each in await rows(sessions, ProcessedJob) if each.job_id == "second"]
        assert second.state == "done"
    finally:
        await running.close()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
