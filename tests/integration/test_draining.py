"""A worker that stops while something hangs: what becomes of the jobs that it has."""

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any

import pytest
import structlog
from arq import func
from arq.connections import ArqRedis

from ledgerq.broker.claims import Broker, FetchResult
from ledgerq.broker.connection import connect
from ledgerq.broker.keys import failures_key, running_key
from ledgerq.client import JobClient
from ledgerq.config import Config
from ledgerq.database import transaction
from ledgerq.database.engine import Sessions
from ledgerq.execution.registry import Registry
from ledgerq.job import JobContext, Kind
from ledgerq.store.tables import JobState, ProcessedJob
from ledgerq.wire.payload import Payload
from ledgerq.worker.worker import JobWorker
from tests.support import done, eventually, halt, our_worker, rows


class Odd(Payload[None], kind="odd"):
    n: int = 0


@pytest.fixture
def quick(config: Config) -> Config:
    """Settings of a worker that stops within seconds."""
    limits = {"drain_timeout": 1, "stop_grace": 1}
    return replace(config, worker=config.worker.model_copy(update=limits))


@pytest.fixture
def logged() -> Iterator[list[Any]]:
    with structlog.testing.capture_logs() as lines:
        yield lines


async def stop(worker: JobWorker) -> None:
    """As SIGTERM does, with all that follows."""
    worker.handle_sig_wait_for_completion(signal.SIGTERM)
    assert worker.main_task
    await asyncio.wait_for(worker.main_task, 20)
    await worker.close()


@pytest.fixture
async def hanging(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[asyncio.Event]:
    """PostgreSQL answers no rollback until this is set, which is set at the end."""
    answers, abandon = asyncio.Event(), transaction._abandon

    async def hang(session: Any) -> None:
        if not answers.is_set():
            await answers.wait()
            await session.opened.invalidate()  # the pool that it was taken from is disposed
        await abandon(session)

    monkeypatch.setattr(transaction, "_abandon", hang)
    yield answers
    answers.set()


async def test_a_job_whose_rollback_hangs_is_released_when_its_worker_stops(
    quick: Config,
    client: JobClient,
    redis: ArqRedis,
    sessions: Sessions,
    *,
    hanging: asyncio.Event,
    logged: list[Any],
) -> None:
    """It is on the queue before its lease ends, held by nobody, with no attempt spent and no crash counted; it runs once more."""
    started, queue = asyncio.Event(), quick.worker.queue

    async def handle(context: JobContext, odd: Odd) -> None:
        if not started.is_set():
            started.set()
            await asyncio.sleep(60)

    registry = Registry([Kind(Odd, handle)])
    worker = our_worker(quick, registry, handle_signals=False)
    await client.enqueue(Odd(), job_id="j")
    worker.main_task = asyncio.create_task(worker.main())
    await asyncio.wait_for(started.wait(), 10)
    [hung] = worker.job_tasks.values()
    await stop(worker)
    assert await redis.zscore(queue, "j") is not None
    assert not await redis.exists("arq:in-progress:j", "arq:retry:j", failures_key(queue, "j"))
    assert [
        (line["jobs"], line["job_ids"])
        for line in logged
        if line["event"] == "shutdown.jobs_released"
    ] == [(1, ["j"])]
    hanging.set()
    await asyncio.wait({hung})
    successor = our_worker(quick, registry, handle_signals=False)
    running = asyncio.create_task(successor.main())

    async def is_done() -> bool:
        return await done(sessions) == 1

    await eventually(is_done)
    await halt(successor, running)
    assert [row.state for row in await rows(sessions, ProcessedJob)] == [JobState.DONE]


async def test_a_job_of_an_arq_function_that_hangs_is_left_to_its_lease(
    quick: Config, redis: ArqRedis
) -> None:
    """Nothing keeps it from running twice at the same time but its lease."""
    started, ends = asyncio.Event(), asyncio.Event()

    async def odd(ctx: dict[str, Any]) -> None:
        started.set()
        try:
            await asyncio.sleep(60)
        finally:
            await ends.wait()

    worker = JobWorker(
        [func(odd, name="odd")], redis_pool=connect(quick.worker), job_serializer=None, grace=1,
        queue_name=quick.worker.queue, job_completion_wait=1, handle_signals=False,
    )  # fmt: skip
    await ArqRedis(redis.connection_pool).enqueue_job("odd", _job_id="j")
    worker.main_task = asyncio.create_task(worker.main())
    await asyncio.wait_for(started.wait(), 10)
    running = dict(worker.tasks)
    await stop(worker)
    assert await redis.exists("arq:in-progress:j")
    ends.set()
    for each in running.values():
        each.cancel()


async def test_jobs_whose_claim_is_under_way_when_the_worker_is_stopped_are_released(
    quick: Config, client: JobClient, redis: ArqRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None of them is started, and all are on the queue when the worker has ended, held by nobody."""
    runs, claimed, told = list[int](), asyncio.Event(), asyncio.Event()

    async def handle(context: JobContext, odd: Odd) -> None:
        runs.append(odd.n)

    claim = Broker.claim

    async def slow(self: Broker, *args: Any, **options: Any) -> FetchResult:
        found = await claim(self, *args, **options)
        if found.jobs:
            claimed.set()
            await told.wait()
        return found

    monkeypatch.setattr(Broker, "claim", slow)
    worker = our_worker(quick, Registry([Kind(Odd, handle)]), handle_signals=False)
    await client.enqueue_many([Odd(n=n) for n in range(2)])
    worker.main_task = asyncio.create_task(worker.main())
    await asyncio.wait_for(claimed.wait(), 10)
    worker.handle_sig_wait_for_completion(signal.SIGTERM)
    assert worker._draining
    while not worker._poller.stopping:
        await asyncio.sleep(0)
    told.set()
    await asyncio.wait_for(worker.main_task, 20)
    await worker.close()
    assert not runs
    assert await redis.zcard(quick.worker.queue) == 2
    assert not await redis.keys("arq:in-progress:*")
    assert not await redis.hlen(running_key(quick.worker.queue))  # type: ignore[misc]
