"""Jobs that end close together: their acks share a round trip, and their slots are filled by one poll."""

import asyncio
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest

from ledgerq.broker.claims import Ack, AckAction, Claim
from ledgerq.worker import acker
from ledgerq.worker.acker import Acker
from ledgerq.worker.active_jobs import ActiveJobs, CancelReason
from ledgerq.worker.poller import Poller
from ledgerq.worker.sharing import BatchSize

SNOOZED = 60_000  # ms by which a released job is put off


class Broker:
    """Answers acks when it is told to."""

    def __init__(self) -> None:
        self.sent: list[list[str]] = []
        self.acks: list[Ack] = []
        self.answers = asyncio.Event()

    async def acknowledge(self, acks: list[Ack]) -> list[bool]:
        self.sent.append([each.job_id for each in acks])
        self.acks += acks
        await self.answers.wait()
        return [True] * len(acks)


class Worker:
    """The parts of a worker from a claim to its ack; the jobs do nothing."""

    def __init__(self, *, hook: Any = None, action: AckAction = "done") -> None:
        self.broker, self.ended, self.action = Broker(), asyncio.Semaphore(0), action
        self.cancelled_for: CancelReason | None = None  # a reason that comes while a job ends
        executor: Any = SimpleNamespace(
            options=SimpleNamespace(after_job_end=hook), run=self.run, after=self.after,
            handed_back=self.handed_back, aborted=self.aborted,
        )  # fmt: skip
        broker: Any = self.broker
        self.acker = Acker(broker, lambda: None)
        self.active = ActiveJobs(executor, self.acker, self.ended.release, BatchSize(1), 10)

    async def run(self, claims: list[Claim]) -> list[Ack]:
        if self.cancelled_for:
            for each in claims:
                self.active.cancel(each.job_id, self.cancelled_for)
            with suppress(asyncio.CancelledError):  # as a commit does
                await asyncio.sleep(0)
        delay = SNOOZED if self.action == "release" else 0
        return [Ack(each.job_id, self.action, delay) for each in claims]

    def handed_back(self, claim: Claim, *, delay: int = 0) -> Ack:
        return Ack(claim.job_id, "release", delay)

    async def aborted(self, claim: Claim) -> Ack:
        return Ack(claim.job_id, "done", result=b"aborted")

    async def after(self, claims: list[Claim]) -> None:
        pass


def claim(job_id: str, *, outside: bool = False, suspect: bool = False) -> Claim:
    return Claim(
        job_id, 1, b"", score=0, is_batchable=False, works_outside=outside, is_suspect=suspect,
        is_doubtful=False,
    )  # fmt: skip


async def turns(number: int = 20) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


async def test_a_job_that_waits_for_its_ack_takes_no_slot() -> None:
    worker = Worker()
    sending = asyncio.create_task(worker.acker.run())
    worker.active.start(claim("one"), aborted=False)
    assert worker.active.slots_taken == 1
    await worker.ended.acquire()
    assert worker.active.slots_taken == 0
    assert set(worker.active.tasks) == {"one"}  # its lease is renewed until the ack is there
    worker.broker.answers.set()
    await asyncio.gather(*worker.active.tasks.values())
    await turns()
    assert (worker.active.slots_taken, worker.active.tasks) == (0, {})
    sending.cancel()


async def test_jobs_whose_acks_redis_does_not_take_fill_the_slots_in_the_end() -> None:
    worker = Worker()
    sending = asyncio.create_task(worker.acker.run())
    for number in range(60):
        worker.active.start(claim(str(number)), aborted=False)
    for _ in range(60):
        await worker.ended.acquire()
    assert worker.active.slots_taken == 10
    worker.broker.answers.set()
    while worker.active.tasks:
        polls = worker.ended.acquire()
        await asyncio.gather(*worker.active.tasks.values())
        await polls  # the slots that get free then are told
    assert worker.active.slots_taken == 0
    sending.cancel()


async def test_a_slot_is_free_once_even_in_the_moment_when_its_ack_is_answered() -> None:
    worker = Worker()
    sending = asyncio.create_task(worker.acker.run())
    for name in ("one", "two", "three"):
        worker.active.start(claim(name), aborted=False)
    for _ in range(3):
        await worker.ended.acquire()
    worker.broker.answers.set()
    while worker.active.tasks:
        assert worker.active.slots_taken == 0
        await asyncio.sleep(0)
    sending.cancel()


@pytest.mark.parametrize("action", ["retry", "release", "interrupt"])
async def test_a_job_that_is_claimed_again_before_its_own_ack_is_answered_runs_again(
    action: AckAction,
) -> None:
    worker = Worker(action=action)
    sending = asyncio.create_task(worker.acker.run())
    worker.active.start(claim("one"), aborted=False)
    await turns()
    assert worker.broker.sent == [["one"]]
    assert worker.ended.locked()  # it is not claimed by its own doing
    worker.active.start(claim("one"), aborted=False)
    assert worker.active.started == 1
    worker.broker.answers.set()
    while len(worker.broker.sent) == 1:
        await worker.ended.acquire()
    assert (worker.broker.sent, worker.active.started) == ([["one"], ["one"]], 2)
    sending.cancel()


async def test_a_done_job_that_is_claimed_again_before_its_ack_is_answered_does_not_run_again() -> (
    None
):
    """Its lease ran out while Redis hung; the ack ends the second claim too, which is of the same worker."""
    worker = Worker()
    sending = asyncio.create_task(worker.acker.run())
    worker.active.start(claim("one"), aborted=False)
    await turns()
    worker.active.start(claim("one"), aborted=False)
    worker.broker.answers.set()
    await asyncio.gather(*worker.active.tasks.values())
    await turns()
    assert (worker.broker.sent, worker.active.tasks) == ([["one"]], {})
    sending.cancel()


@pytest.mark.parametrize(
    ("action", "why", "sent"),
    [
        ("retry", CancelReason.STOPPING, "release"),
        ("retry", CancelReason.CANCELLED, "release"),
        ("release", CancelReason.STOPPING, "snoozed"),
        ("release", CancelReason.ABORTED, "aborted"),
        ("done", CancelReason.ABORTED, "done"),
    ],
)
async def test_a_job_that_is_cancelled_while_it_ends_spends_no_attempt(
    action: AckAction, why: CancelReason, sent: str
) -> None:
    """A cancelled job that would be tried again is handed back, or has ended if it was aborted; what is done stays done."""
    worker = Worker(action=action)
    worker.broker.answers.set()
    worker.cancelled_for = why
    sending = asyncio.create_task(worker.acker.run())
    worker.active.start(claim("one"), aborted=False)
    await asyncio.gather(*worker.active.tasks.values())
    [ack] = worker.broker.acks
    kept = "snoozed" if ack.delay == SNOOZED else ack.action
    assert ("aborted" if ack.result == b"aborted" else kept) == sent
    sending.cancel()


@pytest.mark.parametrize("why", ["its hook is to come", "it must run alone", "it works outside"])
async def test_a_job_keeps_its_slot_until_its_ack_if(why: str) -> None:
    async def hook(ctx: Any) -> None:
        pass

    worker = Worker(hook=hook if why == "its hook is to come" else None)
    sending = asyncio.create_task(worker.acker.run())
    outside, suspect = why == "it works outside", why == "it must run alone"
    worker.active.start(claim("one", outside=outside, suspect=suspect), aborted=False)
    await turns()
    assert worker.broker.sent == [["one"]]
    assert worker.ended.locked()  # no poll would find room
    assert (worker.active.outside, worker.active.slots_taken) == ((1, 0) if outside else (0, 1))
    assert worker.active.isolated == suspect
    worker.broker.answers.set()
    await worker.ended.acquire()
    assert (worker.active.outside, worker.active.slots_taken, worker.active.isolated) == (
        0,
        0,
        False,
    )
    sending.cancel()


async def test_acks_that_come_close_together_share_a_round_trip() -> None:
    worker = Worker()
    worker.broker.answers.set()
    sending = asyncio.create_task(worker.acker.run())
    await worker.acker.acknowledge([Ack("first", "done")])
    worker.broker.sent.clear()
    later = [worker.acker.acknowledge([Ack(name, "done")]) for name in ("second", "third")]
    await asyncio.gather(*later)
    assert worker.broker.sent == [["second", "third"]]
    sending.cancel()


async def test_an_ack_waits_for_no_other_if_no_other_job_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(acker, "_APART", 60)
    worker = Worker()
    worker.broker.answers.set()
    sending = asyncio.create_task(worker.acker.run())
    for name in ("one", "two"):
        worker.active.start(claim(name), aborted=False)
        await asyncio.wait_for(asyncio.gather(*worker.active.tasks.values()), 5)
    assert worker.broker.sent == [["one"], ["two"]]
    sending.cancel()


async def test_a_poller_with_many_running_jobs_waits_for_a_few_that_end() -> None:
    poller = Poller(60)
    poller.start()
    waiting = asyncio.create_task(poller.until_free(10))
    for ended in range(3):
        await turns()
        assert not waiting.done(), ended
        poller.job_ended()
    await turns()
    assert waiting.done()


async def test_a_poller_does_not_wait_for_a_second_job_to_end_for_long() -> None:
    poller = Poller(60)
    poller.start()
    poller.job_ended()
    await asyncio.wait_for(poller.until_free(100), 5)


async def test_a_poller_with_one_slot_polls_when_its_job_has_ended() -> None:
    poller = Poller(60)
    poller.start()
    waiting = asyncio.create_task(poller.until_free(1))
    await turns()
    poller.job_ended()
    await turns()
    assert waiting.done()


async def _polls_at_once(poller: Poller) -> bool:
    """Let the queue change once; True if the poller then ends its wait without a rest."""
    poller.start()
    poller.queue_changed()
    waiting = asyncio.create_task(poller.until_change(None, busy=False, or_free=False))
    await turns()
    at_once = waiting.done()
    waiting.cancel()
    return at_once


@pytest.fixture
def resting_poller(monkeypatch: pytest.MonkeyPatch) -> Poller:
    """A poller whose rest, once it begins one, does not end within a test."""
    monkeypatch.setattr("ledgerq.worker.poller._APART", 60)
    monkeypatch.setattr("ledgerq.worker.poller._MAX_APART", 60)
    return Poller(60)


async def test_a_poller_rests_after_changes_of_others_that_left_nothing_to_claim(
    resting_poller: Poller,
) -> None:
    assert await _polls_at_once(resting_poller)
    assert not await _polls_at_once(resting_poller)


async def test_a_job_that_comes_after_the_change_of_an_own_claim_and_of_an_own_ack_is_claimed_at_once(
    resting_poller: Poller,
) -> None:
    resting_poller.start()
    resting_poller.record_result(1)
    found = [await _polls_at_once(resting_poller) for _ in range(5)]
    assert found == [True, True, True, False, False]


async def test_acks_that_are_sent_again_are_not_taken_for_lost_claims() -> None:
    """The first time may have ended the claim, and only its answer was lost. Acks that are sent once are answered as they are."""

    class Forgetful(Broker):
        """Loses its first answer."""

        async def acknowledge(self, acks: list[Ack]) -> list[bool]:
            self.sent.append([each.job_id for each in acks])
            if len(self.sent) == 1:
                raise ConnectionError
            return [False] * len(acks)

    broker: Any = Forgetful()
    own = Acker(broker, lambda: None)
    sending = asyncio.create_task(own.run())
    first = asyncio.create_task(own.acknowledge([Ack("a", "done")], at_once=True))
    while not broker.sent:
        await asyncio.sleep(0)
    second = asyncio.create_task(own.acknowledge([Ack("b", "done")]))
    assert [*await asyncio.gather(first, second)] == [[True], [False]]
    assert broker.sent == [["a"], ["a", "b"]]
    sending.cancel()
