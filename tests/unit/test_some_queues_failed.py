"""A worker of several queues, one of which Redis refuses: the jobs of the others are acknowledged, and their leases kept."""

import asyncio
from collections.abc import Collection, Mapping
from typing import Any

import pytest
from redis.exceptions import ResponseError

from ledgerq.broker.claims import Ack, LeaseSettings, RenewalStatus
from ledgerq.broker.many_queues import SomeQueuesFailed
from ledgerq.worker import acker
from ledgerq.worker.acker import Acker
from ledgerq.worker.renewals import Renewals

REFUSAL = ResponseError("WRONGTYPE")


class Queues:
    """Refuses jobs whose names begin with `bad` while it `refuses`."""

    def __init__(self) -> None:
        self.lease_settings = LeaseSettings(lease=15)
        self.refuses, self.acks, self.reviewed = True, list[list[str]](), list[list[str]]()
        self.status = RenewalStatus.RENEWED

    async def acknowledge(self, acks: list[Ack]) -> list[bool]:
        self.acks.append([each.job_id for each in acks])
        return list(self._answers([each.job_id for each in acks], 1).values())  # type: ignore[arg-type]

    async def renew(self, job_ids: list[str]) -> Mapping[str, int]:
        return self._answers(job_ids, self.status)

    def _answers(self, job_ids: list[str], answer: int) -> dict[str, int]:
        good = [job_id for job_id in job_ids if not (self.refuses and job_id.startswith("bad"))]
        answers = dict.fromkeys(good, answer)
        if len(good) < len(job_ids):
            raise SomeQueuesFailed(REFUSAL, answers)
        return answers

    async def review_crashes(self, job_ids: Collection[str], *, take_back: bool) -> int:
        self.reviewed.append(sorted(job_ids))
        return 0


async def test_acks_that_were_answered_are_told_and_the_others_are_sent_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A job of a good queue ends at once; an ack is sent again only if its own queue did not take it."""
    monkeypatch.setattr(acker, "_AGAIN", 0.01)
    queues, failures = Queues(), list[None]()
    broker: Any = queues
    own = Acker(broker, lambda: failures.append(None))
    sending = asyncio.create_task(own.run())
    bad = asyncio.create_task(own.acknowledge([Ack("bad", "done")]))
    both = asyncio.create_task(own.acknowledge([Ack("good 1", "done"), Ack("bad 1", "done")]))
    await asyncio.sleep(0)  # until both wait
    assert await own.acknowledge([Ack("good 2", "done")]) == [True]
    assert failures
    assert queues.acks == [["bad", "good 1", "bad 1", "good 2"]]
    assert not bad.done()
    assert not both.done()
    assert await own.acknowledge([Ack("good 3", "done")], at_once=True) == [True]
    queues.refuses = False
    assert [await bad, await both] == [[True], [True, True]]
    sent = [job_id for each in queues.acks for job_id in each]
    assert [sent.count(f"good {n}") for n in (1, 2, 3)] == [1, 1, 1]
    sending.cancel()


async def test_leases_that_were_lost_are_told_though_another_queue_refuses() -> None:
    """Jobs of a good queue that another worker has are cancelled; those of the bad queue are reviewed once it answers."""
    queues, taken = Queues(), list[str]()
    broker: Any = queues
    renewals = Renewals(broker, lambda: {"good", "bad"}, taken.append)
    queues.status = RenewalStatus.TAKEN
    with pytest.raises(SomeQueuesFailed, match="WRONGTYPE"):
        await renewals.run_once()
    assert (taken, queues.reviewed) == (["good"], [["good"]])
    queues.status, queues.refuses = RenewalStatus.RENEWED, False
    await renewals.run_once()
    await renewals.run_once()
    assert (taken, queues.reviewed) == (["good"], [["good"], ["bad"]])
