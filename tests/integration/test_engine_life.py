"""What must not end our engine, and what its users may rely on, with functions that are not ours."""

import asyncio
import random
from typing import Any

import pytest
from arq import Retry, func
from arq.connections import ArqRedis
from arq.jobs import Job, JobStatus
from redis.exceptions import ConnectionError as RedisConnectionError

from db.models import Project
from jobs.kinds import CreateProject, create_project
from ledgerq.broker.claims import Broker
from ledgerq.broker.connection import connect
from ledgerq.client import JobClient
from ledgerq.config import Config
from ledgerq.database.engine import Sessions
from ledgerq.errors import Permanent, Snooze
from ledgerq.execution.registry import Registry
from ledgerq.job import JobContext, Kind
from ledgerq.store.tables import JobState, ProcessedJob
from ledgerq.wire.payload import Payload
from ledgerq.worker.worker import JobWorker
from tests.support import count, done, drain, eventually, letter, our_worker, rows


def plain_worker(config: Config, *functions: Any, **options: Any) -> JobWorker:
    """As arq's users build it: no database, no kinds."""
    settings = {"burst": True, "poll_delay": 0.02, "handle_signals": False, **options}
    return JobWorker(
        [func(each, name=each.__name__) for each in functions],
        redis_pool=connect(config.worker),
        job_serializer=None,
        queue_name=config.worker.queue,
        **settings,
    )


async def test_hooks_that_fail_change_nothing(config: Config, redis: ArqRedis) -> None:
    """Each of arq's three hooks raises; the job's result is kept, and the worker goes on."""
    calls: list[str] = []

    def failing(name: str) -> Any:
        async def hook(ctx: dict[str, Any]) -> None:
            calls.append(name)
            raise RuntimeError(name)

        return hook

    async def double(ctx: dict[str, Any], n: int) -> int:
        return 2 * n

    hooks = {name: failing(name) for name in ("on_job_start", "on_job_end", "after_job_end")}
    jobs = [await arq_enqueue(redis, "double", n) for n in (1, 2)]
    worker = plain_worker(config, double, **hooks)
    await drain(worker)
    assert [await result(job) for job in jobs] == [2, 4]
    assert sorted(calls) == sorted([*hooks, *hooks])


async def arq_enqueue(redis: ArqRedis, name: str, *args: Any, **options: Any) -> Job:
    pickling = ArqRedis(redis.connection_pool)  # as a stock client does
    job = await pickling.enqueue_job(name, *args, **options)
    assert job
    return job


async def result(job: Job) -> Any:
    return await job.result(timeout=5)


async def test_functions_that_are_not_ours_run_as_in_arq(config: Config, redis: ArqRedis) -> None:
    """Arguments, context, retries, results and errors; deferred jobs wait."""
    tries: list[int] = []

    async def flaky(ctx: dict[str, Any], *, who: str) -> str:
        tries.append(ctx["job_try"])
        if ctx["job_try"] < 3:
            raise Retry(defer=0.01)
        return f"hello {who} from {ctx['job_id']}"

    async def broken(ctx: dict[str, Any]) -> None:
        raise ValueError("as written")

    async def leaving(ctx: dict[str, Any]) -> None:
        raise SystemExit(3)

    good = await arq_enqueue(redis, "flaky", who="Ada", _job_id="f")
    bad = await arq_enqueue(redis, "broken")
    gone = await arq_enqueue(redis, "leaving")
    missing = await arq_enqueue(redis, "nobody")
    worker = plain_worker(config, flaky, broken, leaving)
    await drain(worker)
    assert await result(good) == "hello Ada from f"
    assert tries == [1, 2, 3]
    for job, problem in ((bad, "as written"), (gone, "3"), (missing, "not found")):
        with pytest.raises(BaseException, match=problem):
            await result(job)
    assert await good.status() is JobStatus.complete
    assert (worker.jobs_complete, worker.jobs_retried, worker.jobs_failed) == (1, 2, 3)


class Told(Payload, kind="told"):
    """A job that ends as it is told."""

    how: str


async def test_a_handler_says_how_it_goes_on(
    config: Config, client: JobClient, sessions: Sessions
) -> None:
    """Snooze comes back without spending an attempt; Permanent is buried at the first."""
    attempts: list[int | None] = []

    async def handle(context: JobContext, told: Told) -> str:
        attempts.append(context.origin.attempt)
        context.session.add(Project(name="half done"))
        if told.how == "permanent":
            raise Permanent("the customer is gone", field="customer_id")
        if len(attempts) < 4:
            raise Snooze(0.01)
        return "awake"

    registry = Registry([Kind(Told, handle)])
    snoozing = await client.enqueue(Told(how="snooze"))
    await drain(our_worker(config, registry, burst=True, handle_signals=False))
    assert await snoozing.result(timeout=5) == "awake"
    assert attempts == [1, 1, 1, 1]
    assert await count(sessions, Project) == 1
    await client.enqueue(Told(how="permanent"), job_id="gone")
    await drain(our_worker(config, registry, burst=True, handle_signals=False))
    buried = await letter(sessions, "gone")
    assert (buried.reason, buried.attempt) == ("permanent", 1)
    assert buried.problems == [{"field": "customer_id", "problem": "the customer is gone"}]


async def test_an_aborted_job_of_ours_stays_aborted(
    config: Config, client: JobClient, sessions: Sessions, redis: ArqRedis
) -> None:
    """arq's Job.abort is made durable: delivered once more, the job does not run."""
    started = asyncio.Event()

    async def handle(context: JobContext, told: Told) -> None:
        started.set()
        await asyncio.Event().wait()

    registry = Registry([Kind(Told, handle)])
    worker = our_worker(config, registry, handle_signals=False)
    running = asyncio.create_task(worker.main())
    job = await client.enqueue(Told(how="x"), job_id="a")
    body = await redis.get("arq:job:a")
    await asyncio.wait_for(started.wait(), 10)
    assert await job.as_arq_job.abort(timeout=10)
    await worker.close()
    await running
    (row,) = await rows(sessions, ProcessedJob)
    assert row.state is JobState.CANCELLED
    await redis.set("arq:job:a", body)
    await redis.zadd(config.worker.queue, {"a": 1})
    await drain(our_worker(config, registry, burst=True, handle_signals=False))
    assert await done(sessions) == 0


async def test_redis_may_fail_at_any_command(
    config: Config, client: JobClient, sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A third of the claims, renewals and endings is lost, after it was done: each job is done once."""
    chance = random.Random(3)  # every third call exactly could be every claim and nothing else

    def losing(method: Any) -> Any:
        async def lost(self: Broker, *args: Any, **options: Any) -> Any:
            answer = await method(self, *args, **options)
            if chance.random() < 1 / 3:
                raise RedisConnectionError("the answer was lost")
            return answer

        return lost

    for name in ("claim", "acknowledge", "renew"):
        monkeypatch.setattr(Broker, name, losing(getattr(Broker, name)))
    registry = Registry([Kind(CreateProject, create_project.handle)])
    await client.enqueue_many([CreateProject(name=f"p{n}") for n in range(30)])
    hurried = config.worker.model_copy(update={"lease": 1.0})
    worker = our_worker(Config(hurried, config.database), registry, handle_signals=False)
    running = asyncio.create_task(worker.main())

    async def all_done() -> bool:
        return await done(sessions) == 30

    await eventually(all_done, seconds=60)
    await worker.close()
    await running
    assert await count(sessions, Project) == 30
