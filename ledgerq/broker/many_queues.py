"""Several queues with the interface of one: a worker that serves more than one queue uses it in place of a `Broker`.

claim    polls all queues, and begins with another one each time, so that no queue starves while others are full
route    sends renewals and acknowledgements to the queue from which the job was claimed, though another queue fails
"""

from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

from arq.connections import ArqRedis
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from ledgerq.broker.claims import (
    Ack,
    Broker,
    Claim,
    FetchResult,
    LeaseSettings,
    RenewalStatus,
    own_connections,
)
from ledgerq.broker.room import NO_ROOM, Room

T = TypeVar("T")
R = TypeVar("R", bound=int)


class SomeQueuesFailed(Exception):
    """A queue did not do what was asked, because of `error`. `answers` has, by job id, what the other queues answered."""

    def __init__(self, error: Exception, answers: Mapping[str, int]) -> None:
        self.answers = answers
        super().__init__(str(error))


class ServedQueues(Protocol):
    """The interface of a worker to its queues: `Broker` has it for one queue, `ManyQueues` for several."""

    @property
    def redis(self) -> Redis:
        """The client that all the queues share. It never sends a command twice: a lost answer is an error."""

    @property
    def queues(self) -> Sequence[str]:
        """The keys of the queues."""

    @property
    def worker(self) -> str:
        """The worker's name."""

    @property
    def lease_settings(self) -> LeaseSettings:
        """How many seconds a claim holds, and after how many crashes a job runs alone or is given up."""

    async def claim(self, wanted: int, *, busy: int, room: Room = NO_ROOM) -> FetchResult:
        """Claim due jobs of all queues: at most `wanted`, and further ones as `room` allows. `busy` is how many run now."""

    async def renew(self, job_ids: Sequence[str]) -> dict[str, RenewalStatus]:
        """Renew the leases of these jobs; answers for each job whether its lease was renewed. May raise `SomeQueuesFailed`."""

    async def acknowledge(self, acks: Sequence[Ack]) -> list[bool]:
        """End claims; answers each ack with True, or with False if this worker had lost the claim before.

        May raise `SomeQueuesFailed`.
        """

    async def review_crashes(self, job_ids: Collection[str], *, take_back: bool) -> int:
        """Take back the crashes that were counted because leases of this worker on these jobs ran out, or let them stay."""

    async def orphaned_claims(self, known: Collection[str]) -> list[str]:
        """The ids of jobs that this worker has claimed on Redis, but that are not in `known`."""

    def twin(self, redis: ArqRedis) -> "ServedQueues":
        """A second object for the claims that this one holds, over `redis`, for use in another event loop."""

    async def close(self) -> None:
        """Close its own connections to Redis; those of the client that it was made from stay open."""


def served(
    redis: ArqRedis, queues: Iterable[str], worker: str, lease_settings: LeaseSettings
) -> ServedQueues:
    """The served queues of the worker of this name: a `Broker` for one queue, `ManyQueues` for several."""
    first, *others = dict.fromkeys(queues)
    if not others:
        return Broker.connect(redis, first, worker, lease_settings)
    return ManyQueues(_brokers(redis, (first, *others), worker, lease_settings), {})


def _brokers(
    redis: ArqRedis,
    queues: Iterable[str],
    worker: str,
    lease_settings: LeaseSettings,
    token: str | None = None,
) -> list[Broker]:
    """A broker for each queue. The brokers share one pool of connections and one token."""
    own = own_connections(redis)
    brokers = [Broker(own, queue, worker, lease_settings) for queue in queues]
    for each in brokers:
        each.token = token or brokers[0].token
    return brokers


@dataclass(frozen=True, slots=True, eq=False)
class _Held:
    """From which queue a job was claimed. Compared by identity: a later claim of the job is another object."""

    queue: str


class ManyQueues:
    """One worker's claims on several queues.

    Args:
        brokers: one for each queue, with one token and one pool of connections.
        held: job id → the queue of its claim; a twin shares the dictionary. Job ids are unique on one Redis.
    """

    def __init__(self, brokers: Sequence[Broker], held: dict[str, _Held]) -> None:
        self._brokers = {each.queue: each for each in brokers}
        self._turns = deque(self._brokers)
        self._held = held
        self._failure: Exception | None = None

    @property
    def _any(self) -> Broker:
        return next(iter(self._brokers.values()))

    @property
    def redis(self) -> Redis:
        """The client that all the queues share. It never sends a command twice: a lost answer is an error."""
        return self._any.redis

    @property
    def queues(self) -> Sequence[str]:
        """The keys of the queues."""
        return tuple(self._brokers)

    @property
    def worker(self) -> str:
        """The worker's name."""
        return self._any.worker

    @property
    def lease_settings(self) -> LeaseSettings:
        """How many seconds a claim holds, and after how many crashes a job runs alone or is given up."""
        return self._any.lease_settings

    def twin(self, redis: ArqRedis) -> "ManyQueues":
        """A second object for the claims that this one holds, over `redis`, for use in another event loop."""
        token = self._any.token
        brokers = _brokers(redis, self._brokers, self.worker, self.lease_settings, token)
        return ManyQueues(brokers, self._held)

    async def claim(self, wanted: int, *, busy: int, room: Room = NO_ROOM) -> FetchResult:
        """Claim due jobs of all queues: at most `wanted`, and further ones as `room` allows. `busy` is how many run now.

        A queue is polled even without room: its answer names jobs to cancel, and when the next job is due. If a queue
        fails after jobs of another queue were claimed, this call returns those jobs, and the next call raises the failure.
        """
        if failure := self._failure:
            self._failure = None
            raise failure
        found: list[FetchResult] = []
        for queue in self._turn():
            try:
                each = await self._brokers[queue].claim(wanted, busy=busy, room=room)
            except Exception as error:
                if not any(one.jobs for one in found):
                    raise
                self._failure = error
                found.append(FetchResult(due_in=0))
                break
            found.append(each)
            batched = sum(claim.is_batchable for claim in each.jobs)
            outside = sum(claim.works_outside for claim in each.jobs)
            busy += len(each.jobs) - outside
            wanted -= len(each.jobs) - batched - outside
            suspect = any(claim.is_suspect and claim.works_outside for claim in each.jobs)
            doubtful = any(claim.is_doubtful for claim in each.jobs)
            room = replace(
                room,
                batch=room.batch - batched,
                outside=room.outside - outside,
                has_suspect=room.has_suspect or suspect,
                has_doubtful=room.has_doubtful or doubtful,
            )
            if each.drain_first or any(claim.runs_isolated for claim in each.jobs):
                wanted, room = 0, NO_ROOM  # a job that must run alone waits, or runs
                self._first(queue)
        return _joined(found, self._take(found))

    def _turn(self) -> list[str]:
        """The keys of the queues, beginning with another one at each call."""
        turn = list(self._turns)
        self._turns.rotate(-1)
        return turn

    def _first(self, queue: str) -> None:
        """Poll this queue first at the next claim: its answer decides whether jobs of other queues may be claimed."""
        self._turns.rotate(-self._turns.index(queue))

    def _take(self, found: Iterable[FetchResult]) -> list[Claim]:
        """Note the queue of each claim; answers with the claims.

        A claim is left out if this worker holds its id from another queue: the body under the id is of that queue's
        job. The claim that is left out falls due again after its lease.
        """
        claims = []
        for claim in (claim for each in found for claim in each.jobs):
            held = self._held.get(claim.job_id)
            if held is None or held.queue == claim.queue:
                self._held[claim.job_id] = _Held(claim.queue)
                claims.append(claim)
        return claims

    async def renew(self, job_ids: Sequence[str]) -> dict[str, RenewalStatus]:
        """Renew the leases of these jobs. Each queue is asked, because its script also removes claims of lost jobs."""
        ids = self._by_queue(job_ids, lambda job_id: job_id)
        parts = {queue: ids.get(queue, []) for queue in self._brokers}
        return await self._each(parts, lambda broker, some: broker.renew(some))

    async def review_crashes(self, job_ids: Collection[str], *, take_back: bool) -> int:
        """As for one queue. Each queue is asked for all: a job that ended here meanwhile has no queue any more."""

        async def review(broker: Broker, some: Collection[str]) -> dict[str, int]:
            return {broker.queue: await broker.review_crashes(some, take_back=take_back)}

        return sum((await self._each(dict.fromkeys(self._brokers, job_ids), review)).values())

    async def acknowledge(self, acks: Sequence[Ack]) -> list[bool]:
        """End claims; True for each that ended. False if this worker had lost the claim: then nothing was done."""
        before = {each.job_id: self._held.get(each.job_id) for each in acks}

        async def end(broker: Broker, some: list[Ack]) -> dict[str, bool]:
            answers = await broker.acknowledge(some)
            for job_id in (ack.job_id for ack in some):
                if (held := before[job_id]) and self._held.get(job_id) is held:
                    del self._held[job_id]  # else it was claimed again
            return {ack.job_id: answer for ack, answer in zip(some, answers, strict=True)}

        ended = await self._each(self._by_queue(acks, lambda ack: ack.job_id), end)
        return [ended[each.job_id] for each in acks]

    async def _each(
        self, parts: Mapping[str, T], ask: Callable[[Broker, T], Awaitable[Mapping[str, R]]]
    ) -> dict[str, R]:
        """Ask queues, each with its part; answers with their answers by job id. A queue that refuses keeps no other from it."""
        answers: dict[str, R] = {}
        failure: Exception | None = None
        for queue, part in parts.items():
            try:
                answers |= await ask(self._brokers[queue], part)
            except Exception as error:  # noqa: BLE001 - redis-py raises more than its own errors
                failure = failure or error
                if not isinstance(error, ResponseError):  # Redis is away: the others need not try
                    break
        if failure and (answers or isinstance(failure, ResponseError)):
            raise SomeQueuesFailed(failure, answers) from failure
        if failure:
            raise failure
        return answers

    def _by_queue(self, items: Iterable[T], id_of: Callable[[T], str]) -> dict[str, list[T]]:
        parts: dict[str, list[T]] = {}
        for each in items:
            held = self._held.get(id_of(each))
            parts.setdefault(held.queue if held else self._any.queue, []).append(each)
        return parts

    async def orphaned_claims(self, known: Collection[str]) -> list[str]:
        """The ids of jobs that this worker has claimed on Redis but that are not in `known`; notes their queues."""
        found = []
        for queue, broker in self._brokers.items():
            for job_id in await broker.orphaned_claims(known):
                self._held[job_id] = _Held(queue)
                found.append(job_id)
        return found

    async def close(self) -> None:
        """Close the connections to Redis."""
        await self._any.close()


def _joined(found: Sequence[FetchResult], claims: Sequence[Claim]) -> FetchResult:
    waits = [each.due_in for each in found if each.due_in is not None]
    return FetchResult(
        claims,
        any(each.drain_first for each in found),
        frozenset().union(*(each.aborted for each in found)),
        frozenset().union(*(each.cancelled for each in found)),
        min(waits, default=None),
        any(each.passed_over for each in found),
    )
