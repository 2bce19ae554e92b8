"""The producer's side, quickly: on a Redis that is only pretended."""

from collections.abc import AsyncIterator
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

import pytest
from arq.connections import ArqRedis
from fakeredis import FakeServer
from fakeredis.aioredis import FakeRedis
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, model_serializer
from pydantic_core import to_json

from jobs.kinds import CreateProject, CreateTask
from ledgerq import Payload
from ledgerq.client import JobClient, results
from ledgerq.errors import InvalidRequest, JobFailed, PayloadMismatch, ResultExpired, ResultNotKept
from ledgerq.wire.arq_json import from_wire, to_wire
from ledgerq.wire.envelope import Envelope, decode, encode
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


async def test_jobs_of_several_servers_are_awaited_together(redis: ArqRedis) -> None:
    """Each client's Redis is asked for its own jobs, also if two of them have one id."""
    async with FakeRedis(server=FakeServer()) as fake:
        other = ArqRedis(fake.connection_pool, job_serializer=to_wire, job_deserializer=from_wire)
        jobs = []
        for number, each in enumerate((redis, other)):
            job = await JobClient(each).enqueue(CreateProject(name="x"), job_id="same")
            await each.set("arq:result:same", to_wire({"s": True, "r": number, "q": job.queue}))
            jobs.append(job)
        assert await results(jobs) == [0, 1]


async def test_one_id_on_two_queues_is_two_jobs(redis: ArqRedis) -> None:
    """Each has its own answer, or none."""
    client = JobClient(redis)
    await redis.set(
        "arq:result:z", to_json({"s": True, "r": 5, "q": client.job("z", queue="a").queue})
    )
    theirs, ours = client.job("z", queue="b"), client.job("z", queue="a")
    assert await results([ours, ours]) == [5, 5]
    for jobs in ([theirs, ours], [ours, theirs]):
        with pytest.raises(ResultExpired):
            await results(jobs)


async def test_an_answer_that_looks_like_a_cancellation_is_an_answer(redis: ArqRedis) -> None:
    """Only a failure is one; an aborted job says what it was."""
    said = {"error": "CancelledError", "message": ""}
    await redis.set("arq:result:z", to_json({"s": True, "r": said}))
    assert await JobClient(redis).job("z").result() == said
    await redis.set("arq:result:z", to_json({"s": False, "r": said}))
    with pytest.raises(JobFailed, match="aborted"):
        await JobClient(redis).job("z").result()


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


class Anything(Payload, kind="anything", extra="allow"):
    """What a service's model may hold."""

    value: Any = None
    day: date | None = None
    amount: Decimal | None = None
    raw: bytes | None = None


finite = st.floats(allow_nan=False, allow_infinity=False)
some_json = st.recursive(
    st.none() | st.booleans() | st.integers() | finite | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


class Nested(BaseModel):
    """Has a configuration of its own."""

    number: float | None


@given(
    st.builds(
        Anything,
        value=some_json,
        day=st.none() | st.dates(),
        amount=st.none() | st.decimals(allow_nan=False, allow_infinity=False),
        raw=st.none() | st.text(max_size=5).map(str.encode),
    ),
    st.sampled_from(["unknown", "user:7"]),
)
def test_a_body_straight_from_the_model_is_that_of_its_envelope(
    payload: Anything, actor: str
) -> None:
    """The client has no dictionary made of it; a staged job has, for its row: both must be one job."""
    request = Request(payload, actor=actor, trace_id="t")
    straight = decode(encode(Envelope("anything", {}, actor, "t"), fields=request.fields))
    slowly = decode(encode(request.envelope))
    assert straight.payload_hash == slowly.payload_hash == request.envelope.payload_hash
    assert (straight.payload, straight.actor) == (slowly.payload, slowly.actor)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_a_number_that_is_none_is_refused_by_name(number: float) -> None:
    """The producer hears of it, not the dead letter."""
    with pytest.raises(InvalidRequest, match=r"payload: no worker could read it"):
        Request(Anything(value={"a": [number]})).fields  # noqa: B018 - it raises
    with pytest.raises(InvalidRequest, match=r"payload: no worker could read it"):
        Request(Anything(value=Nested(number=number))).fields  # noqa: B018 - it raises
    assert Request(Anything(value=Nested(number=None))).fields == b'{"value":{"number":null}}'


def test_a_field_with_a_reserved_name_is_refused() -> None:
    """Also one that the model allows beside its own; a nested name and a text are the payload's affair."""
    with pytest.raises(InvalidRequest, match="names that begin with _ are reserved: _actor"):
        Request(Anything(_actor="me")).fields  # noqa: B018 - it raises
    assert b"_actor" in Request(Anything(value={"_actor": '"_staged"'})).fields


def test_a_payload_that_is_no_object_is_refused() -> None:
    """A serializer of the service's own may answer with anything."""

    class Bare(Payload, kind="bare"):
        @model_serializer
        def _bare(self) -> str:
            return "x"

    with pytest.raises(InvalidRequest, match="must be a JSON object"):
        Request(Bare()).fields  # noqa: B018 - it raises
