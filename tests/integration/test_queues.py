"""Queues: a kind has one, any relay carries it, only its workers run it; a worker serves several, fairly."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from arq import constants
from arq.connections import ArqRedis
from sqlalchemy import text
from structlog.testing import capture_logs

from jobs.kinds import CreateProject
from ledgerq.admin.cancel import cancel
from ledgerq.admin.dead_letters import replay
from ledgerq.admin.health import check
from ledgerq.admin.job_status import job_status
from ledgerq.admin.status import status
from ledgerq.broker import keys
from ledgerq.broker.claims import Ack, Broker, LeaseSettings, RenewalStatus
from ledgerq.broker.many_queues import ManyQueues, SomeQueuesFailed, served
from ledgerq.broker.presence import living_workers
from ledgerq.broker.relay import Relay
from ledgerq.client import EnqueuedJob, JobClient, results
from ledgerq.config import Config, WorkerConfig
from ledgerq.database.engine import Sessions
from ledgerq.database.transaction import transaction
from ledgerq.errors import (
    DefinitionError,
    IdHeld,
    InvalidRequest,
    Permanent,
    ResultExpired,
    SettingError,
)
from ledgerq.execution.registry import Registry
from ledgerq.job import JobContext, Kind
from ledgerq.schedule import Recurring
from ledgerq.settings import load
from ledgerq.staging import stage
from ledgerq.store import outbox
from ledgerq.store.tables import DeadLetter, JobState, OutboxMessage
from ledgerq.wire import queue_name
from ledgerq.wire.payload import Payload
from ledgerq.wire.request import Request
from ledgerq.worker.worker import JobWorker
from tests.support import count, done, drain, eventually, halt, letter, our_worker, rows

DEFAULT, BILLING = "arq:queue", "billing"


class Charge(Payload[int], kind="charge", queue=BILLING):
    """A job of the second queue."""

    cents: int = 1
    refused: bool = False


class Greet(Payload[str], kind="greet"):
    """A job of the default queue."""

    name: str = "you"


class Fixture:
    """The kinds, and what they did."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.started, self.go_on = asyncio.Event(), asyncio.Event()
        self.go_on.set()

    async def charge(self, context: JobContext[Any], charge: Charge) -> int:
        self.started.set()
        await self.go_on.wait()
        if charge.refused:
            raise Permanent("no")
        self.ran.append("charge")
        return charge.cents

    async def greet(self, context: JobContext[Any], greet: Greet) -> str:
        self.ran.append("greet")
        return greet.name

    def registry(self) -> Registry:
        return Registry([Kind(Charge, self.charge), Kind(Greet, self.greet)])


@pytest.fixture
def service() -> Fixture:
    return Fixture()


def serving(config: Config, *queues: str, default: str = DEFAULT) -> Config:
    changed = config.worker.model_copy(update={"queues": queues, "queue": default})
    return Config(changed, config.database)


def worker_of(config: Config, service: Fixture, **options: Any) -> JobWorker:
    options = {"burst": True, "handle_signals": False, "schedule": (), **options}
    return our_worker(config, service.registry(), **options)


async def staged(sessions: Sessions, *requests: Request) -> None:
    for each in requests:
        async with transaction(sessions) as session:
            await stage(session, each.payload, job_id=each.job_id, queue=each.queue)


async def queued(redis: ArqRedis, queue: str) -> list[str]:
    return [each.decode() for each in await redis.zrange(queue, 0, -1)]


async def test_a_job_goes_to_the_queue_of_its_kind(
    config: Config, client: JobClient, redis: ArqRedis, service: Fixture
) -> None:
    """One by one and many at once, the answers in the order asked; a request's own queue wins."""
    asked = [
        Request(Charge(), "a"), Request(Greet(), "b"), Request(Charge(), "c"),
        Request(Charge(), "d", queue="default"), Request(Greet(), "e", queue=BILLING),
    ]  # fmt: skip
    jobs = await client.enqueue_many(asked)
    assert [job.job_id for job in jobs] == list("abcde")
    assert [job.queue for job in jobs] == [BILLING, DEFAULT, BILLING, DEFAULT, BILLING]
    assert (sorted(await queued(redis, BILLING)), sorted(await queued(redis, DEFAULT))) == (
        ["a", "c", "e"],
        ["b", "d"],
    )
    assert not (await client.enqueue(Charge(), job_id="a")).is_new
    with pytest.raises(IdHeld, match="billing"):
        await client.enqueue(Charge(), job_id="a", queue=DEFAULT)
    await drain(worker_of(serving(config, BILLING, DEFAULT), service))
    assert await results(jobs) == [1, "you", 1, 1, "you"]


async def test_only_workers_of_the_queue_run_its_jobs(
    config: Config, client: JobClient, sessions: Sessions, service: Fixture
) -> None:
    """Direct and staged: the other fleet's worker carries the staged ones, and runs none."""
    await client.enqueue_many([Charge(), Greet()])
    await staged(sessions, Request(Charge()), Request(Greet()))
    await drain(worker_of(config, service))
    assert service.ran == ["greet", "greet"]
    await drain(worker_of(serving(config, BILLING), service))
    assert sorted(service.ran) == ["charge", "charge", "greet", "greet"]
    assert await count(sessions, OutboxMessage) == 0


@pytest.mark.parametrize("named", [True, False], ids=["as the class says", "by SQL, no queue"])
async def test_any_relay_carries_a_staged_job_to_its_queue(
    config: Config, sessions: Sessions, redis: ArqRedis, service: Fixture, *, named: bool
) -> None:
    """The outbox keeps the queue; where a row names none, the application's kinds say."""
    await staged(sessions, Request(Charge(), "a"), Request(Greet(), "b"))
    if not named:
        async with transaction(sessions) as session:
            await session.execute(text("UPDATE ledgerq.outbox_message SET queue = NULL"))
    relay = Relay(redis, sessions, DEFAULT, 1, service.registry().queues)
    assert await relay.dispatch() == 2
    assert (await queued(redis, BILLING), await queued(redis, DEFAULT)) == (["a"], ["b"])


async def test_sql_names_a_queue_or_leaves_it_to_the_kind(
    sessions: Sessions, redis: ArqRedis, service: Fixture
) -> None:
    """`enqueue_job(…, queue => …)`."""
    async with transaction(sessions) as session:
        for argument in ("job_id => 'kind'", "job_id => 'named', queue => 'eu'"):
            await session.execute(text(f"SELECT ledgerq.enqueue_job('charge', {argument})"))
    await Relay(redis, sessions, DEFAULT, 1, service.registry().queues).dispatch()
    assert (await queued(redis, BILLING), await queued(redis, "eu")) == (["kind"], ["named"])


async def test_two_fleets_on_one_database_leave_each_others_jobs_alone(
    config: Config, sessions: Sessions, client: JobClient
) -> None:
    """Each with kinds and a default queue of its own, and jobs that name no queue: each runs its own, all are run."""

    class Other(Payload[str], kind="other"):
        pass

    ran: list[str] = []

    async def handle(context: JobContext[Any], payload: Payload[str]) -> str:
        ran.append(f"{payload.kind} on {context.origin.kind}")
        return payload.kind

    one, two = (Registry([Kind(payload, handle)]) for payload in (Greet, Other))
    await staged(sessions, *[Request(each()) for each in [Greet, Other] * 20])
    options = {"handle_signals": False, "schedule": ()}
    configs = serving(config, default="shop"), serving(config, default="crm")
    workers = [
        our_worker(each, registry, **options)
        for each, registry in zip(configs, (one, two), strict=True)
    ]
    with capture_logs() as logs:
        running = [asyncio.create_task(each.main()) for each in workers]
        await eventually(lambda: _are_done(sessions, 40))
        for worker, task in zip(workers, running, strict=True):
            await halt(worker, task)
    assert sorted(ran) == ["greet on greet"] * 20 + ["other on other"] * 20
    assert not [line for line in logs if line["event"] in {"job.retried", "relay.id_held"}]
    assert [worker.counters.complete for worker in workers] == [20, 20]


async def _are_done(sessions: Sessions, jobs: int) -> bool:
    return await done(sessions) == jobs


async def test_a_job_of_a_queue_without_workers_waits_visibly(
    config: Config, sessions: Sessions, service: Fixture, client: JobClient
) -> None:
    """Nothing is lost: status counts it by its queue, and health names the queue."""
    kinds = service.registry().queues
    await staged(sessions, Request(Charge(), "a"))
    await client.enqueue(Charge(), job_id="b")
    await drain(worker_of(config, service))
    found = await status(config, kinds)
    assert found.ledger.staged_by_queue == {BILLING: 1}
    assert (found.queues[BILLING].queued, found.queues[BILLING].workers) == (2, [])
    notes = {each.name: each for each in await check(config, kinds=kinds)}
    assert notes["queues"].warn
    assert notes["queues"].detail.startswith("billing: jobs wait, and no worker serves it")
    for job_id in "ab":
        one = await job_status(config, job_id, kinds)
        assert (one.state, one.queue) == ("queued", BILLING)


async def test_a_kind_that_nobody_knows_is_carried_after_a_while(
    sessions: Sessions, redis: ArqRedis, service: Fixture
) -> None:
    """It may be another fleet's; after ten minutes it goes to be retried and buried, so that nothing rots."""
    await staged(sessions, Request(CreateProject(name="x"), "a"))
    relay = Relay(redis, sessions, DEFAULT, 1, service.registry().queues)
    assert await relay.dispatch() == 0
    async with transaction(sessions) as session:
        late = "UPDATE ledgerq.outbox_message SET next_dispatch_at = now() - interval '11 minutes'"
        await session.execute(text(late))
    assert await relay.dispatch() == 1
    assert await queued(redis, DEFAULT) == ["a"]


async def test_a_full_queue_does_not_delay_another(
    config: Config, client: JobClient, service: Fixture
) -> None:
    """1,000 jobs wait in one queue; ten in the other are run within a few polls."""
    await client.enqueue_many([Charge()] * 1000)
    await client.enqueue_many([Greet()] * 10)
    await drain(worker_of(serving(config, BILLING, DEFAULT), service, max_jobs=10))
    assert len(service.ran) == 1010
    last = max(n for n, name in enumerate(service.ran) if name == "greet")
    assert last < 100


@pytest.fixture
async def both(redis: ArqRedis) -> AsyncIterator[ManyQueues]:
    found = served(redis, [BILLING, DEFAULT], "me", LeaseSettings())
    assert isinstance(found, ManyQueues)
    yield found
    await found.close()


def ids(claims: Sequence[Any]) -> list[str]:
    return sorted(claim.job_id for claim in claims)


async def test_queues_take_turns(both: ManyQueues, client: JobClient) -> None:
    """With room for one job at a time, each queue is asked first in its turn."""
    await client.enqueue_many([Request(Charge(), f"c{n}") for n in range(3)])
    await client.enqueue_many([Request(Greet(), f"g{n}") for n in range(3)])
    order = [(await both.claim(1, busy=n)).jobs[0].queue for n in range(6)]
    assert order == [BILLING, DEFAULT] * 3


async def test_one_queue_is_asked_by_a_plain_broker(redis: ArqRedis) -> None:
    """The usual case costs what it did; the same queue twice is one queue."""
    one = served(redis, [DEFAULT, DEFAULT], "me", LeaseSettings())
    assert type(one) is Broker
    await one.close()


async def test_leases_and_acks_go_to_the_queue_of_the_job(
    both: ManyQueues, client: JobClient, redis: ArqRedis
) -> None:
    """By the worker and by its twin in the heartbeat's thread."""
    await client.enqueue_many([Request(Charge(), "c"), Request(Greet(), "g")])
    assert ids((await both.claim(10, busy=0)).jobs) == ["c", "g"]
    twin = both.twin(redis)
    assert {name: each.name for name, each in (await twin.renew(["c", "g"])).items()} == {
        "c": "RENEWED",
        "g": "RENEWED",
    }
    assert await both.acknowledge([Ack("c", "done"), Ack("g", "retry")]) == [True, True]
    assert (await queued(redis, BILLING), await queued(redis, DEFAULT)) == ([], ["g"])
    assert await redis.exists(keys.running_key(BILLING), keys.running_key(DEFAULT)) == 0
    assert await both.acknowledge([Ack("c", "done")]) == [False]
    assert ids((await both.claim(10, busy=0)).jobs) == ["g"]
    assert await both.acknowledge([Ack("g", "done")]) == [True]
    await twin.close()


async def test_claims_whose_answer_was_lost_are_found_on_every_queue(
    both: ManyQueues, client: JobClient, redis: ArqRedis
) -> None:
    """And can be released, each to its queue."""
    await client.enqueue_many([Request(Charge(), "c"), Request(Greet(), "g")])
    await both.claim(10, busy=0)
    both._held.clear()
    assert sorted(await both.orphaned_claims([])) == ["c", "g"]
    assert await both.acknowledge([Ack("c", "release"), Ack("g", "release")]) == [True, True]
    assert ids((await both.claim(10, busy=0)).jobs) == ["c", "g"]


async def test_a_queue_that_fails_does_not_cost_the_claims_of_the_others(
    both: ManyQueues, client: JobClient, redis: ArqRedis
) -> None:
    """What was claimed is run at once; the failure is raised at the next claim."""
    await client.enqueue(Charge(), job_id="c")
    await redis.set(DEFAULT, "no queue")
    assert ids((await both.claim(10, busy=0)).jobs) == ["c"]
    with pytest.raises(Exception, match="WRONGTYPE"):
        await both.claim(10, busy=1)
    await redis.delete(DEFAULT)
    assert (await both.claim(10, busy=1)).jobs == []


@pytest.mark.parametrize(("bad", "left"), [(DEFAULT, "c"), (BILLING, "g")])
async def test_a_queue_that_refuses_does_not_cost_the_leases_and_acks_of_the_others(
    both: ManyQueues, client: JobClient, redis: ArqRedis, bad: str, left: str
) -> None:
    """The answers of the others come with the error, whichever queue is asked first."""
    await client.enqueue_many([Request(Charge(), "c"), Request(Greet(), "g")])
    assert ids((await both.claim(10, busy=0)).jobs) == ["c", "g"]
    await redis.delete(bad)
    await redis.set(bad, "no queue")
    with pytest.raises(SomeQueuesFailed, match="WRONGTYPE") as failed:
        await both.renew(["c", "g"])
    assert failed.value.answers == {left: RenewalStatus.RENEWED}
    with pytest.raises(SomeQueuesFailed, match="WRONGTYPE") as failed:
        await both.acknowledge([Ack("c", "done"), Ack("g", "done")])
    assert failed.value.answers == {left: True}
    assert not await redis.exists(f"arq:in-progress:{left}", f"arq:job:{left}")
    await redis.delete(bad)
    assert await both.acknowledge([Ack("c", "done"), Ack("g", "done")]) == [False, False]


async def test_a_job_that_must_run_alone_runs_alone_among_all_queues(
    both: ManyQueues, client: JobClient, redis: ArqRedis
) -> None:
    """The other queue is not claimed from while its worker makes room for it, nor while it runs."""
    await client.enqueue(Greet(), job_id="risky")
    await redis.hset(keys.failures_key(DEFAULT, "risky"), "crashes", "2")  # type: ignore[misc]
    await client.enqueue_many([Request(Charge(), f"c{n}") for n in range(4)])
    first = await both.claim(2, busy=0)
    assert (ids(first.jobs), first.drain_first) == (["c0", "c1"], False)
    second = await both.claim(2, busy=2)
    assert (ids(second.jobs), second.drain_first) == ([], True)
    third = await both.claim(2, busy=1)
    assert (ids(third.jobs), third.drain_first) == ([], True)
    alone = await both.claim(2, busy=0)
    assert (ids(alone.jobs), alone.jobs[0].runs_isolated) == (["risky"], True)


async def test_a_running_job_of_the_second_queue_is_cancelled(
    config: Config, client: JobClient, sessions: Sessions, redis: ArqRedis, service: Fixture
) -> None:
    """Its worker rolls it back; the queue is found by where the job is."""
    service.go_on.clear()
    worker = worker_of(serving(config, DEFAULT, BILLING), service, burst=False)
    running = asyncio.create_task(worker.main())
    job = await client.enqueue(Charge(), job_id="c")
    await service.started.wait()
    answer = await cancel(redis, sessions, DEFAULT, "c", actor="me", reason="", others=[BILLING])
    assert (answer.state, answer.known) == (JobState.CANCELLED, True)
    await eventually(lambda: _is_gone(redis, BILLING))
    await halt(worker, running)
    assert (job.queue, service.ran) == (BILLING, [])


async def test_a_worker_says_that_no_kind_has_its_queue(config: Config, service: Fixture) -> None:
    """Its name may be misspelt; the worker would wait without a word."""
    for queues, told in (((BILLING, "bilings"), ["bilings"]), ((), [])):
        with capture_logs() as logs:
            await drain(worker_of(serving(config, *queues), service))
        named = [each["queue"] for each in logs if each["event"] == "worker.queue_has_no_kind"]
        assert named == told


async def _is_gone(redis: ArqRedis, queue: str) -> bool:
    return not await redis.exists(queue)


async def test_a_worker_shows_life_on_each_queue_and_hears_of_both(
    config: Config, client: JobClient, redis: ArqRedis, service: Fixture
) -> None:
    """Also where one name begins with the other, which Redis does not take as two things to listen to."""
    names = (BILLING, f"{BILLING}:eu")
    worker = worker_of(serving(config, *names), service, burst=False, poll_delay=30)
    with capture_logs() as logs:
        running = asyncio.create_task(worker.main())
        for queue in names:
            await eventually(lambda queue=queue: living_workers(redis, queue))
            job = await client.enqueue(Charge(), queue=queue)
            assert await job.result(timeout=5) == 1
        await halt(worker, running)
    assert not [line for line in logs if line["event"].startswith("notifier.")]
    assert [await living_workers(redis, queue) for queue in names] == [[], []]


async def test_a_tick_of_a_kind_with_a_queue_comes_once_on_it(
    config: Config, redis: ArqRedis, service: Fixture
) -> None:
    """From workers of either queue."""
    every = Recurring(Charge, minute=None, second=None)
    workers = [
        worker_of(each, service, schedule=[every]) for each in (config, serving(config, BILLING))
    ]
    now = datetime.now(UTC)
    for worker in workers:
        for job in worker.cron_jobs:
            job.next_run = now + timedelta(seconds=0.5)
        await worker.run_cron(now, 0.5)
    assert len(await queued(redis, BILLING)) == 1
    assert await queued(redis, DEFAULT) == []
    for worker in workers:
        await worker.close()


async def test_a_buried_job_is_replayed_on_its_queue(
    config: Config, client: JobClient, sessions: Sessions, redis: ArqRedis, service: Fixture
) -> None:
    """The letter keeps the queue that the job came from, not that of its kind."""
    await client.enqueue(Charge(refused=True), job_id="c", queue="eu")
    await drain(worker_of(serving(config, "eu"), service))
    assert (await letter(sessions, "c")).queue == "eu"
    said = {"actor": "me", "reason": ""}
    await replay(redis, sessions, DEFAULT, ["c"], **said, payload={"cents": 7})
    (message,) = await rows(sessions, OutboxMessage)
    assert message.queue == "eu"
    await drain(worker_of(serving(config, "eu"), service))
    assert (service.ran, await count(sessions, DeadLetter)) == (["charge"], 0)


async def test_a_queue_that_can_not_be_one_holds_nobody_up(
    sessions: Sessions, redis: ArqRedis, service: Fixture
) -> None:
    """A row of somebody's SQL: the name of another key goes to the default queue, a key of another type waits."""
    await staged(sessions, *[Request(Greet(), job_id) for job_id in ("good", "abort", "text")])
    async with transaction(sessions) as session:
        for job_id, queue in (("abort", constants.abort_jobs_ss), ("text", "words")):
            changed = text(
                "UPDATE ledgerq.outbox_message SET queue = :queue WHERE job_id = :job_id"
            )
            await session.execute(changed, {"queue": queue, "job_id": job_id})
    await redis.set("words", "of another program")
    with capture_logs() as logs:
        await Relay(redis, sessions, DEFAULT, 1, service.registry().queues).dispatch()
    assert sorted(await queued(redis, DEFAULT)) == ["abort", "good"]
    assert await redis.exists(constants.abort_jobs_ss) == 0
    assert {line["event"] for line in logs if line["log_level"] == "warning"} == {
        "relay.queue_unusable",
        "relay.queue_refused",
    }


@pytest.mark.parametrize("queue", ["ü" * 200, 'a"b', "a\\b", "{q}", "🛠" * 200, "a:b:c"])
async def test_odd_names_are_names(
    config: Config, client: JobClient, sessions: Sessions, service: Fixture, queue: str
) -> None:
    """Direct and staged, up to 200 characters."""
    job = await client.enqueue(Charge(), queue=queue)
    await staged(sessions, Request(Greet(), queue=queue))
    await drain(worker_of(serving(config, queue, DEFAULT), service))
    assert await job.result(timeout=5) == 1
    assert sorted(service.ran) == ["charge", "greet"]


@pytest.mark.parametrize(
    "queue",
    ["", "a b", "a,b", "a|b", "a\nb", "q" * 201, "ledgerq:x", "arq:job:x", "x:health-check", '"a'],
)
async def test_what_is_no_name_is_refused_everywhere(
    monkeypatch: pytest.MonkeyPatch, queue: str
) -> None:
    """By a request, by a payload's class, and by LEDGERQ_QUEUES."""
    with pytest.raises(InvalidRequest, match="queue"):
        Request(Greet(), queue=queue)
    with pytest.raises(DefinitionError, match="queue"):
        type("Odd", (Payload,), {"__annotations__": {}}, kind="odd", queue=queue)
    if queue not in {"", "a,b"}:
        monkeypatch.setenv("LEDGERQ_QUEUES", f"good,{queue}")
        with pytest.raises(SettingError, match="LEDGERQ_QUEUES"):
            load(WorkerConfig, redis_url="redis://h/0")


@pytest.mark.parametrize(
    ("given", "problem"),
    [("a,,b", "empty name"), ("a,", "empty name"), ("a,b, a", "names a twice")],
)
def test_a_list_of_queues_is_plain(
    monkeypatch: pytest.MonkeyPatch, given: str, problem: str
) -> None:
    """What is empty or there twice is a mistake, and named."""
    monkeypatch.setenv("LEDGERQ_QUEUES", given)
    with pytest.raises(SettingError, match=problem):
        load(WorkerConfig, redis_url="redis://h/0")


def test_default_stands_for_the_default_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever its key is; without LEDGERQ_QUEUES it alone is served."""
    monkeypatch.setenv("LEDGERQ_QUEUE", "shop")
    assert load(WorkerConfig, redis_url="redis://h/0").served == ("shop",)
    monkeypatch.setenv("LEDGERQ_QUEUES", "billing, default")
    assert load(WorkerConfig, redis_url="redis://h/0").served == (BILLING, "shop")


async def test_staging_keeps_the_default_queue_of_its_process(
    monkeypatch: pytest.MonkeyPatch, sessions: Sessions
) -> None:
    """As enqueueing does, where LEDGERQ_QUEUE is set; the kind's own comes first."""
    await staged(sessions, Request(Greet(), "unset"))
    monkeypatch.setenv("LEDGERQ_QUEUE", "shop")
    await staged(sessions, Request(Greet(), "set"), Request(Charge(), "kind"))
    found = {each.job_id: each.queue for each in await rows(sessions, OutboxMessage)}
    assert found == {"unset": None, "set": "shop", "kind": BILLING}


async def test_jobs_of_one_ordering_key_keep_their_order_across_queues(
    sessions: Sessions, redis: ArqRedis, service: Fixture
) -> None:
    """The second is not carried before the first has ended, whatever its queue."""
    async with transaction(sessions) as session:
        await stage(session, Charge(), job_id="first", ordering_key="k")
        await stage(session, Greet(), job_id="second", ordering_key="k")
    relay = Relay(redis, sessions, DEFAULT, 1, service.registry().queues)
    assert await relay.dispatch() == 1
    assert (await queued(redis, BILLING), await queued(redis, DEFAULT)) == (["first"], [])
    async with transaction(sessions) as session:
        await outbox.remove(session, ["first"])
    assert await relay.dispatch() == 1
    assert await queued(redis, DEFAULT) == ["second"]


async def test_an_emptied_redis_is_filled_again_on_every_queue(
    config: Config, sessions: Sessions, redis: ArqRedis, service: Fixture
) -> None:
    """Every staged job is carried again, each to its queue."""
    await staged(sessions, Request(Charge(), "a"), Request(Greet(), "b"))
    relay = Relay(redis, sessions, DEFAULT, 1, service.registry().queues)
    await relay.dispatch()
    await redis.flushdb()
    await relay.dispatch()
    assert (await queued(redis, BILLING), await queued(redis, DEFAULT)) == (["a"], ["b"])
    await drain(worker_of(serving(config, BILLING, DEFAULT), service))
    assert sorted(service.ran) == ["charge", "greet"]


@pytest.mark.whole_redis
async def test_connections_that_are_cut_lose_no_job_of_any_queue(
    config: Config, client: JobClient, sessions: Sessions, redis: ArqRedis, service: Fixture
) -> None:
    """All of them, again and again, as at a restart of Redis: each job has its effect, and runs to its end once."""
    worker = worker_of(serving(config, BILLING, DEFAULT), service, burst=False, max_jobs=5)
    running = asyncio.create_task(worker.main())
    await client.enqueue_many([Charge(), Greet()] * 150)
    for share in range(1, 6):
        await eventually(lambda share=share: _have_run(sessions, 40 * share))
        await redis.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")  # type: ignore[no-untyped-call]
    await eventually(lambda: _are_done(sessions, 300), seconds=60)
    await eventually(lambda: _is_gone(redis, BILLING), seconds=60)
    await eventually(lambda: _is_gone(redis, DEFAULT), seconds=60)
    await halt(worker, running)
    assert await count(sessions, DeadLetter) == 0


async def _have_run(sessions: Sessions, jobs: int) -> bool:
    return await done(sessions) >= jobs


async def test_a_handle_keeps_to_its_queue(client: JobClient) -> None:
    """One that is made from an id alone looks at the default queue, or at the one that is named."""
    await client.enqueue(Charge(), job_id="c")
    with pytest.raises(ResultExpired):
        await client.job("c").result(timeout=5)
    for handle in (client.job("c", queue=BILLING), client.job("c", Charge)):
        assert isinstance(handle, EnqueuedJob)
        assert await handle.as_arq_job.info()
    assert await client.job("c").as_arq_job.info() is None


def test_the_names_of_other_keys_are_those_of_arq() -> None:
    """They are written down once more where arq is out of reach."""
    assert (
        *(constants.job_key_prefix, constants.in_progress_key_prefix, constants.result_key_prefix),
        *(constants.retry_key_prefix, constants.abort_jobs_ss, "ledgerq:"),
    ) == queue_name.NO_QUEUES
    assert constants.health_check_key_suffix == queue_name.NO_QUEUE_ENDS
