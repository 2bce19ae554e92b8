"""Two services with queues and databases of their own on one Redis: neither ever touches the other's jobs."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
from arq.connections import ArqRedis
from arq.constants import abort_jobs_ss
from sqlalchemy.engine import URL
from structlog.testing import capture_logs

from db.database import build_database
from db.models import Project
from jobs.kinds import CreateProject
from ledgerq.admin.cancel import cancel
from ledgerq.admin.dead_letters import replay
from ledgerq.admin.job_status import job_status
from ledgerq.broker import keys
from ledgerq.broker.claims import Ack, Broker, LeaseSettings
from ledgerq.broker.connection import connect, tick_id
from ledgerq.broker.presence import beat, living_workers
from ledgerq.broker.queue import remove_from_queue
from ledgerq.broker.relay import Relay
from ledgerq.client import JobClient
from ledgerq.config import Config
from ledgerq.database.engine import Database
from ledgerq.database.settings import DatabaseConfig
from ledgerq.database.transaction import transaction
from ledgerq.errors import IdHeld, ResultExpired
from ledgerq.staging import stage
from ledgerq.store import dead_letters, outbox
from ledgerq.store.tables import JobState, OutboxMessage
from ledgerq.wire.envelope import Envelope, decode, encode, queue_of
from ledgerq.wire.request import Unique
from tests.support import drain, our_worker, rows
from worker.app import app

A, B = "arq:queue", "billing"
MINE, YOURS = CreateProject(name="mine"), CreateProject(name="yours")


@dataclass
class Service:
    """One of the two: its settings, a client, and the database."""

    config: Config
    client: JobClient
    redis: ArqRedis
    database: Database

    @property
    def queue(self) -> str:
        return self.config.worker.queue

    async def names(self) -> list[str]:
        return sorted(project.name for project in await rows(self.database.sessions, Project))

    async def staged(self) -> list[str]:
        return [message.job_id for message in await rows(self.database.sessions, OutboxMessage)]

    async def stage(self, payload: CreateProject, job_id: str) -> None:
        async with transaction(self.database.sessions) as session:
            await stage(session, payload, job_id=job_id)

    async def due_again(self, job_id: str) -> None:
        async with transaction(self.database.sessions) as session:
            await outbox.due_now(session, [job_id])

    async def relay(self) -> Relay:
        relay = Relay(self.redis, self.database.sessions, self.queue, 1)
        await relay.dispatch()
        return relay

    async def work(self) -> None:
        await drain(our_worker(self.config, app.registry(), burst=True, handle_signals=False))


@pytest.fixture
async def services(config: Config, sqlite_url: URL) -> AsyncIterator[tuple[Service, Service]]:
    """Two services that share nothing but the Redis."""
    other = Config(config.worker.model_copy(update={"queue": B}), DatabaseConfig(url=sqlite_url))
    made = []
    for each in (config, other):
        redis = connect(each.worker)
        made.append(Service(each, JobClient(redis), redis, build_database(each.database)))
    yield made[0], made[1]
    for service in made:
        await service.redis.aclose(close_connection_pool=True)
        await service.database.dispose()


async def test_both_services_run_their_own_jobs(services: tuple[Service, Service]) -> None:
    """With ids of their own, direct and staged: each job runs once, in the database of its service."""
    a, b = services
    await a.client.enqueue(MINE, job_id="a-1")
    await b.client.enqueue(YOURS, job_id="b-1")
    await a.stage(MINE, "a-2")
    await b.stage(YOURS, "b-2")
    await asyncio.gather(a.work(), b.work())
    assert await a.names() == ["mine", "mine"]
    assert await b.names() == ["yours", "yours"]


async def test_an_id_that_another_queue_holds_is_refused_aloud(
    services: tuple[Service, Service],
) -> None:
    """Both direct, in one call or in many: the error names queue and cure, and the body stays."""
    a, b = services
    await a.client.enqueue(MINE, job_id="x")
    body = await a.redis.get(keys.job_key("x"))
    with pytest.raises(IdHeld, match="queue 'arq:queue' on the same Redis holds x"):
        await b.client.enqueue(YOURS, job_id="x")
    with pytest.raises(IdHeld):
        await b.client.enqueue(MINE, job_id="x")
    assert await a.redis.get(keys.job_key("x")) == body
    assert await b.redis.zscore(B, "x") is None
    await a.work()
    with pytest.raises(IdHeld):  # its result is kept
        await b.client.enqueue(YOURS, job_id="x")
    await a.redis.delete(keys.result_key("x"))
    assert (await b.client.enqueue(YOURS, job_id="x")).is_new


async def test_a_staged_job_waits_until_its_id_is_free(services: tuple[Service, Service]) -> None:
    """Both staged, one id: the later one stays in the outbox, is told of once, and runs when it can."""
    a, b = services
    await a.stage(MINE, "x")
    await b.stage(YOURS, "x")
    await a.relay()
    body = await a.redis.get(keys.job_key("x"))
    assert body is not None
    assert queue_of(body) == A
    with capture_logs() as logs:
        relay = await b.relay()
        await b.due_again("x")
        await relay.dispatch()
    told = [line for line in logs if line["event"] == "relay.id_held"]
    assert [(line["job_id"], line["holder"]) for line in told] == [("x", A)]
    assert await a.redis.get(keys.job_key("x")) == body
    assert await b.staged() == ["x"]
    status = await job_status(b.config, "x")
    assert (status.state, "queue 'arq:queue' has this id" in (status.note or "")) == (
        "staged",
        True,
    )
    await a.work()
    await a.redis.delete(keys.result_key("x"))
    await b.due_again("x")
    await b.work()
    assert (await a.names(), await b.names(), await b.staged()) == (["mine"], ["yours"], [])


async def test_a_stock_clients_job_of_another_queue_is_not_overwritten(
    services: tuple[Service, Service],
) -> None:
    """Its body names no queue; it is not on ours, so it is not ours."""
    a, b = services
    await a.redis.enqueue_job("create_project", _job_id="x", name="mine")
    with pytest.raises(IdHeld, match="another queue, or a program that is not ours"):
        await b.client.enqueue(YOURS, job_id="x")
    await b.stage(YOURS, "x")
    await b.relay()
    assert decode(await a.redis.get(keys.job_key("x")) or b"").payload == {"name": "mine"}
    await asyncio.gather(a.work(), b.relay())
    assert (await a.names(), await b.staged()) == (["mine"], ["x"])


async def test_a_stock_client_finds_the_id_taken(services: tuple[Service, Service]) -> None:
    """arq's own rule: no second job under an id whose body or result is there."""
    a, b = services
    await a.client.enqueue(MINE, job_id="x")
    assert await b.redis.enqueue_job("create_project", _job_id="x", _queue_name=B, name="y") is None
    await a.work()
    assert await a.names() == ["mine"]


@pytest.mark.parametrize("gone", ["queue entry", "queue"])
async def test_an_orphaned_body_does_not_block_its_id(
    services: tuple[Service, Service], gone: str
) -> None:
    """Of our queue or of another: where the job is no longer queued, the id is free."""
    a, b = services
    await a.client.enqueue(MINE, job_id="x")
    await (a.redis.zrem(A, "x") if gone == "queue entry" else a.redis.delete(A))
    assert (await a.client.enqueue(YOURS, job_id="x")).is_new
    await a.redis.zrem(A, "x")
    assert (await b.client.enqueue(YOURS, job_id="x")).is_new
    await b.work()
    assert (await a.names(), await b.names()) == ([], ["yours"])


async def test_a_body_of_an_older_version_on_our_queue_is_ours(
    services: tuple[Service, Service],
) -> None:
    """Version 0.1 named no queue: what it left on our queue is answered with, and runs."""
    a, b = services
    await a.redis.set(keys.job_key("x"), encode(Envelope("create_project", {"name": "mine"})))
    await a.redis.zadd(A, {"x": 1})
    assert not (await a.client.enqueue(MINE, job_id="x")).is_new
    with pytest.raises(IdHeld):
        await b.client.enqueue(MINE, job_id="x")
    await a.work()
    assert await a.names() == ["mine"]


async def test_a_worker_never_runs_the_body_of_another_queue(
    services: tuple[Service, Service],
) -> None:
    """An entry of ours over a body of theirs is one without a body; nothing of theirs is touched."""
    a, b = services
    await a.client.enqueue(MINE, job_id="x")
    await a.redis.set(f"{keys.retry_key_prefix}x", 3)
    await b.redis.zadd(B, {"x": 1})
    before = await a.redis.dump(keys.job_key("x"))
    await b.work()
    assert await b.redis.zscore(B, "x") is None
    assert await a.redis.dump(keys.job_key("x")) == before
    assert await a.redis.get(f"{keys.retry_key_prefix}x") == b"3"
    assert await a.redis.exists(keys.result_key("x")) == 0
    async with b.database.sessions() as session:
        letter = await dead_letters.find(session, "x")
    assert letter
    assert letter.reason == "expired"
    await a.work()
    assert (await a.names(), await b.names()) == (["mine"], [])


async def test_a_claim_without_its_body_is_renewed_and_handed_back(
    services: tuple[Service, Service],
) -> None:
    """It touches no key of arq's: the other queue's worker may hold the same id meanwhile."""
    a, b = services
    await a.client.enqueue(MINE, job_id="x")
    ours = Broker.connect(a.redis, A, "ours", LeaseSettings())
    theirs = Broker.connect(b.redis, B, "theirs", LeaseSettings())
    assert [claim.body for claim in (await ours.claim(1, busy=0)).jobs] != [b""]
    await b.redis.zadd(B, {"x": 1})
    (claim,) = (await theirs.claim(1, busy=0)).jobs
    assert (claim.body, claim.attempt) == (b"", 1)
    assert [lease.name for lease in (await theirs.renew(["x"])).values()] == ["RENEWED"]
    assert await theirs.acknowledge([Ack("x", "release")]) == [True]
    assert await ours.acknowledge([Ack("x", "done", result=b"{}", keep=1000)]) == [True]
    assert await a.redis.exists(keys.result_key("x")) == 1
    for broker in (ours, theirs):
        await broker.close()


async def test_cancel_in_one_service_leaves_the_other_alone(
    services: tuple[Service, Service],
) -> None:
    """The job of that id on the other queue still runs, and keeps its body."""
    a, b = services
    await a.client.enqueue(MINE, job_id="x")
    answer = await cancel(b.redis, b.database.sessions, B, "x", actor="me", reason="")
    assert (answer.state, answer.known) == (JobState.CANCELLED, False)
    assert await a.redis.exists(keys.result_key("x")) == 0
    await a.work()
    assert await a.names() == ["mine"]


async def test_replay_in_one_service_leaves_the_other_alone(
    services: tuple[Service, Service],
) -> None:
    """The letter's job is staged again; what Redis has under its id is the other service's."""
    a, b = services
    await b.client.enqueue(CreateProject.model_construct(name=""), job_id="x")
    await b.work()
    await b.redis.delete(keys.result_key("x"))
    await a.client.enqueue(MINE, job_id="x")
    mended = await replay(
        b.redis, b.database.sessions, B, ["x"], actor="me", reason="", payload={"name": "yours"}
    )
    assert [each.job_id for each in mended.jobs] == ["x"]
    assert await a.redis.exists(keys.job_key("x")) == 1
    await b.relay()
    await a.work()
    assert (await a.names(), await b.staged()) == (["mine"], ["x"])


async def test_retracting_spares_what_is_not_ours(services: tuple[Service, Service]) -> None:
    """Body, retries and a kept result of another queue stay."""
    a, b = services
    await a.client.enqueue(MINE, job_id="x")
    await a.redis.set(f"{keys.retry_key_prefix}x", 2)
    assert await remove_from_queue(b.redis, B, {"x": b"cancelled"}, keep=10) == 1
    assert await a.redis.exists(keys.job_key("x"), f"{keys.retry_key_prefix}x") == 2
    assert await a.redis.exists(keys.result_key("x")) == 0
    await a.work()
    kept = await a.redis.get(keys.result_key("x"))
    assert await remove_from_queue(b.redis, B, {"x": b"cancelled"}, keep=10) == 1
    assert await a.redis.get(keys.result_key("x")) == kept


async def test_a_result_of_another_queue_is_never_answered(
    services: tuple[Service, Service],
) -> None:
    """Who waits for an id of ours is not told what another service's job answered."""
    a, b = services
    await a.client.enqueue(MINE, job_id="x")
    await a.work()
    assert await a.client.job("x").result(timeout=5)
    with pytest.raises(ResultExpired):
        await b.client.job("x").result(timeout=5)


async def test_an_abort_is_for_the_job_that_it_was_asked_for(
    services: tuple[Service, Service],
) -> None:
    """A mark that another queue's, or an earlier, job of the id left behind aborts no new one."""
    a, b = services
    past = (datetime.now(UTC) - timedelta(minutes=1)).timestamp() * 1000
    await a.redis.zadd(abort_jobs_ss, {"x": past, "y": past, "z": past})
    await b.client.enqueue(YOURS, job_id="x")
    await b.stage(YOURS, "y")
    await b.redis.enqueue_job("create_project", _job_id="z", _queue_name=B, name="yours")
    await b.work()
    assert await b.names() == ["yours"] * 3
    await b.client.enqueue(YOURS, job_id="new")
    await a.redis.zadd(abort_jobs_ss, {"new": datetime.now(UTC).timestamp() * 1000 + 1000})
    await b.work()
    assert await b.names() == ["yours"] * 3


async def test_unique_keys_and_worker_lists_are_each_queues_own(
    services: tuple[Service, Service],
) -> None:
    """The same kind and key on two queues are two jobs; a worker of one is none of the other."""
    a, b = services
    once = Unique("key", timedelta(hours=1))
    assert (await a.client.enqueue(MINE, unique=once)).is_new
    assert (await b.client.enqueue(YOURS, unique=once)).is_new
    assert not (await b.client.enqueue(YOURS, unique=once)).is_new
    await beat(a.redis, a.redis.default_queue_name, "ledgerq:somewhere:1", lease=15)
    assert await living_workers(a.redis) == ["ledgerq:somewhere:1"]
    assert await living_workers(b.redis) == []
    assert keys.failures_key("a", "b:c") != keys.failures_key("a:b", "c")
    assert keys.unique_key("a", "b:c", "d") != keys.unique_key("a:b", "c", "d")


async def test_the_same_tick_runs_once_on_each_queue(services: tuple[Service, Service]) -> None:
    """Two services with one schedule: the ids of their ticks differ, and each comes once."""
    a, b = services
    now = int(datetime.now(UTC).timestamp() * 1000)
    name = "cron:create_project"
    for service in services:
        first, second = [
            await service.redis.enqueue_job(
                name, _job_id=f"{name}:{now}", _queue_name=service.queue, name=service.queue
            )
            for _ in range(2)
        ]
        assert first
        assert second is None
    assert await a.redis.zrange(A, 0, -1) == [f"{name}:{now}".encode()]
    assert await b.redis.zrange(B, 0, -1) == [f"{name}:{now}:{B}".encode()]
    assert len(tick_id(f"{name}:{now}", "q" * 300)) <= 200


async def test_retries_that_were_counted_for_another_job_do_not_count(
    services: tuple[Service, Service],
) -> None:
    """What a lost job of the same id left behind is not the new one's."""
    a, b = services
    await a.client.enqueue(MINE, job_id="x")
    await a.redis.set(f"{keys.retry_key_prefix}x", 4)
    await a.redis.delete(A)
    await b.client.enqueue(YOURS, job_id="x")
    broker = Broker.connect(b.redis, B, "w", LeaseSettings())
    (claim,) = (await broker.claim(1, busy=0)).jobs
    assert claim.attempt == 1
    await broker.close()


async def test_a_cancelled_jobs_unique_key_is_free(services: tuple[Service, Service]) -> None:
    """Enqueued again under the same key, it is a new job; a key that is another job's stays."""
    a, _ = services
    once = Unique("key", timedelta(hours=1))
    first = await a.client.enqueue(MINE, unique=once)
    await cancel(a.redis, a.database.sessions, A, first.job_id, actor="me", reason="")
    second = await a.client.enqueue(MINE, unique=once)
    assert (second.is_new, second.job_id != first.job_id) == (True, True)
    await a.redis.set(keys.unique_key(A, "create_project", "key"), "somebody")
    await cancel(a.redis, a.database.sessions, A, second.job_id, actor="me", reason="")
    assert not (await a.client.enqueue(MINE, unique=once)).is_new
