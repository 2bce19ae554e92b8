"""Attempts as Redis counts them: `arq:retry:` says how many are spent, and stands only where one is."""

from collections.abc import AsyncIterator
from typing import Any

import arq
import pytest
from arq import Retry, func
from arq.connections import ArqRedis

from ledgerq.broker.claims import Ack, AckAction, Broker, Claim, LeaseSettings
from ledgerq.broker.keys import workers_key
from ledgerq.broker.queue import remove_from_queue
from ledgerq.broker.room import NO_ROOM, Room
from tests.support import eventually

QUEUE = "arq:queue"
SPENT = "arq:retry:a"
MONTH = 30 * 24 * 3600
SHORT, LONG = LeaseSettings(lease=0.2), LeaseSettings(lease=15)


@pytest.fixture
async def brokers(redis: ArqRedis) -> AsyncIterator[list[Broker]]:
    """Two workers on one queue, where one job waits."""
    await redis.enqueue_job("tries", _job_id="a")
    both = [Broker.connect(redis, QUEUE, f"worker-{n}", LONG) for n in (1, 2)]
    yield both
    for broker in both:
        await broker.close()


async def claimed(broker: Broker, *, kinds: tuple[str, ...] = ()) -> Claim:
    """The next claim, as soon as the job is due."""

    async def look() -> Claim | None:
        room = Room(10, kinds) if kinds else NO_ROOM
        found = await broker.claim(10, busy=0, room=room)
        return found.jobs[0] if found.jobs else None

    claim = await eventually(look)
    assert isinstance(claim, Claim)
    return claim


async def ended(broker: Broker, action: AckAction) -> None:
    assert await broker.acknowledge([Ack("a", action)]) == [True]


async def lost(broker: Broker) -> Claim:
    """A claim whose worker dies: its lease runs out."""
    broker.lease_settings = SHORT
    claim = await claimed(broker)
    broker.lease_settings = LONG

    async def is_over() -> bool:
        return not await broker.redis.exists("arq:in-progress:a")

    await eventually(is_over)
    return claim


async def by_arq(redis: ArqRedis, *, fails: bool = False) -> int:
    """The attempt that arq's own worker counts when it runs the job."""
    seen: list[int] = []

    async def tries(ctx: dict[str, Any]) -> None:
        seen.append(ctx["job_try"])
        if fails:
            raise Retry

    async def is_due() -> bool:
        seconds, microseconds = await redis.time()
        return bool(await redis.zscore(QUEUE, "a") < seconds * 1000 + microseconds / 1000 - 2)

    await eventually(is_due)
    options: dict[str, Any] = {
        "burst": True,
        "handle_signals": False,
        "max_burst_jobs": 1,
        "poll_delay": 0.01,
    }
    worker = arq.Worker(
        [func(tries, name="tries")],
        redis_pool=redis,
        job_serializer=redis.job_serializer,
        job_deserializer=redis.job_deserializer,
        **options,
    )
    await worker.main()
    return seen[0]


async def test_a_job_that_succeeds_writes_no_count(brokers: list[Broker]) -> None:
    """Neither when it is claimed nor when it ends."""
    first, _ = brokers
    assert (await claimed(first)).attempt == 1
    assert not await first.redis.exists(SPENT)
    await ended(first, "done")
    assert await first.redis.keys("*") == []


async def test_a_failure_spends_an_attempt_and_a_claim_spends_none(brokers: list[Broker]) -> None:
    """The count goes on from claim to claim, for a month, and goes with the job."""
    first, second = brokers
    for attempt in (1, 2, 3):
        assert (await claimed(first)).attempt == attempt
        assert int(await first.redis.get(SPENT) or 0) == attempt - 1
        await ended(first, "retry")
        assert int(await first.redis.get(SPENT)) == attempt
        assert MONTH - 60 < await first.redis.ttl(SPENT) <= MONTH
    assert (await claimed(second)).attempt == 4
    await ended(second, "done")
    assert await first.redis.keys("*") == []


@pytest.mark.parametrize("action", ["release", "interrupt"])
async def test_a_claim_that_is_handed_back_spends_none(
    brokers: list[Broker], action: AckAction
) -> None:
    """At the first attempt no count appears; at a later one it stays."""
    first, second = brokers
    assert (await claimed(first)).attempt == 1
    await ended(first, action)
    assert not await first.redis.exists(SPENT)
    assert (await claimed(second)).attempt == 1
    await ended(second, "retry")
    assert (await claimed(first)).attempt == 2
    await ended(first, action)
    assert await first.redis.get(SPENT) == b"1"
    assert (await claimed(second)).attempt == 2


async def test_a_crash_spends_none(brokers: list[Broker]) -> None:
    """It is counted apart, at the first attempt and at later ones."""
    first, second = brokers
    assert (await lost(first)).attempt == 1
    claim = await claimed(second)
    assert (claim.attempt, claim.crashes) == (1, 1)
    await ended(second, "retry")
    assert (await lost(first)).attempt == 2
    claim = await claimed(second)
    assert (claim.attempt, claim.crashes) == (2, 2)


async def test_a_job_whose_living_worker_let_its_lease_slip_shares_no_transaction(
    brokers: list[Broker],
) -> None:
    """That worker may still run it: a second run would hold up the others of its batch."""
    first, second = brokers
    await lost(first)
    seconds, _ = await first.redis.time()
    await first.redis.zadd(workers_key(QUEUE), {"worker-1": seconds})
    claim = await claimed(second, kinds=("tries",))
    assert (claim.attempt, claim.crashes, claim.is_batchable) == (1, 0, False)


async def test_a_job_that_failed_shares_no_transaction_and_one_handed_back_does(
    brokers: list[Broker],
) -> None:
    """What was never tried may share."""
    first, _ = brokers
    for action in ("release", "retry", "done"):
        claim = await claimed(first, kinds=("tries",))
        assert claim.is_batchable is (action != "done")
        await ended(first, action)


async def test_arqs_own_worker_counts_the_attempts_that_we_have_spent(
    brokers: list[Broker], redis: ArqRedis
) -> None:
    """It adds its own."""
    first, _ = brokers
    await claimed(first)
    await ended(first, "retry")
    assert await by_arq(redis) == 2
    assert await redis.keys("arq:retry:*") == []


async def test_arqs_own_worker_does_not_count_an_attempt_of_ours_that_crashed(
    brokers: list[Broker], redis: ArqRedis
) -> None:
    """What it has spent itself, we count; our crash too."""
    first, second = brokers
    await lost(first)
    assert await by_arq(redis, fails=True) == 1
    claim = await claimed(second)
    assert (claim.attempt, claim.crashes) == (2, 1)


async def test_an_attempt_during_which_arqs_own_worker_died_is_spent(
    brokers: list[Broker],
) -> None:
    """It counts when it begins, as arq does."""
    first, _ = brokers
    await first.redis.incr(SPENT)
    assert (await claimed(first)).attempt == 2


@pytest.mark.parametrize("count", ["many", "-1", "0x10", "1e30", "9" * 40])
async def test_a_count_that_nobody_wrote_does_not_stop_the_job(
    brokers: list[Broker], count: str
) -> None:
    """It is claimed, and its next failure is counted."""
    first, _ = brokers
    await first.redis.set(SPENT, count)
    claim = await claimed(first)
    assert claim.attempt >= 1
    await ended(first, "retry")
    assert (await claimed(first)).attempt == min(claim.attempt, 1_000_000) + 1


async def test_a_job_that_is_removed_takes_its_count_along(
    brokers: list[Broker], redis: ArqRedis
) -> None:
    """A later job of this id begins at its first attempt."""
    first, _ = brokers
    await claimed(first)
    await ended(first, "retry")
    assert await remove_from_queue(redis, QUEUE, {"a": b""}, keep=0) == 1
    assert await redis.keys("*") == []
