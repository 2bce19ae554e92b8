"""Claims on a real Redis: one owner at a time, and nothing on the queue can stop it."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from functools import partial
from uuid import uuid4

import pytest

from ledgerq.broker.claims import Ack, Broker, LeaseSettings, RenewalStatus
from ledgerq.broker.connection import connect
from ledgerq.broker.keys import failures_key, renewal_key, workers_key
from ledgerq.broker.presence import beat, keep_beating
from ledgerq.config import Config
from ledgerq.wire.envelope import MAX_BODY_BYTES
from ledgerq.worker.renewals import Renewals
from tests.support import eventually

QUEUE = "arq:queue"
LONG = LeaseSettings(lease=15)  # no lease runs out by chance, however slow the machine
SHORT = LeaseSettings(lease=0.2)


@pytest.fixture
async def brokers(config: Config) -> AsyncIterator[list[Broker]]:
    """Two workers on one queue."""
    redis = connect(config.worker)
    both = [Broker.connect(redis, QUEUE, f"worker-{n}", LONG) for n in (1, 2)]
    yield both
    for broker in both:
        await broker.close()
    await redis.aclose(close_connection_pool=True)


async def put(broker: Broker, *job_ids: str | bytes) -> None:
    for job_id in job_ids:
        raw = job_id.encode() if isinstance(job_id, str) else job_id
        await broker.redis.set(b"arq:job:" + raw, b"{}")
        await broker.redis.zadd(QUEUE, {raw: 1})


async def claimed(
    broker: Broker, wanted: int = 10, busy: int = 0, *, lease_settings: LeaseSettings = LONG
) -> list[str]:
    broker.lease_settings = lease_settings
    jobs = (await broker.claim(wanted, busy=busy)).jobs
    broker.lease_settings = LONG
    return [claim.job_id for claim in jobs]


async def lease_runs_out(broker: Broker, job_id: str) -> None:
    async def gone() -> bool:
        return not await broker.redis.exists(f"arq:in-progress:{job_id}")

    await eventually(gone)
    await asyncio.sleep(0.005)  # the score is in whole milliseconds


async def test_a_job_has_one_owner(brokers: list[Broker]) -> None:
    """Ten looks at once at 200 jobs: each job is claimed once."""
    await put(brokers[0], *(f"j{n}" for n in range(200)))
    looks = await asyncio.gather(*(claimed(brokers[n % 2], 20) for n in range(10)))
    ids = [job_id for look in looks for job_id in look]
    assert len(ids) == len(set(ids)) == 200


async def test_heavy_jobs_are_claimed_some_at_a_time(brokers: list[Broker]) -> None:
    """Of thirty bodies of a megabyte, one look brings what a worker can hold; each is claimed in the end."""
    broker = brokers[0]
    await put(broker, *(f"j{n}" for n in range(30)))
    for n in range(30):
        await broker.redis.set(f"arq:job:j{n}", b"x" * 1_000_000)
    looks = [await broker.claim(100, busy=0) for _ in range(4)]
    assert [len(look.jobs) for look in looks] == [9, 9, 9, 3]
    assert [look.more for look in looks] == [True, True, True, False]


async def test_only_the_owner_renews_and_ends(brokers: list[Broker]) -> None:
    """Another one's attempt changes nothing, and is told so."""
    first, second = brokers
    await put(first, "a")
    assert await claimed(first) == ["a"]
    assert await second.renew(["a"]) == {"a": RenewalStatus.TAKEN}
    assert await second.acknowledge([Ack("a", "done")]) == [False]
    assert await first.renew(["a"]) == {"a": RenewalStatus.RENEWED}
    assert await first.acknowledge([Ack("a", "done", result=b"{}", keep=1000)]) == [True]
    left = await first.redis.keys("*")
    assert left == [b"arq:result:a"]


async def test_the_job_of_a_dead_worker_is_taken_over(brokers: list[Broker]) -> None:
    """After the lease, with the crash noted and no attempt spent; the dead one's late end counts for nothing."""
    first, second = brokers
    await put(first, "a")
    assert await claimed(first, lease_settings=SHORT) == ["a"]
    await lease_runs_out(first, "a")
    (claim,) = (await second.claim(10, busy=0)).jobs
    assert (claim.attempt, claim.crashes) == (1, 1)
    assert claim.history[0]["worker"] == "worker-1"
    assert await first.acknowledge([Ack("a", "done")]) == [False]
    assert await first.renew(["a"]) == {"a": RenewalStatus.TAKEN}
    assert await second.acknowledge([Ack("a", "done")]) == [True]


async def test_a_lease_that_ran_out_is_renewed_if_nobody_took_the_job(
    brokers: list[Broker],
) -> None:
    """A worker that was stopped for a while goes on with what is still its own."""
    first, _ = brokers
    await put(first, "a")
    await claimed(first, lease_settings=SHORT)
    await lease_runs_out(first, "a")
    assert await first.renew(["a"]) == {"a": RenewalStatus.RENEWED}
    assert await first.acknowledge([Ack("a", "done")]) == [True]


async def test_attempts_interruptions_and_crashes_are_counted_apart(
    brokers: list[Broker],
) -> None:
    """A retry spends an attempt; an interruption is counted, a release is not; each leaves its note."""
    first, _ = brokers
    await put(first, "a")
    for ack in (
        Ack("a", "retry", note={"error": "one"}),
        Ack("a", "interrupt", note={"error": "two"}),
        Ack("a", "release"),
    ):
        assert await claimed(first) == ["a"]
        assert await first.acknowledge([ack]) == [True]
        await asyncio.sleep(0.002)
    (claim,) = (await first.claim(10, busy=0)).jobs
    assert (claim.attempt, claim.interruptions, claim.crashes) == (2, 1, 0)
    assert [note["error"] for note in claim.history] == ["one", "two"]


async def test_a_delayed_retry_waits(brokers: list[Broker]) -> None:
    """It is not due before its time."""
    first, _ = brokers
    await put(first, "a")
    await claimed(first)
    await first.acknowledge([Ack("a", "retry", delay=60_000)])
    assert await claimed(first) == []


async def test_a_wiped_redis_is_not_filled_with_ghosts(brokers: list[Broker]) -> None:
    """The end of a job that Redis has forgotten puts nothing back."""
    first, _ = brokers
    await put(first, "a")
    await claimed(first)
    await first.redis.flushdb()
    assert await first.renew(["a"]) == {"a": RenewalStatus.GONE}
    for action in ("retry", "release", "interrupt", "done"):
        assert await first.acknowledge([Ack("a", action, 0, b"{}")]) == [False]
    assert await first.redis.keys("*") == []


async def test_running_jobs_do_not_stand_in_the_way(brokers: list[Broker]) -> None:
    """A hundred claimed jobs at the head of the queue: the next look finds the job behind them."""
    first, second = brokers
    await put(first, *(f"j{n}" for n in range(100)))
    assert len(await claimed(first, 100)) == 100
    await put(first, "behind")
    assert await claimed(second, 1) == ["behind"]


async def test_a_job_that_a_stock_worker_runs_is_left_alone(brokers: list[Broker]) -> None:
    """arq's own in-progress key holds as long as it says; a key that never expires is given an end."""
    first, _ = brokers
    await put(first, "theirs", "stuck", "ours")
    await first.redis.set("arq:in-progress:theirs", b"1", px=60_000)
    await first.redis.set("arq:in-progress:stuck", b"1")
    assert await claimed(first) == ["ours"]
    assert await first.redis.pttl("arq:in-progress:stuck") > 0
    assert await claimed(first) == []


async def test_no_key_of_the_wrong_sort_stops_the_queue(brokers: list[Broker]) -> None:
    """Wrong types, words for numbers, ids that are no text, scores without end: the job behind them runs."""
    first, _ = brokers
    redis = first.redis
    await put(
        first, "retry-text", "retry-list", "body-list", "trouble-text", b"\xff\xfe", "endless"
    )
    await redis.set("arq:retry:retry-text", "many")
    await redis.rpush("arq:retry:retry-list", "x")  # type: ignore[misc]
    await redis.delete("arq:job:body-list")
    await redis.rpush("arq:job:body-list", "x")  # type: ignore[misc]
    await redis.set(failures_key(QUEUE, "trouble-text"), "x")
    await redis.zadd(QUEUE, {"endless": "-inf", "good": 2})
    await redis.set("arq:job:good", b"{}")
    claims = {claim.job_id: claim for claim in (await first.claim(10, busy=0)).jobs}
    assert claims["good"].body == b"{}"
    assert claims["body-list"].body == b""
    assert claims["retry-text"].attempt == claims["retry-list"].attempt == 1
    assert claims["trouble-text"].crashes == 0
    assert await first.acknowledge([Ack(job_id, "done") for job_id in claims]) == [True] * 7
    assert await redis.zcard(QUEUE) == 0


async def test_an_answer_that_was_lost_is_found_again(brokers: list[Broker]) -> None:
    """Jobs that are ours on Redis but unknown here can be named, and handed back unspent."""
    first, second = brokers
    await put(first, "known", "stray")
    await claimed(first)
    assert await first.orphaned_claims({"known"}) == ["stray"]
    assert await second.orphaned_claims(()) == []
    await first.acknowledge([Ack("stray", "release")])
    (claim,) = (await second.claim(10, busy=0)).jobs
    assert (claim.job_id, claim.attempt, claim.crashes) == ("stray", 1, 0)


async def lose_worker(broker: Broker, times: int) -> None:
    for _ in range(times):
        assert await claimed(broker, lease_settings=SHORT) == ["suspect"]
        await lease_runs_out(broker, "suspect")
        broker.token = uuid4().hex  # the worker is started anew


async def test_a_job_that_lost_two_workers_runs_alone(brokers: list[Broker]) -> None:
    """A busy worker is asked to make room; the others go on with other jobs meanwhile."""
    first, second = brokers
    await put(first, "suspect")
    await lose_worker(first, 2)
    await put(first, "other")
    await first.redis.zadd(QUEUE, {"suspect": 0.5})
    look = await first.claim(10, busy=3)
    assert (look.jobs, look.drain_first) == ([], True)
    assert await claimed(second, busy=3) == ["other"]
    await first.redis.zadd(QUEUE, {"suspect": 0.5})
    await put(first, "another")
    (claim,) = (await first.claim(10, busy=0)).jobs
    assert (claim.job_id, claim.crashes) == ("suspect", 2)


async def test_a_hopeless_job_is_handed_out_to_be_buried(brokers: list[Broker]) -> None:
    """After the third crash it needs no room of its own: it is not run again."""
    first, _ = brokers
    await put(first, "suspect")
    await lose_worker(first, 3)
    (claim,) = (await first.claim(10, busy=5)).jobs
    assert (claim.job_id, claim.crashes) == ("suspect", 3)
    assert len(claim.history) == 3


async def test_a_job_that_is_being_cancelled_is_not_claimed(brokers: list[Broker]) -> None:
    """Who cancels it must not lose the race against the next worker."""
    first, _ = brokers
    await put(first, "a", "b")
    seconds, _ = await first.redis.time()
    await first.redis.zadd(f"ledgerq:cancel:{QUEUE}", {"a": seconds * 1000})
    look = await first.claim(10, busy=0)
    assert [claim.job_id for claim in look.jobs] == ["b"]
    assert look.cancelled == {"a"}


@pytest.mark.whole_redis
async def test_a_full_redis_still_lets_jobs_end(brokers: list[Broker]) -> None:
    """Claims and endings free memory in the end: they work when nothing can be enqueued any more. So do signs of life."""
    first, _ = brokers
    await put(first, "a")
    await first.redis.config_set("maxmemory", "1")
    try:
        assert await claimed(first) == ["a"]
        assert await first.renew(["a"]) == {"a": RenewalStatus.RENEWED}
        assert await first.acknowledge([Ack("a", "done")]) == [True]
        await beat(first.redis, QUEUE, "worker-1", lease=LONG.lease)
        assert await first.redis.zscore(workers_key(QUEUE), "worker-1")
    finally:
        await first.redis.config_set("maxmemory", "0")


async def test_a_body_that_is_too_long_is_never_handed_over_whole(brokers: list[Broker]) -> None:
    """Six bodies of 5 MB: the worker gets a byte more than it may have of each, and can tell."""
    first, _ = brokers
    await put(first, *(f"j{n}" for n in range(6)))
    for n in range(6):
        await first.redis.set(f"arq:job:j{n}", b"x" * 5_000_000)
    claims = (await first.claim(10, busy=0)).jobs
    assert [len(claim.body or b"") for claim in claims] == [MAX_BODY_BYTES + 1] * 6


async def seen(broker: Broker, worker: str, *, ago: float) -> None:
    """The worker's last sign of life."""
    seconds, microseconds = await broker.redis.time()
    then = seconds + microseconds / 1e6 - ago
    await broker.redis.zadd(workers_key(QUEUE), {worker: then})


async def test_an_own_lease_that_slipped_is_no_crash(brokers: list[Broker]) -> None:
    """The worker that let it slip lives, and claims the job again."""
    first, _ = brokers
    await put(first, "a")
    await claimed(first, lease_settings=SHORT)
    await lease_runs_out(first, "a")
    (claim,) = (await first.claim(10, busy=0)).jobs
    assert (claim.attempt, claim.crashes, claim.history) == (1, 0, ())


async def test_the_slipped_lease_of_a_worker_that_lives_is_no_crash(brokers: list[Broker]) -> None:
    """It showed a sign of life within half a lease; one that was killed did so before."""
    first, second = brokers
    await put(first, "a")
    await claimed(first, lease_settings=SHORT)
    await lease_runs_out(first, "a")
    await seen(first, "worker-1", ago=0)
    (claim,) = (await second.claim(10, busy=0)).jobs
    assert (claim.attempt, claim.crashes, claim.history) == (1, 0, ())
    await put(first, "b")
    assert await claimed(first, lease_settings=SHORT) == ["b"]
    await lease_runs_out(first, "b")
    await seen(first, "worker-1", ago=LONG.lease * 2 / 3)
    await seen(first, "worker-2", ago=1)
    (claim,) = (await second.claim(10, busy=0)).jobs
    assert (claim.attempt, claim.crashes) == (1, 1)


async def outage_over(first: Broker, *, away: float = 2 * LONG.lease) -> None:
    """A job of the first worker, whose lease has run out; and both workers have been silent for so many seconds."""
    await put(first, "a")
    await claimed(first, lease_settings=SHORT)
    await lease_runs_out(first, "a")
    for worker in ("worker-1", "worker-2"):
        await seen(first, worker, ago=away)


async def renewal_time_is_over(broker: Broker, job_id: str) -> None:
    """As if the time until the job is due had passed; the mark in its score stays."""
    score = await broker.redis.zscore(QUEUE, job_id)
    assert score
    assert score % 1 == 0.5
    await broker.redis.zadd(QUEUE, {job_id: score - LONG.lease_ms})
    await broker.redis.delete(renewal_key(QUEUE))


@pytest.mark.parametrize("away", [2 * LONG.lease, 2 * 24 * 3600])
@pytest.mark.parametrize("beats", [0, 1, 2])
async def test_after_an_outage_owners_have_time_to_renew_before_their_jobs_are_claimed(
    brokers: list[Broker], beats: int, away: float
) -> None:
    """All leases have run out, and no worker gave a sign of life meanwhile. Nobody is blamed, and nothing runs twice."""
    first, second = brokers
    await outage_over(first, away=away)
    for _ in range(beats):  # of whoever comes first after the outage
        await beat(second.redis, QUEUE, "worker-2", lease=LONG.lease)
    found = await second.claim(10, busy=0)
    assert found.jobs == []
    assert found.due_in is not None
    assert LONG.lease / 2 - 1 < found.due_in < LONG.lease / 2 + 0.1
    assert await first.renew(["a"]) == {"a": RenewalStatus.RENEWED}
    await renewed_lease_runs_out(first, "a")
    await seen(first, "worker-1", ago=2 * LONG.lease)
    await seen(first, "worker-2", ago=2 * LONG.lease)
    assert (await second.claim(10, busy=0)).jobs == []  # a second outage gives time once more


async def renewed_lease_runs_out(broker: Broker, job_id: str) -> None:
    await broker.redis.delete(f"arq:in-progress:{job_id}", renewal_key(QUEUE))
    await broker.redis.zadd(QUEUE, {job_id: 1})


async def test_an_owner_has_time_to_renew_once_however_many_workers_come_and_go(
    brokers: list[Broker],
) -> None:
    """Else the job of a worker that died would wait for ever, while workers live for less than the time."""
    first, second = brokers
    await outage_over(first)
    assert (await second.claim(10, busy=0)).jobs == []
    await renewal_time_is_over(second, "a")
    await seen(first, "worker-2", ago=2 * LONG.lease)
    await beat(second.redis, QUEUE, "worker-3", lease=LONG.lease)  # begins a renewal time of others
    assert [(each.job_id, each.crashes) for each in (await second.claim(10, busy=0)).jobs] == [
        ("a", 1)
    ]


async def test_jobs_that_are_left_to_their_owners_hide_no_other_job(brokers: list[Broker]) -> None:
    """One claim looks behind them, however little room there is."""
    first, second = brokers
    held = [f"held-{n:03}" for n in range(300)]
    await put(first, *held)
    assert len(await claimed(first, 300, lease_settings=SHORT)) == 300
    await lease_runs_out(first, held[-1])
    await first.redis.zadd(QUEUE, dict.fromkeys(held, 1))
    await put(first, "new")
    await first.redis.zadd(QUEUE, {"new": 2})
    await seen(first, "worker-1", ago=2 * LONG.lease)
    assert await claimed(second, 10) == ["new"]


async def crash_counted(owner: Broker, successor: Broker, *jobs: str) -> list[int]:
    """The successor claims jobs of an owner whose leases ran out, and gives them back; the crashes that it was told."""
    assert await claimed(owner, lease_settings=SHORT) == [*jobs]
    await lease_runs_out(owner, jobs[-1])
    await seen(owner, "worker-9", ago=0)
    claims = (await successor.claim(10, busy=0)).jobs
    assert [each.job_id for each in claims] == [*jobs]
    assert all(await successor.acknowledge([Ack(job, "release") for job in jobs]))
    return [each.crashes for each in claims]


async def test_an_owner_that_lives_takes_back_the_crash_that_was_counted_when_its_lease_ran_out(
    brokers: list[Broker],
) -> None:
    """The log says so. Another owner's crash stays."""
    first, second = brokers
    third = Broker(first.redis, QUEUE, "worker-3", LONG)
    await put(first, "a")
    assert await crash_counted(second, third, "a") == [1]
    assert await crash_counted(first, third, "a") == [2]
    assert await first.review_crashes(["a", "unknown"], take_back=True) == 1
    (claim,) = (await third.claim(10, busy=0)).jobs
    assert claim.crashes == 1
    told = [entry["error"] for entry in claim.history]
    assert told == ["the worker died", "the worker could not renew its lease"]


async def test_a_crash_is_reviewed_once(brokers: list[Broker]) -> None:
    """One that was not taken back, since its owner stood still, is not taken back by a later outage."""
    first, second = brokers
    await put(first, "a")
    await crash_counted(first, second, "a")
    assert await first.review_crashes(["a"], take_back=False) == 0
    assert await first.review_crashes(["a"], take_back=True) == 0
    assert await crash_counted(first, second, "a") == [2]


async def test_a_job_that_keeps_its_workers_from_redis_is_given_up_in_the_end(
    brokers: list[Broker],
) -> None:
    """Only so many crashes are taken back for one job: the job may be why its workers do not reach Redis."""
    first, second = brokers
    await put(first, "a")
    met = []
    for _ in range(5):
        met += await crash_counted(first, second, "a")
        await first.review_crashes(["a"], take_back=True)
    assert met == [1, 1, 1, 1, 2]


@pytest.mark.parametrize("wrong", ["text", "number"])
async def test_a_crash_is_taken_back_whatever_became_of_the_job(
    brokers: list[Broker], wrong: str
) -> None:
    """A job that has ended, and a key that holds something else, are left alone."""
    first, second = brokers
    await put(first, "a", "b", "c")
    assert await crash_counted(first, second, "a", "b", "c") == [1, 1, 1]
    assert await claimed(second, 1) == ["a"]
    assert await second.acknowledge([Ack("a", "done")]) == [True]
    if wrong == "text":
        await first.redis.set(failures_key(QUEUE, "b"), "x")
    else:
        await first.redis.hset(failures_key(QUEUE, "b"), "crashes", "x")  # type: ignore[misc]
    assert await first.review_crashes(["a", "b", "c"], take_back=True) == 1
    assert not await first.redis.exists(failures_key(QUEUE, "a"))


async def test_a_key_of_the_wrong_sort_keeps_no_other_lease_from_being_renewed(
    brokers: list[Broker],
) -> None:
    """It counts as missing."""
    first, _ = brokers
    await put(first, "a", "b")
    assert len(await claimed(first)) == 2
    await first.redis.delete("arq:in-progress:a")
    await first.redis.rpush("arq:in-progress:a", "x")  # type: ignore[misc]
    assert set((await first.renew(["a", "b"])).values()) == {RenewalStatus.RENEWED}


class Unreachable(Broker):
    """A broker whose next renewals fail."""

    failures = 0

    async def renew(self, job_ids: Sequence[str]) -> dict[str, RenewalStatus]:
        if self.failures:
            self.failures -= 1
            raise ConnectionError
        return await super().renew(job_ids)


@pytest.mark.parametrize(("stood_still", "taken_back"), [(0, 1), (4.9, 1), (5, 0), (20, 0)])
async def test_crashes_are_taken_back_after_renewals_that_failed_if_the_process_did_not_stand_still(
    brokers: list[Broker], stood_still: float, taken_back: int
) -> None:
    """A third of a lease is too long; and what is decided then holds."""
    first, second = brokers
    owner = Unreachable(first.redis, QUEUE, "worker-1", LONG)
    await put(first, "a")
    lost: list[str] = []
    renewals = Renewals(owner, lambda: ["a"], lost.append)
    await crash_counted(owner, second, "a")
    for _ in range(2):
        owner.failures = 2
        for _ in range(2):
            with pytest.raises(ConnectionError):
                await renewals.run_once()
        renewals.process_stood_still(stood_still)
        await renewals.run_once()
        stood_still = 0
    count = await first.redis.hget(failures_key(QUEUE, "a"), "crashes")  # type: ignore[misc]
    assert int(count) == 1 - taken_back


@pytest.mark.parametrize("ahead", [0, 3600])
async def test_after_an_outage_the_jobs_of_workers_that_died_are_claimed_half_a_lease_later(
    brokers: list[Broker], ahead: float
) -> None:
    """The crash is counted. A sign of life of before Redis' clock was set back does not hide the outage."""
    first, second = brokers
    await put(first, "a")
    await claimed(first, lease_settings=SHORT)
    await lease_runs_out(first, "a")
    await seen(first, "worker-1", ago=2)
    await seen(first, "worker-3", ago=-ahead if ahead else 3)
    second.lease_settings = LeaseSettings(lease=1)
    beats = partial(keep_beating, second.redis, QUEUE, "worker-2", lambda: True, lease=1)
    looks = [await second.claim(10, busy=0)]
    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        beating = group.create_task(beats())
        while not looks[-1].jobs:
            await asyncio.sleep(looks[-1].due_in or 0.01)
            looks.append(await second.claim(10, busy=0))
        beating.cancel()
    assert len(looks) > 1
    assert [(each.job_id, each.crashes) for each in looks[-1].jobs] == [("a", 1)]


async def test_workers_whose_signs_of_life_come_in_time_note_no_outage(
    brokers: list[Broker],
) -> None:
    """Nor does the first worker of a queue."""
    first, second = brokers
    for each in (first, second, first):
        await beat(each.redis, QUEUE, each.worker, lease=LONG.lease)
    assert not await first.redis.exists(renewal_key(QUEUE))
