"""Coming from arq: a service's own functions run beside kinds, and what can't be read stays where it is."""

import asyncio
import inspect
import pickle
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import arq
import pytest
import structlog
from arq.connections import ArqRedis, RedisSettings

from jobs.kinds import CreateProject
from ledgerq.client import JobClient
from ledgerq.config import Config
from ledgerq.database.engine import Sessions
from ledgerq.errors import DefinitionError
from ledgerq.store.tables import DeadLetter, ProcessedJob
from ledgerq.worker.build import build_worker
from ledgerq.worker.worker import JobWorker
from tests.support import count, drain
from worker.app import app

ran: list[Any] = []


async def add(ctx: dict[Any, Any], *numbers: int, times: int = 1) -> int:
    ran.append(numbers)
    return sum(numbers) * times


class Bomb:
    """Unpickled, it tells."""

    def __reduce__(self) -> tuple[Any, ...]:
        return ran.append, ("unpickled",)


@pytest.fixture(autouse=True)
def nothing_has_run() -> None:
    ran.clear()


@asynccontextmanager
async def stock_client(config: Config) -> AsyncIterator[ArqRedis]:
    """arq's own, with its own serializer: pickle."""
    settings = RedisSettings.from_dsn(config.worker.redis_url.get_secret_value())
    redis = await arq.create_pool(settings)
    try:
        yield redis
    finally:
        await redis.aclose(close_connection_pool=True)


async def burst(config: Config, **options: Any) -> Sequence[Any]:
    """Run a worker until nothing is left for it; what it logged."""
    service = replace(app, schedule=(), forget_ended_jobs=False, **options)
    worker = build_worker(service, config, burst=True, handle_signals=False)
    with structlog.testing.capture_logs() as logs:
        async with asyncio.timeout(30):
            await drain(worker)
    return logs


async def test_functions_and_kinds_run_side_by_side_with_pickle(
    config: Config, client: JobClient, sessions: Sessions
) -> None:
    """With the deserializer given: positional arguments arrive, and each client reads its own result."""
    async with stock_client(config) as redis:
        sums = await redis.enqueue_job("add", 1, 2, times=2)
        made = await redis.enqueue_job("create_project", name="from arq")
        own = await client.enqueue(CreateProject(name="ours"))
        assert sums
        assert made
        await burst(
            config, arq_functions=[add], arq_serializer=pickle.dumps, arq_deserializer=pickle.loads
        )
        assert await sums.result(timeout=5) == 6
        assert isinstance(await made.result(timeout=5), int)
        assert isinstance(await own.result(timeout=5), int)
    assert await count(sessions, ProcessedJob) == 2


async def test_a_pickled_job_is_left_without_an_attempt(
    config: Config, client: JobClient, sessions: Sessions
) -> None:
    """It is not unpickled, not buried, stands in nobody's way, and a stock worker runs it afterwards."""
    async with stock_client(config) as redis:
        await redis.enqueue_job("add", Bomb(), _job_id="bomb")
        for n in range(300):
            await redis.enqueue_job("add", n, _job_id=f"left{n}")
        ran.clear()
        behind = await client.enqueue(CreateProject(name="behind them"))
        logs = await burst(config, arq_functions=[add])
        assert isinstance(await behind.result(timeout=5), int)
        assert ran == []
        assert await count(sessions, DeadLetter) == 0
        left = [each for each in logs if each["event"] == "job.left"]
        assert [(each["function"], "arq_deserializer" in each["cure"]) for each in left] == [
            ("add", True)
        ]
        assert await redis.zcard("arq:queue") == 301
        assert not await redis.keys("arq:retry:*")
        await redis.delete("arq:job:bomb")
        await redis.zrem("arq:queue", "bomb")
        await redis.zadd("arq:queue", {"left7": 1}, xx=True)
        stock = arq.Worker(
            [add], redis_pool=redis, max_burst_jobs=1, burst=True, handle_signals=False
        )
        await stock.main()
        assert ran == [(7,)]


def test_a_worker_shows_arqs_parameters_and_ours() -> None:
    """By name, kind and default, arq's as arq has them."""
    shown = inspect.signature(JobWorker).parameters
    for name, theirs in inspect.signature(arq.Worker).parameters.items():
        assert (shown[name].kind, name) == (theirs.kind, name)
        assert name == "functions" or shown[name].default == theirs.default
    assert {"lease_settings", "batch", "grace", "blocked_after"} <= set(shown)


def test_two_functions_of_one_name_are_refused() -> None:
    """Also if one of them is a kind."""
    with pytest.raises(DefinitionError, match="add"):
        replace(app, arq_functions=[add, add])
