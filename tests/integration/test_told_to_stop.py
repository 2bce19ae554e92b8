"""Jobs that are stopped from outside, and whose handlers make something else of it: the stop is not their failure."""

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

import pytest
from arq import func
from arq.connections import ArqRedis

from ledgerq.broker.connection import connect
from ledgerq.client import JobClient
from ledgerq.config import Config
from ledgerq.database.engine import Sessions
from ledgerq.errors import TimedOut
from ledgerq.execution import containment
from ledgerq.execution.outcome import Buried
from ledgerq.execution.process import process
from ledgerq.execution.registry import Registry
from ledgerq.execution.retry import Policy
from ledgerq.job import JobContext, Kind
from ledgerq.runtime.cancellation import stop, stopped_by_stop
from ledgerq.store.tables import DeadLetter, JobState, ProcessedJob
from ledgerq.wire.payload import Payload
from ledgerq.worker.active_jobs import CancelReason
from ledgerq.worker.worker import JobWorker
from tests.support import count, delivery, eventually, halt, our_worker, process_one, rows

Work = Callable[[], Awaitable[None]]
LAST = Policy().max_attempts


class Odd(Payload[None], kind="odd"):
    n: int = 0


async def as_an_error() -> None:
    """As some client libraries do."""
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError as error:
        raise RuntimeError("the client was cancelled") from error


async def as_a_group() -> None:
    """Where a child fails while it cleans up."""

    async def child() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            raise ValueError("cleanup failed")

    async with asyncio.TaskGroup() as group:
        group.create_task(child())


async def as_an_exit() -> None:
    """Where the clean-up gives the whole process up."""
    try:
        await asyncio.sleep(60)
    finally:
        raise SystemExit(3)


makes_of_it = pytest.mark.parametrize("interrupted", [as_an_error, as_a_group, as_an_exit])


@asynccontextmanager
async def at_work(worker: JobWorker) -> AsyncIterator[asyncio.Task[None]]:
    running = asyncio.create_task(worker.main())
    try:
        yield running
    finally:
        await halt(worker, running)


def with_one_attempt(config: Config, **options: Any) -> Config:
    changed = {"max_attempts": 1, **options}
    return replace(config, worker=config.worker.model_copy(update=changed))


def cancel(worker: JobWorker, job_id: str, why: CancelReason) -> None:
    assert worker._active
    worker._active.cancel(job_id, why)


@pytest.mark.parametrize("shared", [False, True], ids=["alone", "shared"])
@pytest.mark.parametrize("why", [CancelReason.TAKEN, CancelReason.CANCELLED])
@makes_of_it
async def test_a_stop_spends_no_attempt_whatever_a_handler_makes_of_it(
    config: Config,
    client: JobClient,
    sessions: Sessions,
    *,
    interrupted: Work,
    why: CancelReason,
    shared: bool,
) -> None:
    """A job that is cancelled from outside goes back to the queue with the attempts that it had, even its last one."""
    attempts, started = list[int | None](), asyncio.Event()

    async def handle(context: JobContext, odd: Odd) -> None:
        attempts.append(context.origin.attempt)
        if odd.n == 0 and not started.is_set():
            started.set()
            await interrupted()

    registry = Registry([Kind(Odd, handle, shares_commit=shared)])
    jobs = 3 if shared else 1
    await client.enqueue_many([Odd(n=n) for n in range(jobs)])
    worker = our_worker(with_one_attempt(config), registry, handle_signals=False)
    async with at_work(worker):
        await asyncio.wait_for(started.wait(), 10)
        cancel(worker, next(iter(worker.job_tasks)), why)

        async def all_ended() -> bool:
            return await count(sessions, ProcessedJob) == jobs

        await eventually(all_ended)
    assert {row.state for row in await rows(sessions, ProcessedJob)} == {JobState.DONE}
    assert set(attempts) == {1}


@makes_of_it
async def test_a_worker_that_stops_gives_its_job_back_whatever_the_handler_makes_of_it(
    config: Config, client: JobClient, redis: ArqRedis, sessions: Sessions, interrupted: Work
) -> None:
    """At the end of the drain the job is on the queue, held by nobody, with no attempt spent and no dead letter."""
    started = asyncio.Event()

    async def handle(context: JobContext, odd: Odd) -> None:
        started.set()
        await interrupted()

    stops_soon = with_one_attempt(config, drain_timeout=1)
    worker = our_worker(stops_soon, Registry([Kind(Odd, handle)]), handle_signals=False)
    await client.enqueue(Odd(), job_id="j")
    await stop_at_work(worker, started)
    assert await redis.zscore(config.worker.queue, "j") is not None
    assert not await redis.exists("arq:in-progress:j", "arq:retry:j")
    assert not await rows(sessions, DeadLetter)


async def test_a_stop_is_no_failure_of_an_arq_function_that_makes_an_error_of_it(
    config: Config, redis: ArqRedis
) -> None:
    """At the end of the drain its job is on the queue, with no attempt spent and no result."""
    started = asyncio.Event()

    async def odd(ctx: dict[str, Any]) -> None:
        started.set()
        await as_an_error()

    worker = JobWorker(
        [func(odd, name="odd")], redis_pool=connect(config.worker), job_serializer=None,
        queue_name=config.worker.queue, job_completion_wait=1, handle_signals=False,
    )  # fmt: skip
    await ArqRedis(redis.connection_pool).enqueue_job("odd", _job_id="j")
    await stop_at_work(worker, started)
    assert await redis.zscore(config.worker.queue, "j") is not None
    assert not await redis.exists("arq:in-progress:j", "arq:retry:j", "arq:result:j")


async def stop_at_work(worker: JobWorker, started: asyncio.Event) -> None:
    """Run the worker until the job has started, and stop it as SIGTERM does."""
    worker.main_task = asyncio.create_task(worker.main())
    await asyncio.wait_for(started.wait(), 10)
    worker.handle_sig_wait_for_completion(signal.SIGTERM)
    await asyncio.wait_for(worker.main_task, 20)
    await worker.close()


@makes_of_it
async def test_an_aborted_job_is_cancelled_whatever_its_handler_makes_of_it(
    config: Config, client: JobClient, sessions: Sessions, interrupted: Work
) -> None:
    """`Job.abort` answers True, and the job has no dead letter."""
    started = asyncio.Event()

    async def handle(context: JobContext, odd: Odd) -> None:
        started.set()
        await interrupted()

    job = await client.enqueue(Odd(), job_id="j")
    worker = our_worker(
        with_one_attempt(config), Registry([Kind(Odd, handle)]), handle_signals=False
    )
    async with at_work(worker):
        await asyncio.wait_for(started.wait(), 10)
        assert await job.as_arq_job.abort(timeout=10)
    assert [row.state for row in await rows(sessions, ProcessedJob)] == [JobState.CANCELLED]
    assert not await rows(sessions, DeadLetter)


@makes_of_it
async def test_a_time_limit_stays_the_jobs_own_failure_whatever_its_handler_makes_of_it(
    sessions: Sessions, interrupted: Work
) -> None:
    """The letter of a job that was late says so."""

    async def handle(context: JobContext, odd: Odd) -> None:
        await interrupted()

    outcome = await process_one(
        delivery(Odd(), "j", LAST), Registry([Kind(Odd, handle)]), sessions, Policy(timeout=0.1)
    )
    assert isinstance(outcome, Buried)
    assert isinstance(outcome.error, TimedOut)


async def test_a_handlers_own_cancellation_stays_its_own_failure(sessions: Sessions) -> None:
    """A job that makes an error of the end of its own time limit has failed, with this error."""

    async def handle(context: JobContext, odd: Odd) -> None:
        async with asyncio.timeout(0.05):
            await as_an_error()

    outcome = await process_one(
        delivery(Odd(), "j", LAST), Registry([Kind(Odd, handle)]), sessions, Policy()
    )
    assert isinstance(outcome, Buried)
    assert str(outcome.error) == "the client was cancelled"


async def test_a_stopped_group_is_not_split(sessions: Sessions) -> None:
    """Jobs that share a transaction are all given back if their task is stopped: none of them runs again here."""
    runs, started = list[int](), asyncio.Event()

    async def handle(context: JobContext, odd: Odd) -> None:
        runs.append(odd.n)
        started.set()
        await as_an_error()

    registry = Registry([Kind(Odd, handle, shares_commit=True)])
    arrived = [delivery(Odd(n=n), f"j{n}", LAST) for n in range(4)]
    group = asyncio.create_task(process(arrived, registry, sessions, Policy()))
    stopped_by_stop(group)
    await started.wait()
    stop(group)
    with pytest.raises(asyncio.CancelledError):
        await group
    assert runs == [0]
    assert not await rows(sessions, ProcessedJob)


@pytest.mark.parametrize("shared", [False, True], ids=["alone", "shared"])
async def test_a_task_group_whose_child_fails_is_the_jobs_own_failure(
    config: Config, client: JobClient, sessions: Sessions, *, shared: bool
) -> None:
    """A job whose own child fails is buried for the child's error, though Python 3.11 leaves its task as if it were cancelled."""

    async def fail() -> None:
        raise ValueError("the child's")

    async def handle(context: JobContext, odd: Odd) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(fail())

    registry = Registry([Kind(Odd, handle, shares_commit=shared)])
    await client.enqueue_many([Odd(n=n) for n in range(2)])
    worker = our_worker(with_one_attempt(config), registry, handle_signals=False)
    async with at_work(worker):

        async def all_ended() -> bool:
            return await count(sessions, ProcessedJob) == 2

        await eventually(all_ended)
    assert ["the child's" in each.error for each in await rows(sessions, DeadLetter)] == [True] * 2


@pytest.mark.parametrize("whose", ["its timeout", "its group"])
async def test_a_handler_that_ends_a_part_of_its_work_may_take_its_time(
    config: Config,
    client: JobClient,
    sessions: Sessions,
    monkeypatch: pytest.MonkeyPatch,
    *,
    whose: str,
) -> None:
    """Only a job that the worker or its time limit ends must be gone within the patience; this one is done."""
    monkeypatch.setattr(containment, "PATIENCE", 0.05)

    async def slow_to_end() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.3)

    async def fail() -> None:
        raise ValueError("the child's")

    async def handle(context: JobContext, odd: Odd) -> None:
        with suppress(TimeoutError, ExceptionGroup):
            if whose == "its timeout":
                async with asyncio.timeout(0.01):
                    await slow_to_end()
            async with asyncio.TaskGroup() as group:
                group.create_task(fail())
                await slow_to_end()

    await client.enqueue(Odd(), job_id="j")
    worker = our_worker(
        with_one_attempt(config), Registry([Kind(Odd, handle)]), handle_signals=False
    )
    async with at_work(worker):

        async def has_ended() -> bool:
            return await count(sessions, ProcessedJob) == 1

        await eventually(has_ended)
    assert [row.state for row in await rows(sessions, ProcessedJob)] == [JobState.DONE]


@pytest.mark.parametrize("ended_by", ["a stop", "its time limit"])
async def test_a_handler_that_is_told_to_end_while_it_ends_a_part_of_its_work_is_left_behind(
    config: Config,
    client: JobClient,
    redis: ArqRedis,
    monkeypatch: pytest.MonkeyPatch,
    *,
    ended_by: str,
) -> None:
    """The patience begins with the stop, or at the end of the time limit."""
    monkeypatch.setattr(containment, "PATIENCE", 0.05)
    ending, left = asyncio.Event(), asyncio.Event()

    async def handle(context: JobContext, odd: Odd) -> None:
        if ending.is_set():
            return
        try:
            async with asyncio.timeout(0.01):
                try:
                    await asyncio.sleep(60)
                finally:
                    ending.set()
                    with suppress(asyncio.CancelledError):
                        await asyncio.sleep(60)
                    await asyncio.sleep(60)
        finally:
            left.set()

    limit = 0.5 if ended_by == "its time limit" else 60
    job = await client.enqueue(Odd(), job_id="j")
    registry = Registry([Kind(Odd, handle, timeout=limit)])
    worker = our_worker(config, registry, handle_signals=False)
    async with at_work(worker):
        await asyncio.wait_for(ending.wait(), 10)
        if ended_by == "a stop":
            cancel(worker, "j", CancelReason.STOPPING)
        await asyncio.wait_for(left.wait(), 10)
        await job.result(timeout=20)
