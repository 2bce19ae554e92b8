"""A service comes from arq: its functions, its clients and its pickled jobs, beside jobs of ours on one queue."""

import asyncio
import base64
import json
import pickle
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import arq
import pytest
from arq import Retry, cron, func
from arq.connections import ArqRedis
from arq.jobs import Job, JobStatus
from structlog.testing import capture_logs

from db.models import Project
from jobs.kinds import CreateProject, create_project
from ledgerq import App
from ledgerq.admin.job_status import job_status
from ledgerq.admin.status import status
from ledgerq.broker.claims import Ack
from ledgerq.broker.connection import connect
from ledgerq.broker.keys import failures_key
from ledgerq.client import JobClient
from ledgerq.config import Config
from ledgerq.database.engine import Sessions
from ledgerq.errors import DefinitionError
from ledgerq.store.tables import DeadLetter
from ledgerq.worker.acker import Acker
from ledgerq.workers import JobWorker, build_worker, shutdown, startup, worker_settings
from tests.support import count, drain, eventually, letter, rows

Build = Callable[..., arq.Worker]
PICKLE = {"arq_serializer": pickle.dumps, "arq_deserializer": pickle.loads}
HOUR = 3_600_000


def ours(app: App, config: Config, **options: Any) -> JobWorker:
    return build_worker(app, config, **{"burst": True, "handle_signals": False, **options})


def arqs(app: App, config: Config, **options: Any) -> arq.Worker:
    """arq's own worker on the same settings, as `arq shop.worker.WorkerSettings` builds it."""
    settings = worker_settings(app, config)
    return arq.worker.create_worker(settings, **{"burst": True, "handle_signals": False, **options})


both = pytest.mark.parametrize("build", [ours, arqs])


@pytest.fixture
async def redis(config: Config) -> AsyncIterator[ArqRedis]:
    """A stock arq client: it pickles."""
    opened = connect(config.worker)
    yield ArqRedis(opened.connection_pool)
    await opened.aclose(close_connection_pool=True)


@pytest.fixture
def json_redis(redis: ArqRedis) -> ArqRedis:
    """A stock arq client that was given a JSON serializer."""
    return ArqRedis(
        redis.connection_pool,
        job_serializer=lambda content: json.dumps(content).encode(),
        job_deserializer=json.loads,
    )


async def asked(redis: ArqRedis, function: str, *args: Any, **options: Any) -> Job:
    job = await redis.enqueue_job(function, *args, **options)
    assert job
    return job


async def add(ctx: dict[str, Any], a: int, b: int = 0, *, by: str = "") -> list[Any]:
    return [a + b, by, ctx["job_try"]]


async def since(ctx: dict[str, Any], moment: datetime) -> Any:
    return (moment, ctx["prefix"])


def app(*functions: Any, **options: Any) -> App:
    return App(jobs=[create_project], arq_functions=functions, forget_ended_jobs=False, **options)


@both
async def test_one_worker_runs_kinds_and_arq_functions(
    build: Build, config: Config, client: JobClient, json_redis: ArqRedis, sessions: Sessions
) -> None:
    """Positional arguments, keywords, both; each producer reads its own result; nothing is buried."""
    kind = await client.enqueue(CreateProject(name="Launch"))
    jobs = [
        await asked(json_redis, "add", 1, 2),
        await asked(json_redis, "add", a=3, by="x"),
        await asked(json_redis, "add", 4, by="y"),
    ]
    await drain(build(app(func(add, name="add")), config))
    assert [await job.result(timeout=5) for job in jobs] == [[3, "", 1], [3, "x", 1], [4, "y", 1]]
    (project,) = await rows(sessions, Project)
    assert await kind.result(timeout=5) == project.id
    assert await count(sessions, DeadLetter) == 0


@both
async def test_pickled_jobs_run_where_the_service_gives_its_serializers(
    build: Build, config: Config, redis: ArqRedis, json_redis: ArqRedis
) -> None:
    """With what its startup hook put into ctx; each result is written as its job was."""

    async def on_startup(ctx: dict[Any, Any]) -> None:
        await startup(ctx)
        ctx["prefix"] = "p"

    moment = datetime(2026, 1, 2, tzinfo=UTC)
    pickled = await asked(redis, "since", moment)
    plain = await asked(json_redis, "since", "2026")
    broken = await asked(redis, "since")
    served = app(func(since, name="since"), on_startup=on_startup, on_shutdown=shutdown, **PICKLE)
    await drain(build(served, config))
    assert await pickled.result(timeout=5) == (moment, "p")
    assert await plain.result(timeout=5) == ["2026", "p"]
    with pytest.raises(TypeError, match="moment"):
        await broken.result(timeout=5)
    info = await pickled.result_info()
    assert info
    assert (info.function, info.args, info.queue_name) == ("since", (moment,), "arq:queue")


async def test_any_serializer_may_be_the_services(config: Config, redis: ArqRedis) -> None:
    """Here base64 of JSON."""

    def dump(content: dict[str, Any]) -> bytes:
        return base64.b64encode(json.dumps(content).encode())

    def load(content: bytes) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(base64.b64decode(content, validate=True))
        return found

    client = ArqRedis(redis.connection_pool, job_serializer=dump, job_deserializer=load)
    job = await asked(client, "add", 1, 2)
    await drain(
        ours(app(func(add, name="add"), arq_serializer=dump, arq_deserializer=load), config)
    )
    assert await job.result(timeout=5) == [3, "", 1]


@both
async def test_a_kind_that_was_pickled_runs_if_json_can_carry_its_keywords(
    build: Build, config: Config, redis: ArqRedis, sessions: Sessions
) -> None:
    """The pickling client reads the id; positional arguments are a dead letter that names the cure."""
    good = await asked(redis, "create_project", name="Launch", _actor="service:crm")
    bad = await asked(redis, "create_project", "Launch", _job_id="bad")
    wrong = await asked(redis, "create_project", name="", _job_id="wrong")
    await drain(build(app(**PICKLE), config))
    (project,) = await rows(sessions, Project)
    assert await good.result(timeout=5) == project.id
    assert (await letter(sessions, "bad")).problems[0]["problem"].startswith("positional")
    assert (await letter(sessions, "wrong")).reason == "invalid_payload"
    for job in (bad, wrong):  # by an exception that needs no ledgerq to be unpickled
        info = await job.result_info()
        assert info
        assert type(info.result) is RuntimeError


async def test_arq_functions_keep_arqs_rules(config: Config, redis: ArqRedis) -> None:
    """Retry, arq's own default of five tries, a result that is not kept, a job that waits for its time."""
    tries: list[int] = []

    async def flaky(ctx: dict[str, Any], enough: int) -> int:
        tries.append(ctx["job_try"])
        if ctx["job_try"] < enough:
            raise Retry(defer=0.01)
        return enough

    good, bad = await asked(redis, "flaky", 3), await asked(redis, "flaky", 99)
    gone = await asked(redis, "gone", 1)
    later = await asked(redis, "flaky", 1, _defer_by=3600)
    functions = func(flaky, name="flaky"), func(add, name="gone", keep_result=0)
    await drain(ours(app(*functions, **PICKLE), config, max_burst_jobs=10))
    assert await good.result(timeout=5) == 3
    with pytest.raises(arq.worker.JobExecutionFailed, match="max 5 retries exceeded"):
        await bad.result(timeout=5)
    assert sorted(tries) == [1, 1, 2, 2, 3, 3, 4, 5]
    assert await gone.status() is JobStatus.not_found
    assert await later.status() is JobStatus.deferred


async def test_a_job_whose_end_redis_has_not_heard_of_counts_once(
    config: Config, redis: ArqRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that is to start two jobs starts two, though it looks while the first is acknowledged."""
    looked, acknowledge = asyncio.Event(), Acker.acknowledge

    async def slowly(acker: Acker, acks: Sequence[Ack], **how: Any) -> list[bool]:
        if acks[0].job_id == first.job_id:
            looked.clear()
            await looked.wait()
        return await acknowledge(acker, acks, **how)

    is_over = JobWorker._burst_is_over

    async def look(worker: JobWorker) -> bool:
        looked.set()
        return await is_over(worker)

    first = await asked(redis, "add", 1, 2)
    monkeypatch.setattr(Acker, "acknowledge", slowly)
    monkeypatch.setattr(JobWorker, "_burst_is_over", look)
    second = await asked(redis, "add", 2, 2, _defer_by=0.5)
    await drain(ours(app(func(add, name="add"), **PICKLE), config, max_burst_jobs=2))
    assert await first.result(timeout=5) is not None
    assert await second.result(timeout=5) is not None


async def test_a_function_may_be_a_dotted_name_and_a_cron_job(config: Config) -> None:
    """As arq takes them; two workers of one App do not share the cron job's state."""
    ran = asyncio.Event()

    async def tick(ctx: dict[str, Any]) -> None:
        ran.set()

    job = cron(tick, name="cron:own_tick", second=set(range(60)), run_at_startup=True)
    served = app("asyncio.sleep", arq_cron_jobs=[job])
    worker = ours(served, config, burst=False)
    running = asyncio.create_task(worker.main())
    await asyncio.wait_for(ran.wait(), 10)
    await worker.close()
    await running
    assert "asyncio.sleep" in worker.functions
    assert job.next_run is None


async def test_what_a_function_enqueues_is_written_as_its_service_does(
    config: Config, redis: ArqRedis
) -> None:
    """`ctx["redis"].enqueue_job` pickles where the service does, and writes JSON for a kind."""

    async def parent(ctx: dict[str, Any]) -> None:
        await ctx["redis"].enqueue_job("since", datetime(2026, 1, 2, tzinfo=UTC), _job_id="child")
        await ctx["redis"].enqueue_job("create_project", name="Launch", _job_id="kind")

    await asked(redis, "parent")
    await drain(ours(app(func(parent, name="parent"), **PICKLE), config, max_burst_jobs=1))
    child, kind = await redis.mget("arq:job:child", "arq:job:kind")
    assert pickle.loads(child)["a"] == (datetime(2026, 1, 2, tzinfo=UTC),)  # noqa: S301 - our own
    assert json.loads(kind)["f"] == "create_project"


class Bomb:
    """Unpickled, it leaves a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


async def test_a_pickled_job_is_left_to_a_stock_worker_and_never_unpickled(
    config: Config, client: JobClient, redis: ArqRedis, sessions: Sessions, tmp_path: Path
) -> None:
    """The body stays as it was, no attempt is spent, the burst ends; arq's own worker then runs it."""
    mark = tmp_path / "mark"
    job = await asked(redis, "add", 1, _job_id="left")
    await asked(redis, "boom", Bomb(mark), _job_id="bomb")
    body = await redis.get("arq:job:left")
    good = await client.enqueue(CreateProject(name="Launch"))
    with capture_logs() as logs:
        await drain(ours(app(func(add, name="add")), config))
    assert await good.result(timeout=5)
    assert not mark.exists()
    assert await count(sessions, DeadLetter) == 0
    assert await redis.get("arq:job:left") == body
    assert not await redis.exists(
        "arq:retry:left", "arq:in-progress:left", "ledgerq:running:arq:queue"
    )
    told = {line["function"]: line for line in logs if line["event"] == "job.left"}
    assert told.keys() == {"add", "boom"}
    assert "arq_deserializer" in told["add"]["cure"]
    await redis.zrem(config.worker.queue, "bomb")
    await redis.zadd(config.worker.queue, {"left": 1})
    stock = arq.Worker([func(add, name="add")], redis_pool=redis, burst=True, handle_signals=False)
    await stock.main()
    assert await job.result(timeout=5) == [1, "", 1]


async def test_arqs_own_worker_on_our_settings_leaves_it_too(
    config: Config, redis: ArqRedis, sessions: Sessions
) -> None:
    """For a minute, and arq finds no attempt spent."""
    await asked(redis, "add", 1, _job_id="left")
    worker = arqs(app(func(add, name="add")), config, max_burst_jobs=1)
    await drain(worker)
    assert await redis.zscore(config.worker.queue, "left") is not None
    assert int(await redis.get("arq:retry:left") or 0) == 0
    assert await count(sessions, DeadLetter) == 0


async def test_many_pickled_jobs_keep_nobody_waiting(
    config: Config, client: JobClient, redis: ArqRedis
) -> None:
    """Three thousand at the head of the queue: the good job behind them is done, and they come back one by one."""
    pipe = redis.pipeline(transaction=False)
    body = pickle.dumps({"t": None, "f": "add", "a": (1,), "k": {}, "et": 1})
    for n in range(3000):
        pipe.set(f"arq:job:{n}", body)
        pipe.zadd(config.worker.queue, {str(n): n + 1})
    await pipe.execute()
    good = await client.enqueue(CreateProject(name="Launch"))
    with capture_logs() as logs:
        worker = ours(app(), config)
        await drain(worker)
    assert await good.result(timeout=5)
    assert [line["function"] for line in logs if line["event"] == "job.left"] == ["add"]
    assert worker.jobs_retried == worker.jobs_failed == 0
    left = await redis.zrange(config.worker.queue, 0, -1, withscores=True)
    assert len(left) == 3000
    apart = left[-1][1] - left[0][1]
    assert 0.5 * 3000 * 20 < apart < 1.5 * 3000 * 20  # milliseconds: 50 a second come back


async def test_status_and_job_say_why_it_waits(config: Config, redis: ArqRedis) -> None:
    """The function, the format, the cure."""
    await asked(redis, "add", 1, _job_id="left")
    worker = ours(app(), config, burst=False)
    running = asyncio.create_task(worker.main())

    async def told() -> Any:
        found = (await status(config)).queue
        return found and found.waits

    (wait,) = await eventually(told)
    await worker.close()
    await running
    assert wait.reason == "pickle"
    assert "function add" in wait.text
    assert "arq_deserializer" in wait.text
    found = await job_status(config, "left")
    assert (found.state, found.kind, found.attempt) == ("deferred", "add", None)
    assert "its body is pickle" in (found.note or "")


async def test_a_pickled_job_that_the_deserializer_cannot_read_is_left(
    config: Config, redis: ArqRedis, sessions: Sessions
) -> None:
    """A class may have moved, a deploy may be under way: the log names what was raised."""

    def load(content: bytes) -> Any:
        raise ModuleNotFoundError("No module named 'shop'")

    await asked(redis, "add", 1, _job_id="left")
    with capture_logs() as logs:
        await drain(ours(app(arq_deserializer=load), config))
    (told,) = [line for line in logs if line["event"] == "job.left"]
    assert "No module named 'shop'" in told["problem"]
    assert await redis.zscore(config.worker.queue, "left")
    assert await count(sessions, DeadLetter) == 0


@pytest.mark.parametrize("pickles", [True, False])
async def test_a_function_that_no_worker_knows_is_buried_like_an_unknown_kind(
    config: Config, redis: ArqRedis, json_redis: ArqRedis, sessions: Sessions, pickles: bool
) -> None:
    """After as many attempts as a deploy may take: positional arguments are no reason to bury it at once."""
    hurried = Config(config.worker.model_copy(update={"max_attempts": 1}), config.database)
    await asked(redis if pickles else json_redis, "nobody", 1, _job_id="x")
    worker = ours(app(**PICKLE) if pickles else app(), hurried)
    await drain(worker)
    buried = await letter(sessions, "x")
    assert (buried.reason, buried.attempt) == ("unknown_kind", 4)
    assert "'nobody' is unknown" in buried.error


async def test_a_left_job_calls_no_hook(config: Config, redis: ArqRedis) -> None:
    """It has neither begun nor ended."""
    called: list[str] = []

    async def hook(ctx: dict[Any, Any]) -> None:
        called.append(ctx["job_id"])

    await asked(redis, "add", 1, _job_id="left")
    await drain(ours(app(), config, on_job_start=hook, on_job_end=hook, after_job_end=hook))
    assert called == []


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"arq_functions": [func(add, name="create_project")]}, "has the name of a kind"),
        ({"arq_functions": [add, add]}, "is there twice"),
        ({"arq_cron_jobs": [cron(add, name="cron:create_project")]}, "has the name of a kind"),
        ({"arq_serializer": pickle.dumps}, "is of no use alone"),
    ],
)
def test_what_cannot_work_is_refused_when_the_app_is_made(
    options: dict[str, Any], problem: str
) -> None:
    """arq would let the last function of a name take the jobs of all."""
    with pytest.raises(DefinitionError, match=problem):
        App(jobs=[create_project], **options)


def test_what_is_no_coroutine_function_is_refused_when_the_worker_is_built(config: Config) -> None:
    """By a sentence that names the argument."""
    with pytest.raises(DefinitionError, match="arq_functions"):
        ours(app("json.dumps"), config)
    with pytest.raises(DefinitionError, match="arq_functions"):
        ours(app("no.such.module"), config)


async def test_an_arq_function_that_kills_its_workers_is_given_up(
    config: Config, json_redis: ArqRedis
) -> None:
    """After as many deaths as a job of ours: it runs no more, and who waits for it is told."""
    ran = []

    async def dies(ctx: dict[str, Any]) -> None:
        ran.append(ctx["job_id"])

    job = await asked(json_redis, "dies", _job_id="d")
    await json_redis.hset(failures_key("arq:queue", "d"), "crashes", "3")  # type: ignore[misc]
    await drain(ours(app(func(dies, name="dies")), config))
    with pytest.raises(Exception, match="3 workers died"):
        await job.result(timeout=1)
    assert ran == []
