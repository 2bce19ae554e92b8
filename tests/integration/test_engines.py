"""The same jobs on our engine and on arq's own: one suite, both on a real Redis and PostgreSQL."""

import asyncio
import json
from collections.abc import Callable
from datetime import timedelta

import arq
import pytest
from arq.jobs import JobStatus

from db.models import Project, Task, TaskStatus
from jobs import kinds
from jobs.kinds import ChangeTaskStatus, CreateProject, CreateTask, CreateWorker, DeleteTask
from ledgerq.broker.connection import connect
from ledgerq.client import EnqueuedJob, JobClient, results
from ledgerq.config import Config
from ledgerq.database.engine import Sessions
from ledgerq.errors import JobFailed
from ledgerq.execution.registry import Registry
from ledgerq.job import JobContext, Kind
from ledgerq.schedule import Recurring
from ledgerq.store.tables import AuditLog, DeadLetter, ProcessedJob
from ledgerq.wire.payload import Payload
from ledgerq.wire.request import Request
from ledgerq.worker.build import worker_settings
from tests.support import (
    both_engines,
    count,
    done,
    drain,
    effects,
    halt,
    letter,
    new_project,
    new_task,
    our_worker,
    rows,
)
from worker.app import app

Engine = Callable[..., arq.Worker]


async def burst(engine: Engine, config: Config, registry: Registry | None = None) -> arq.Worker:
    worker = engine(config, registry or app.registry(), burst=True, handle_signals=False)
    await drain(worker)
    return worker


@both_engines
async def test_a_job_goes_from_redis_into_the_database(
    engine: Engine, config: Config, client: JobClient, sessions: Sessions
) -> None:
    """Task, audit entry and mark are there; the result is the id; nothing is left on Redis but that."""
    project_id = await new_project(sessions)
    job = await client.enqueue(CreateTask(title="移动 🛠", project_id=project_id), actor="user:7")
    await burst(engine, config)
    (task,) = await rows(sessions, Task)
    assert await job.result(timeout=5) == task.id
    assert await effects(sessions, job.job_id) == (1, 1, 1)
    assert (await rows(sessions, AuditLog))[-1].actor == "user:7"
    redis = connect(config.worker)
    assert sorted(await redis.keys("arq:*")) == [f"arq:result:{job.job_id}".encode()]
    await redis.aclose(close_connection_pool=True)


@both_engines
async def test_a_stock_arq_client_with_a_json_serializer_is_a_producer(
    engine: Engine, config: Config, sessions: Sessions
) -> None:
    """`enqueue_job`, `status()`, `result()` and `result_info()` work as arq's users know them."""
    project_id = await new_project(sessions)
    redis = await arq.create_pool(
        arq.connections.RedisSettings.from_dsn(config.worker.redis_url.get_secret_value()),
        job_serializer=lambda content: json.dumps(content).encode(),
        job_deserializer=json.loads,
    )
    job = await redis.enqueue_job(
        "create_task", title="from elsewhere", project_id=project_id, _actor="service:crm"
    )
    assert job
    assert await job.status() is JobStatus.queued
    await burst(engine, config)
    (task,) = await rows(sessions, Task)
    assert await job.result(timeout=5) == task.id
    assert await job.status() is JobStatus.complete
    info = await job.result_info()
    assert info
    assert (info.function, info.kwargs["title"], info.success) == (
        "create_task",
        "from elsewhere",
        True,
    )
    assert (await rows(sessions, AuditLog))[-1].actor == "service:crm"
    await redis.aclose(close_connection_pool=True)


@both_engines
async def test_every_kind_runs(
    engine: Engine, config: Config, client: JobClient, sessions: Sessions
) -> None:
    """Projects, workers, tasks, subtasks, moves and deletions, each with its audit entry."""
    jobs = [
        await client.enqueue(CreateProject(name="Launch")),
        await client.enqueue(CreateWorker(name="Ada")),
    ]
    await burst(engine, config)
    project_id, worker_id = await results(jobs)
    parent = await client.enqueue(
        CreateTask(title="parent", project_id=project_id, assignee_id=worker_id)
    )
    await burst(engine, config)
    task_id = await parent.result(timeout=5)
    child = await client.enqueue(
        CreateTask(title="child", project_id=project_id, parent_task_id=task_id)
    )
    await burst(engine, config)
    move = await client.enqueue(ChangeTaskStatus(task_id=task_id, status=TaskStatus.IN_PROGRESS))
    await burst(engine, config)
    gone = await client.enqueue(DeleteTask(task_id=task_id))
    await burst(engine, config)
    assert await results([move, gone]) == [task_id, [task_id, await child.result()]]
    assert await count(sessions, AuditLog) == 7
    assert await count(sessions, ProcessedJob) == 6
    assert await count(sessions, DeadLetter) == 0


@both_engines
async def test_the_same_job_id_is_the_same_job(
    engine: Engine, config: Config, client: JobClient, sessions: Sessions
) -> None:
    """Not enqueued twice while it is queued or its result is kept; not done twice even if Redis forgot."""
    wanted = CreateProject(name="Launch")
    assert (await client.enqueue(wanted, job_id="launch")).is_new
    assert not (await client.enqueue(wanted, job_id="launch")).is_new
    await burst(engine, config)
    assert not (await client.enqueue(wanted, job_id="launch")).is_new
    redis = connect(config.worker)
    await redis.flushdb()
    again = await client.enqueue(wanted, job_id="launch")
    assert again.is_new
    await burst(engine, config)
    (project,) = await rows(sessions, Project)
    assert await again.result(timeout=5) == project.id
    await redis.aclose(close_connection_pool=True)


@both_engines
async def test_bad_input_ends_among_the_dead_letters_and_the_worker_lives_on(
    engine: Engine, config: Config, client: JobClient, sessions: Sessions
) -> None:
    """One dead letter each, with field and problem; the good job behind them is done; no row is left."""
    bad: dict[str, tuple[bytes, str, str]] = {
        "half": (b'{"f": "create_task", "k"', "undecodable", "body"),
        "list": (b"[1, 2]", "undecodable", "body"),
        "no-kind": (b'{"f": ["x"], "k": {}}', "undecodable", "f"),
        "try": (b'{"f": "create_task", "k": {}, "t": "1"}', "undecodable", "t"),
        "time": (b'{"f": "create_task", "k": {}, "et": 1e300}', "undecodable", "et"),
        "args": (b'{"f": "create_task", "a": ["x"], "k": {}}', "undecodable", "a"),
        "rules": (b'{"f": "create_task", "k": {"title": ""}}', "invalid_payload", "title"),
        "project": (
            b'{"f": "create_task", "k": {"title": "x", "project_id": 99}}',
            "refused",
            "project_id",
        ),
    }
    redis = connect(config.worker)
    for job_id, (body, _, _) in bad.items():
        await redis.set(f"arq:job:{job_id}", body)
        await redis.zadd(config.worker.queue, {job_id: 1})
    good = await client.enqueue(CreateProject(name="Launch"))

    await burst(engine, config)

    assert await good.result(timeout=5)
    for job_id, (_, reason, field) in bad.items():
        buried = await letter(sessions, job_id)
        assert buried.reason == reason, job_id
        assert field in {problem["field"] for problem in buried.problems}, job_id
        with pytest.raises(JobFailed, match=field):
            await EnqueuedJob(job_id, False, redis, "arq:queue").result(timeout=5)
    assert await count(sessions, DeadLetter) == len(bad)
    assert await count(sessions, Task) == 0
    assert await count(sessions, AuditLog) == 1
    await redis.aclose(close_connection_pool=True)


async def test_our_engine_buries_what_arq_would_lose_or_die_of(
    config: Config, client: JobClient, sessions: Sessions
) -> None:
    """A body that is gone, an empty one, and an id that is no text: a dead letter each."""
    redis = connect(config.worker)
    await redis.zadd(config.worker.queue, {b"gone": 1, b"empty": 1, b"\xff\xfe": 1})
    await redis.set("arq:job:empty", b"")
    await redis.set(b"arq:job:\xff\xfe", b"body")
    good = await client.enqueue(CreateProject(name="Launch"))
    await burst(our_worker, config)
    assert await good.result(timeout=5)
    letters = {each.job_id.partition("~")[0]: each for each in await rows(sessions, DeadLetter)}
    assert letters.keys() == {"gone", "empty", "\\xff\\xfe"}
    assert letters["gone"].reason == letters["empty"].reason == "expired"
    assert letters["\\xff\\xfe"].raw == b"body"
    assert await redis.zcard(config.worker.queue) == 0
    await redis.aclose(close_connection_pool=True)


@both_engines
async def test_an_unknown_kind_waits_for_a_worker_that_knows_it(
    engine: Engine, config: Config, client: JobClient, sessions: Sessions
) -> None:
    """In a rolling deploy an old worker hands the job back; the new one does it."""
    old = Registry([kind for kind in app.registry() if kind.name != "create_project"])
    job = await client.enqueue(CreateProject(name="Launch"))
    await drain(engine(config, old, burst=True, max_burst_jobs=1, handle_signals=False))
    assert await count(sessions, ProcessedJob) == 0
    await burst(engine, config)
    assert await job.result(timeout=10)
    assert await count(sessions, DeadLetter) == 0


@both_engines
async def test_a_delayed_job_waits(
    engine: Engine, config: Config, client: JobClient, sessions: Sessions
) -> None:
    """Not before its time: the queue holds it back."""
    later = await client.enqueue(CreateProject(name="later"), delay=timedelta(hours=1))
    soon = await client.enqueue(CreateProject(name="soon"))
    worker = engine(config, app.registry(), burst=True, max_burst_jobs=1, handle_signals=False)
    await drain(worker)
    assert await soon.result(timeout=5)
    assert [project.name for project in await rows(sessions, Project)] == ["soon"]
    assert await later.as_arq_job.status() is JobStatus.deferred


class Tick(Payload, kind="tick"):
    """A scheduled job that notes each of its runs."""


@both_engines
async def test_a_tick_runs_once_however_many_workers_run(
    engine: Engine, config: Config, sessions: Sessions
) -> None:
    """Two workers on a schedule of one tick each second: every tick runs, and none runs twice."""
    runs: list[str] = []
    third = asyncio.Event()

    async def tick(context: JobContext, payload: Tick) -> None:
        runs.append(str(context.origin.job_id))
        if len(runs) >= 3:
            third.set()

    every_second = Recurring(Tick, minute=None, second=None)
    registry = Registry([Kind(Tick, tick)])
    workers = [
        engine(config, registry, schedule=[every_second], handle_signals=False) for _ in range(2)
    ]
    running = [asyncio.create_task(worker.async_run()) for worker in workers]
    await asyncio.wait_for(third.wait(), 30)
    for worker, run in zip(workers, running, strict=True):
        await halt(worker, run)
    assert len(runs) == len(set(runs))
    assert await count(sessions, DeadLetter) == 0


@both_engines
async def test_a_purge_by_schedule_says_so_in_the_audit_log(
    engine: Engine, config: Config, client: JobClient, sessions: Sessions
) -> None:
    """What nobody asked for has the actor `schedule`."""
    task = await new_task(sessions)
    await client.enqueue(DeleteTask(task_id=task.id))
    await burst(engine, config)
    redis = connect(config.worker)
    schedule = [Recurring(kinds.PurgeDeletedTasks)]
    worker = engine(config, app.registry(), schedule=schedule, burst=True, handle_signals=False)
    await redis.enqueue_job("cron:purge_deleted_tasks", older_than_days=0, _job_id="tick")
    await drain(worker)
    assert await count(sessions, Task) == 0
    assert (await rows(sessions, AuditLog))[-1].actor == "schedule"
    await redis.aclose(close_connection_pool=True)


@both_engines
async def test_a_running_job_can_be_aborted_as_in_arq(
    engine: Engine, config: Config, sessions: Sessions
) -> None:
    """`arq.jobs.Job.abort()`: the job is cancelled, its rows are rolled back, it does not run again."""
    started = asyncio.Event()

    async def tick(context: JobContext, payload: Tick) -> None:
        context.session.add(Project(name="half done"))
        await context.session.flush()
        started.set()
        await asyncio.Event().wait()

    worker = engine(config, Registry([Kind(Tick, tick)]), handle_signals=False)
    running = asyncio.create_task(worker.async_run())
    async with JobClient.open(config.worker) as client:
        job = (await client.enqueue(Tick())).as_arq_job
        await asyncio.wait_for(started.wait(), 10)
        assert await job.abort(timeout=10) is True
    await halt(worker, running)
    assert await count(sessions, Project) == 0
    assert await done(sessions) == 0


async def test_bulk_enqueue_keeps_the_order_and_finds_duplicates(
    config: Config, client: JobClient
) -> None:
    """1,200 jobs in three round trips: one answer each, in the order asked."""
    requests = [
        Request(CreateProject(name=f"P{n % 1000}"), job_id=f"p{n % 1000}") for n in range(1200)
    ]
    jobs = await client.enqueue_many(requests)
    assert [job.job_id for job in jobs] == [request.job_id for request in requests]
    assert [job.is_new for job in jobs] == [True] * 1000 + [False] * 200
    redis = connect(config.worker)
    assert await redis.zcard(config.worker.queue) == 1000
    assert await redis.ttl("arq:job:p1") == -1
    await redis.aclose(close_connection_pool=True)


async def test_a_refused_request_leaves_the_round_trips_before_it_whole(
    config: Config, client: JobClient
) -> None:
    """1,000 are on the queue when the error is raised, none of the third round trip, and nothing is under way."""
    requests = (
        Request(CreateProject(name="P"), job_id=f"p{n}" if n < 1100 else "") for n in range(1200)
    )
    before = asyncio.all_tasks()
    with pytest.raises(Exception, match="job_id"):
        await client.enqueue_many(requests)
    assert asyncio.all_tasks() <= before
    redis = connect(config.worker)
    assert await redis.zcard(config.worker.queue) == 1000
    await redis.aclose(close_connection_pool=True)


@pytest.mark.parametrize("job_id", ["", "x" * 201, "a\nb"])
async def test_a_job_id_that_no_worker_would_take_is_refused_at_once(
    client: JobClient, job_id: str
) -> None:
    """The producer hears of it, not the dead letters."""
    with pytest.raises(Exception, match="job_id"):
        await client.enqueue(CreateProject(name="x"), job_id=job_id)


def test_the_settings_for_arq_are_flat(config: Config) -> None:
    """arq reads nothing but the class's own attributes."""
    settings = worker_settings(app, config)
    assert {"functions", "on_startup", "on_shutdown", "job_deserializer"} <= set(vars(settings))
    assert {function.name for function in settings.functions} >= {k.name for k in kinds.CATALOGUE}
