"""Jobs that work outside have slots of their own; while all are taken, the jobs behind have their turn."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from arq.connections import ArqRedis

from ledgerq import JobContext, Outside, Payload, job
from ledgerq.broker import claims, keys
from ledgerq.broker.claims import Broker, FetchResult, LeaseSettings
from ledgerq.broker.many_queues import ManyQueues, served
from ledgerq.broker.room import Room
from ledgerq.client import JobClient
from ledgerq.config import Config
from ledgerq.execution.registry import Registry
from ledgerq.wire.request import Request
from ledgerq.worker import poller
from ledgerq.worker.poller import Poller
from tests.support import eventually, halt, our_worker

QUEUE, OTHER = "arq:queue", "other"
WAITING = 1_200  # more than one claim passes over


class Wait(Payload[None], kind="wait"):
    """Waits outside of the database."""


class WaitElsewhere(Payload[None], kind="wait_elsewhere", queue=OTHER):
    """Waits too, on another queue."""


class Quick(Payload[None], kind="quick"):
    """Has nothing to wait for."""


KINDS = ("wait", "wait_elsewhere")


@pytest.fixture
async def broker(redis: ArqRedis) -> AsyncIterator[Broker]:
    found = Broker.connect(redis, QUEUE, "me", LeaseSettings())
    yield found
    await found.close()


async def claim(broker: Broker | ManyQueues, outside: int, wanted: int = 10) -> FetchResult:
    return await broker.claim(wanted, busy=1, room=Room(outside=outside, outside_kinds=KINDS))


async def claimed(broker: Broker | ManyQueues, outside: int, wanted: int = 10) -> list[str]:
    return [each.job_id for each in (await claim(broker, outside, wanted)).jobs]


async def put(client: JobClient, *ids: str, payload: Payload[None] | None = None) -> None:
    await client.enqueue_many([Request(payload or Quick(), each) for each in ids])


async def put_waiting(client: JobClient, number: int) -> None:
    await put(client, *(f"w{n:04}" for n in range(number)), payload=Wait())


async def pass_over_all(broker: Broker) -> None:
    """Claim until every waiting job was looked at."""
    while (await claim(broker, outside=0)).due_in is not None:
        pass


async def test_jobs_without_a_slot_are_passed_over_as_they_are(
    broker: Broker, client: JobClient, redis: ArqRedis
) -> None:
    """The quick job behind 1,200 of them is claimed; they keep their place, have no lease and spent no attempt."""
    await put_waiting(client, WAITING)
    await put(client, "z")
    before = await redis.zrange(QUEUE, 0, WAITING - 1, withscores=True)
    looks = [await claim(broker, outside=0) for _ in range(3)]
    assert [[each.job_id for each in look.jobs] for look in looks] == [[], [], ["z"]]
    assert [look.due_in for look in looks[:2]] == [0.001, 0.001]  # look on at once
    assert not any(look.more for look in looks)
    assert all(look.passed_over for look in looks)
    assert await redis.zrange(QUEUE, 0, WAITING - 1, withscores=True) == before
    assert await redis.keys("arq:retry:w*") == await redis.keys("arq:in-progress:w*") == []


async def test_no_claim_looks_again_at_all_that_wait(broker: Broker, client: JobClient) -> None:
    """After the first look, one claim finds a quick job behind 1,200 waiting ones."""
    await put_waiting(client, WAITING)
    await pass_over_all(broker)
    await put(client, "quick")
    assert await claimed(broker, outside=0) == ["quick"]


async def test_a_free_slot_goes_to_the_job_that_waits_longest(
    broker: Broker, client: JobClient
) -> None:
    """The same claim brings the quick jobs behind all that wait."""
    await put_waiting(client, WAITING)
    await pass_over_all(broker)
    await put(client, "quick")
    assert await claimed(broker, outside=2) == ["w0000", "w0001", "quick"]
    assert await claimed(broker, outside=1) == ["w0002"]


async def test_a_job_that_another_worker_took_hides_none_behind_it(
    broker: Broker, client: JobClient, redis: ArqRedis
) -> None:
    """Though this worker remembers it as the last one for which there was no room."""
    await put_waiting(client, 3)
    await pass_over_all(broker)
    other = Broker.connect(redis, QUEUE, "another", LeaseSettings())
    assert await claimed(other, outside=3) == ["w0000", "w0001", "w0002"]
    await other.close()
    await put(client, "quick")
    await put(client, "late", payload=Wait())
    assert await claimed(broker, outside=0) == ["quick"]
    assert await claimed(broker, outside=1) == ["late"]


async def test_a_job_that_is_put_before_the_waiting_ones_is_found(
    broker: Broker, client: JobClient, redis: ArqRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stock client may say that a job was due an hour ago: the queue is looked at from its front now and then."""
    await put_waiting(client, WAITING)
    await pass_over_all(broker)
    await put(client, "early")
    await redis.zadd(QUEUE, {"early": 1})
    assert await claimed(broker, outside=0) == []
    monkeypatch.setattr(claims, "_LOOK_AGAIN", 0)
    assert await claimed(broker, outside=0) == ["early"]


async def test_a_job_that_comes_in_the_same_millisecond_is_found(
    broker: Broker, client: JobClient, redis: ArqRedis
) -> None:
    """Though its id puts it before the job that was passed over just then."""
    await put(client, "w", payload=Wait())
    await put(client, "a")

    async def millisecond() -> int:
        seconds, microseconds = await redis.time()
        return int(seconds) * 1000 + int(microseconds) // 1000

    while True:  # until a claim begins and ends in one millisecond
        await redis.zrem(QUEUE, "a")
        now = await millisecond()
        await redis.zadd(QUEUE, {"w": now})
        assert await claimed(broker, outside=0) == []
        if await millisecond() == now:
            break
    await redis.zadd(QUEUE, {"a": now})
    assert await claimed(broker, outside=0) == ["a"]


async def test_quick_jobs_start_in_order_while_they_have_no_slot(
    broker: Broker, client: JobClient
) -> None:
    """A waiting job behind a quick one does not overtake it; one before it starts."""
    await put(client, "1 waits", payload=Wait())
    await put(client, "2 is quick")
    await put(client, "3 waits", payload=Wait())
    assert await claimed(broker, outside=5, wanted=0) == ["1 waits"]
    assert (await claim(broker, outside=4, wanted=0)).more
    assert await claimed(broker, outside=4, wanted=1) == ["2 is quick", "3 waits"]


async def test_queues_share_the_slots(client: JobClient, redis: ArqRedis) -> None:
    """A worker of two queues with one free slot claims one waiting job, and all quick ones."""
    await put(client, "a", payload=Wait())
    await put(client, "b", payload=WaitElsewhere())
    await put(client, "quick")
    both = served(redis, [QUEUE, OTHER], "me", LeaseSettings())
    assert isinstance(both, ManyQueues)
    assert sorted(await claimed(both, outside=1)) == ["a", "quick"]
    assert await claimed(both, outside=0) == []
    assert await claimed(both, outside=1) == ["b"]
    await both.close()


async def test_a_slot_that_becomes_free_is_taken_at_once(
    config: Config, client: JobClient, redis: ArqRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end of a job wakes the worker, which would look again a minute later; nobody moved the jobs that wait."""
    monkeypatch.setattr(poller, "MAX_WAIT", 60)
    monkeypatch.setattr(Poller, "queue_changed", lambda _: None)
    started: list[str] = []
    gates = {f"w{n:04}": asyncio.Event() for n in range(20)}

    async def wait(outside: Outside, payload: Wait) -> None:
        started.append(outside.job_id)
        await gates[outside.job_id].wait()

    async def done(context: JobContext, payload: Wait, nothing: None) -> None:
        """Nothing is left to do."""

    async def begun(number: int) -> None:
        async def so_many() -> bool:
            return len(started) == number

        await eventually(so_many)

    await put_waiting(client, 20)
    placed = dict(await redis.zrange(QUEUE, 0, -1, withscores=True))
    few = replace(config, worker=config.worker.model_copy(update={"max_outside": 3}))
    worker = our_worker(few, Registry([job(outside=wait)(done)]), handle_signals=False)
    running = asyncio.create_task(worker.main())
    await begun(3)
    for n in range(4, 21):
        gates[started[n - 4]].set()
        await begun(min(n, 20))
        left = {each: placed[each] for each in placed if each.decode() not in started}
        assert left.items() <= dict(await redis.zrange(QUEUE, 0, -1, withscores=True)).items()
    assert started[3:] == sorted(gates)[3:]
    for gate in gates.values():
        gate.set()
    await halt(worker, running)


async def test_a_waiting_job_that_is_aborted_ends_at_once(
    config: Config, client: JobClient, redis: ArqRedis
) -> None:
    """Though it has no slot, and wherever it stands in the queue; one that is deferred too."""
    gate = asyncio.Event()

    async def wait(outside: Outside, payload: Wait) -> None:
        await gate.wait()

    async def done(context: JobContext, payload: Wait, nothing: None) -> None:
        """Nothing is left to do."""

    few = replace(config, worker=config.worker.model_copy(update={"max_outside": 2}))
    worker = our_worker(few, Registry([job(outside=wait)(done)]), handle_signals=False)
    worker.allow_abort_jobs = True
    running = asyncio.create_task(worker.main())
    await put_waiting(client, 20)
    await put(client, "deferred", payload=Wait())
    await redis.zadd(QUEUE, {"deferred": 1})  # as arq's `Job.abort` does

    async def both_wait() -> bool:
        return len(worker.tasks) == 2

    await eventually(both_wait)
    seconds, _ = await redis.time()
    await redis.zadd(
        keys.ABORTED, {"w0010": seconds * 1000 + 999, "deferred": seconds * 1000 + 999}
    )

    async def ended() -> bool:
        found: int = await redis.exists("arq:result:w0010", "arq:result:deferred")
        return found == 2

    await eventually(ended, seconds=8)
    gate.set()
    await halt(worker, running)


async def died_with(redis: ArqRedis, *ids: str) -> None:
    """So many workers, with each of these jobs, that it is a suspect: two, or four if it works outside."""
    for job_id in ids:
        crashes = "4" if job_id.startswith("w") else "2"
        await redis.hset(keys.failures_key(QUEUE, job_id), "crashes", crashes)  # type: ignore[misc]


def beside(found: FetchResult) -> list[tuple[str, bool]]:
    return [(each.job_id, each.is_suspect) for each in found.jobs]


async def test_a_suspect_that_waits_outside_keeps_nobody_out(
    broker: Broker, client: JobClient, redis: ArqRedis
) -> None:
    """Workers died with it: it is the only such job of its worker, but it may wait for minutes, so others run beside it."""
    await put_waiting(client, 4)
    await put(client, "z")
    await died_with(redis, "w0000", "w0001")
    first = await claim(broker, outside=10)
    assert beside(first) == [("w0000", True), ("w0002", False), ("w0003", False), ("z", False)]
    assert not first.drain_first
    assert not any(each.runs_isolated for each in first.jobs)
    await put(client, "zz")
    room = Room(outside=7, outside_kinds=KINDS, has_suspect=True)
    second = await broker.claim(10, busy=1, room=room)
    assert (beside(second), second.drain_first) == ([("zz", False)], False)
    third = await broker.claim(10, busy=1, room=replace(room, has_suspect=False))
    assert beside(third) == [("w0001", True)]


async def spread(redis: ArqRedis, number: int) -> float:
    """One waiting job each millisecond; returns when the first of them was due."""
    [(_, last)] = await redis.zrange(QUEUE, -1, -1, withscores=True)
    first = last - 5_000
    await redis.zadd(QUEUE, {f"w{n:04}": first + n for n in range(number)})
    return float(first)


async def test_a_slot_goes_to_a_job_that_waits_though_suspects_must_wait_before_it(
    broker: Broker, client: JobClient, redis: ArqRedis
) -> None:
    """Workers died with them, and one such job runs here already."""
    await put_waiting(client, 1_200)
    first = await spread(redis, 1_200)
    for n in range(3):
        await put(client, f"w-{n}", payload=Wait())
        await redis.zadd(QUEUE, {f"w-{n}": first - 1})
    await died_with(redis, "w-0", "w-1", "w-2")
    room = Room(outside=0, outside_kinds=KINDS, has_suspect=True)
    while (await broker.claim(10, busy=1, room=room)).more:
        pass
    found = await broker.claim(10, busy=1, room=replace(room, outside=1))
    assert [each.job_id for each in found.jobs] == ["w0000"]


async def test_a_job_that_is_put_between_the_waiting_ones_is_found(
    broker: Broker, client: JobClient, redis: ArqRedis
) -> None:
    """A client whose clock is behind puts it there; the looks back come to it one after another."""
    await put_waiting(client, 1_200)
    first = await spread(redis, 1_200)
    while (await claim(broker, outside=0)).more:
        pass
    await put(client, "z")
    await redis.zadd(QUEUE, {"z": first + 900.5})
    found = []
    for _ in range(3):
        broker._looked_back = 0  # as ten seconds later
        found += [each.job_id for each in (await claim(broker, outside=0)).jobs]
    assert found == ["z"]


async def test_a_suspect_does_not_wait_for_jobs_outside(
    broker: Broker, client: JobClient, redis: ArqRedis
) -> None:
    """It runs alone, but for those: their wait may take minutes."""
    await put(client, "risky")
    await died_with(redis, "risky")
    room = Room(outside=10, outside_kinds=KINDS)
    assert (await broker.claim(10, busy=1, room=room)).drain_first
    alone = await broker.claim(10, busy=0, room=room)
    assert [(each.job_id, each.runs_isolated) for each in alone.jobs] == [("risky", True)]


async def dies(broker: Broker, redis: ArqRedis) -> None:
    """The worker is gone: its leases have run out, and it gave no sign of life."""
    held = [raw.decode() for raw in await redis.hkeys(keys.running_key(QUEUE))]  # type: ignore[misc]
    await redis.delete(*(f"arq:in-progress:{job_id}" for job_id in held))
    await redis.zadd(QUEUE, {job_id: float(job_id == "risky") for job_id in held})
    await redis.delete(keys.workers_key(QUEUE))
    broker.token = "another"


@pytest.mark.parametrize(("met", "blamed"), [(1, True), (2, False), (3, False)])
async def test_a_suspect_is_not_blamed_for_a_job_beside_it_that_may_have_been_the_cause(
    broker: Broker, client: JobClient, redis: ArqRedis, met: int, blamed: bool
) -> None:
    """A job outside that has met as many crashes is no suspect yet, but may well be the killer of both."""
    await put_waiting(client, 1)
    await redis.hset(keys.failures_key(QUEUE, "w0000"), "crashes", str(met))  # type: ignore[misc]
    await put(client, "risky")
    await died_with(redis, "risky")
    await redis.zadd(QUEUE, {"w0000": 1.0, "risky": 2.0})
    room = Room(outside=10, outside_kinds=KINDS)
    both = (await broker.claim(10, busy=0, room=room)).jobs
    assert [each.job_id for each in both] == ["w0000", "risky"]
    await dies(broker, redis)
    found = {each.job_id: each for each in (await broker.claim(10, busy=0, room=room)).jobs}
    assert found["w0000"].crashes == met + 1
    if met < 3:
        assert found["risky"].crashes == (3 if blamed else 2)
    else:  # the other one is a suspect itself by now
        assert found.keys() == {"w0000"}
    assert "the worker died" in str(found["w0000"].history)


async def test_no_worker_has_two_suspects(
    broker: Broker, client: JobClient, redis: ArqRedis
) -> None:
    """If it died, the one that waits would be blamed for the other."""
    await put(client, "risky", "z")
    await died_with(redis, "risky")
    room = Room(outside=10, outside_kinds=KINDS, has_suspect=True)
    found = await broker.claim(10, busy=0, room=room)
    assert (beside(found), found.drain_first) == ([("z", False)], False)


async def test_suspects_hide_no_job_behind_them(
    broker: Broker, client: JobClient, redis: ArqRedis
) -> None:
    """However many wait for their turn: a worker that may run none of them runs the jobs behind."""
    ids = [f"s{n:03}" for n in range(300)]
    await put(client, *ids)
    await put(client, "z")
    await died_with(redis, *ids)
    await redis.set(keys.exclusive_slot_key(QUEUE), "another|s000")
    found = await broker.claim(2, busy=1)
    assert (beside(found), found.drain_first) == ([("z", False)], False)
    await put_waiting(client, 300)
    waiting = [f"w{n:04}" for n in range(299)]
    await died_with(redis, *waiting)
    room = Room(outside=2, outside_kinds=KINDS, has_suspect=True)
    assert beside(await broker.claim(2, busy=1, room=room)) == [("w0299", False)]


async def test_a_waiting_suspect_keeps_no_worker_busy(
    broker: Broker, client: JobClient, redis: ArqRedis
) -> None:
    """It must wait, and jobs outside for which there is no room stand behind it: the worker is not told to look on at once."""
    await put(client, "risky")
    await died_with(redis, "risky")
    await put_waiting(client, 3)
    room = Room(outside=0, outside_kinds=KINDS, has_suspect=True)
    for _ in range(3):
        found = await broker.claim(10, busy=1, room=room)
        assert (found.jobs, found.more) == ([], True)  # then a worker waits until a job ends


async def test_many_jobs_outside_behind_a_suspect_hide_no_job(
    broker: Broker, client: JobClient, redis: ArqRedis
) -> None:
    """They are passed over page by page, though the suspect at their head may have its turn at any time."""
    await put(client, "risky")
    await died_with(redis, "risky")
    await put_waiting(client, WAITING)
    await put(client, "z")
    room = Room(outside=0, outside_kinds=KINDS, has_suspect=True)
    found = [await broker.claim(10, busy=1, room=room) for _ in range(4)]
    assert [each.job_id for look in found for each in look.jobs] == ["z"]
    broker._looked_back = 0.0
    free = await broker.claim(10, busy=0, room=replace(room, has_suspect=False))
    assert [each.job_id for each in free.jobs] == ["risky"]


async def test_a_suspect_is_spared_twice_and_no_more(
    broker: Broker, client: JobClient, redis: ArqRedis
) -> None:
    """Others come and go beside it, and it is there each time that a worker dies."""
    await put(client, "risky")
    await died_with(redis, "risky")
    for crashes in (2, 2, 2, 3):
        room = Room(outside=10, outside_kinds=KINDS, has_doubtful=True)
        [risky] = (await broker.claim(10, busy=0, room=room)).jobs
        assert risky.crashes == crashes
        await dies(broker, redis)
        broker.token = f"another-{crashes}-{len(risky.history)}"


async def test_a_job_that_ends_beside_it_does_not_end_the_isolation(
    config: Config, client: JobClient, redis: ArqRedis
) -> None:
    """The jobs that wait outside end while it runs; still nothing else is claimed."""
    asked, risky, go_on, ran = asyncio.Event(), asyncio.Event(), asyncio.Event(), list[str]()

    async def ask(outside: Outside, wait: Wait) -> None:
        asked.set()
        await risky.wait()

    @job(outside=ask)
    async def waited(context: JobContext, wait: Wait, answer: None) -> None:
        ran.append("waited")

    @job
    async def quick(context: JobContext, payload: Quick) -> None:
        ran.append(context.origin.job_id or "")
        if context.origin.job_id == "risky":
            risky.set()
            await go_on.wait()

    running = our_worker(config, Registry([waited, quick]), handle_signals=False)
    task = asyncio.create_task(running.main())
    try:
        await put(client, "w", payload=Wait())
        await asyncio.wait_for(asked.wait(), 10)
        await died_with(redis, "risky")
        await put(client, "risky")
        await asyncio.wait_for(risky.wait(), 10)
        await put(client, "later")
        await eventually(lambda: _is(ran, ["risky", "waited"]))
        await asyncio.sleep(1.2)  # a worker polls within a second
        assert ran == ["risky", "waited"]
        go_on.set()
        await eventually(lambda: _is(ran, ["risky", "waited", "later"]))
    finally:
        go_on.set()
        await halt(running, task)


async def _is(ran: list[str], wanted: list[str]) -> bool:
    return ran == wanted
