"""The producer's side, quickly: on a Redis that is only pretended."""

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from arq.connections import ArqRedis
from fakeredis.aioredis import FakeRedis

from jobs.kinds import CreateProject, CreateTask
from ledgerq import Payload
from ledgerq.client import JobClient
from ledgerq.errors import JobFailed, PayloadMismatch, ResultExpired, ResultNotKept
from ledgerq.wire.arq_json import from_wire, to_wire
from ledgerq.wire.envelope import decode
from ledgerq.wire.request import Request


@pytest.fixture
async def redis() -> AsyncIterator[ArqRedis]:
    async with FakeRedis() as fake:
        yield ArqRedis(fake.connection_pool, job_serializer=to_wire, job_deserializer=from_wire)


async def test_what_is_enqueued_is_arqs_dictionary_in_json(redis: ArqRedis) -> None:
    """Only what the producer set travels; who asks and the trace ride along."""
    payload = CreateTask(title="x", project_id=1)
    job = await JobClient(redis).enqueue(payload, actor="user:7", trace_id="t")
    body = await redis.get(f"arq:job:{job.job_id}")
    assert body
    envelope = decode(body)
    assert envelope.payload == {"title": "x", "project_id": 1}
    assert (envelope.actor, envelope.trace_id) == ("user:7", "t")


async def test_a_delay_is_in_the_score(redis: ArqRedis) -> None:
    """The queue is a sorted set by the time at which a job may start."""
    client = JobClient(redis)
    now = await client.enqueue(CreateProject(name="now"))
    later = await client.enqueue(CreateProject(name="later"), delay=timedelta(hours=1))
    scores = [await redis.zscore("arq:queue", job.job_id) for job in (now, later)]
    assert scores[1] - scores[0] == pytest.approx(3_600_000, abs=5_000)


async def test_a_failed_job_raises_with_its_reason(redis: ArqRedis) -> None:
    """What the dead letter says in one line."""
    job = await JobClient(redis).enqueue(CreateProject(name="x"))
    result = to_wire({"s": False, "r": ValueError("refused: project_id")})
    await redis.set(f"arq:result:{job.job_id}", result)
    with pytest.raises(JobFailed, match="refused: project_id"):
        await job.result(timeout=1)


async def test_a_result_that_is_gone_says_so(redis: ArqRedis) -> None:
    """Neither queued nor kept: waiting would never end."""
    job = await JobClient(redis).enqueue(CreateProject(name="x"))
    await redis.flushall()
    with pytest.raises(ResultExpired):
        await job.result(timeout=1)


async def test_nobody_waits_for_a_result_that_redis_will_not_keep(redis: ArqRedis) -> None:
    """It is said at once, with the place where the result will be; though the job is on the queue."""

    class Touch(Payload[int], kind="touch", keep_result=0):
        """A payload."""

    client = JobClient(redis)
    job = await client.enqueue(Touch(), job_id="x")
    for asked in (job, client.job("x", Touch)):
        with pytest.raises(ResultNotKept, match=r"touch \(keep_result=0\).*: ledgerq job x"):
            await asked.result(timeout=5)


async def test_a_result_that_does_not_come_is_a_timeout(redis: ArqRedis) -> None:
    """The job goes on; only the waiting ends."""
    job = await JobClient(redis).enqueue(CreateProject(name="x"))
    with pytest.raises(TimeoutError):
        await job.result(timeout=0.05)


async def test_enqueuing_nothing_is_nothing(redis: ArqRedis) -> None:
    """An empty list makes no round trip."""
    assert await JobClient(redis).enqueue_many([]) == []
    assert len(await JobClient(redis).enqueue_many([Request(CreateProject(name="x"))])) == 1


async def test_a_buried_jobs_result_has_no_arguments_and_is_told_apart_by_its_hash(
    redis: ArqRedis,
) -> None:
    """Enqueued again it is the same job; with another payload it is refused. What it carried is in its letter."""
    client = JobClient(redis)
    job = await client.enqueue(CreateProject(name="secret"), job_id="x")
    body = await redis.get("arq:job:x")
    told = {"t": 1, "f": "create_project", "a": (body,), "k": {}, "et": 1, "s": False}
    result = to_wire({**told, "r": ValueError("refused"), "q": "arq:queue", "id": "x"})
    assert b"secret" not in result
    assert result.endswith(b',"q":"arq:queue"}')
    await redis.delete("arq:job:x", "arq:queue")
    await redis.set("arq:result:x", result)
    assert not (await client.enqueue(CreateProject(name="secret"), job_id="x")).is_new
    with pytest.raises(PayloadMismatch):
        await client.enqueue(CreateProject(name="other"), job_id="x")
    with pytest.raises(JobFailed, match="refused"):
        await job.result(timeout=1)


def test_a_buried_body_that_nobody_can_read_is_not_repeated() -> None:
    """Its letter has the bytes."""
    told = {"t": 1, "f": "x", "a": (b"{illegible",), "k": {}, "et": 1, "s": False, "r": "no"}
    assert b"illegible" not in to_wire(told)
    assert b"aWxsZWdpYmxl" not in to_wire(told)
