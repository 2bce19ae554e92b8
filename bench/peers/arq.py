"""arq 0.28 as its documentation has it (`BENCH_TUNED=0`), or with everything that makes it faster."""

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, ClassVar

from arq import create_pool
from arq.connections import ArqRedis, RedisSettings
from arq.worker import func, run_worker

from bench.peers import calls, common, tables
from bench.peers.common import CONCURRENCY, REDIS_URL, Jobs

TUNED = os.environ.get("BENCH_TUNED") == "1"
FOR_LEDGERQ = os.environ.get("BENCH_FOR_LEDGERQ") == "1"  # a stock client that feeds our worker
_JSON: dict[str, Any] = (
    {"job_serializer": lambda job: json.dumps(job).encode(), "job_deserializer": json.loads}
    if FOR_LEDGERQ
    else {}
)


async def create(ctx: dict[str, Any], title: str) -> int:
    return await tables.create(ctx["sessions"], ctx["job_id"], title)


async def move(ctx: dict[str, Any], task_id: int) -> int:
    return await tables.move(ctx["sessions"], ctx["job_id"], task_id)


async def call(ctx: dict[str, Any], title: str) -> int:
    await calls.call()
    return await tables.add(ctx["sessions"], title)


async def noop(ctx: dict[str, Any], number: int) -> None:
    common.tick()


async def startup(ctx: dict[str, Any]) -> None:
    ctx["engine"], ctx["sessions"] = tables.asynchronous()


async def shutdown(ctx: dict[str, Any]) -> None:
    await ctx["engine"].dispose()


class WorkerSettings:
    """arq's defaults are 10 jobs at once, a look every 0.5 s, and results for an hour."""

    functions: ClassVar[Any] = [func(each) for each in (create, move, call, noop)]
    on_startup = startup
    on_shutdown = shutdown
    redis_settings = RedisSettings.from_dsn(REDIS_URL)
    max_jobs = CONCURRENCY
    poll_delay = 0.01 if TUNED else 0.5
    keep_result = 0 if TUNED else 3600


class Producer:
    """Enqueues by arq's own client."""

    def __init__(self, redis: ArqRedis) -> None:
        self._redis = redis

    async def one(self, kind: str, argument: str | int) -> None:
        await self._enqueue(kind, argument, 0)

    async def many(self, jobs: Jobs) -> None:
        await common.in_parallel(jobs, lambda each: self._enqueue(jobs.kind, each, jobs.delay))

    async def _enqueue(self, kind: str, argument: str | int, delay: float) -> None:
        if FOR_LEDGERQ:
            await self._redis.enqueue_job("create_task", title=argument, project_id=1)
        else:
            await self._redis.enqueue_job(kind, argument, _defer_by=delay or None)


class Arq:
    """The peer."""

    def prepare(self) -> None:
        """Nothing to make."""

    def worker(self) -> None:
        run_worker(WorkerSettings)  # type: ignore[arg-type]

    @asynccontextmanager
    async def producer(self) -> AsyncIterator[Producer]:
        redis = await create_pool(RedisSettings.from_dsn(REDIS_URL), **_JSON)
        yield Producer(redis)
        await redis.aclose()


if __name__ == "__main__":
    common.main(Arq())
