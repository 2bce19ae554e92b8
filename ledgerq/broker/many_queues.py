"""Several queues as one: what a worker that serves more than one asks in place of a `Broker`.

claim    each queue in turn, another one first each time, as long as there is room: no queue starves while others are full
route    renewals and acknowledgements go to the queue that the job was claimed from
"""

from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from arq.connections import ArqRedis
from redis.asyncio import Redis

from ledgerq.broker.claims import (
    Ack,
    Broker,
    Claim,
    FetchResult,
    LeaseSettings,
    RenewalStatus,
    own_connections,
)

T = TypeVar("T")


class ServedQueues(Protocol):
    """What a worker asks of its queues: of one by `Broker`, of several by `ManyQueues`."""

    @property
    def redis(self) -> Redis:
        """The connections, which never send a command twice."""

    @property
    def queues(self) -> Sequence[str]:
        """The keys of the queues."""

    @property
    def worker(self) -> str:
        """The worker's name."""

    @property
    def lease_settings(self) -> LeaseSettings:
        """For how long a claim holds."""

    async def claim(
        self, wanted: int, *, busy: int, batch_limit: int = 0, batchable_kinds: Collection[str] = ()
    ) -> FetchResult:
        """Claim due jobs."""

    async def renew(self, job_ids: Sequence[str]) -> dict[str, RenewalStatus]:
        """Hold on to these jobs for another lease."""

    async def acknowledge(self, acks: Sequence[Ack]) -> list[bool]:
        """End claims; False for each that was not ours any more."""

    async def orphaned_claims(self, known: Collection[str]) -> list[str]:
        """Jobs that are ours on Redis, but not here."""

    def twin(self, redis: ArqRedis) -> "ServedQueues":
        """Another one that holds on to the same claims, on connections of its own, for another event loop."""

    async def close(self) -> None:
        """Let go of Redis."""


def served(
    redis: ArqRedis, queues: Iterable[str], worker: str, lease_settings: LeaseSettings
) -> ServedQueues:
    """The queues as a worker of this name holds on to them. One queue costs what a `Broker` does."""
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
    """One for each queue, with one pool of connections and one token."""
    own = own_connections(redis)
    brokers = [Broker(own, queue, worker, lease_settings) for queue in queues]
    for each in brokers:
        each.token = token or brokers[0].token
    return brokers


@dataclass(frozen=True, slots=True, eq=False)
class _Held:
    """A claim of ours, on the queue of this broker. Compared by identity: a later claim of the job is another one."""

    queue: str


class ManyQueues:
    """One worker's hold on several queues.

    Args:
        brokers: one for each queue, with one token and one pool of connections.
        held: the claims by job id, which is unique on a Redis; a twin shares it.
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
        """The connections, which never send a command twice."""
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
        """For how long a claim holds."""
        return self._any.lease_settings

    def twin(self, redis: ArqRedis) -> "ManyQueues":
        """Another one that holds on to the same claims, on connections of its own, for another event loop."""
        token = self._any.token
        brokers = _brokers(redis, self._brokers, self.worker, self.lease_settings, token)
        return ManyQueues(brokers, self._held)

    async def claim(
        self, wanted: int, *, busy: int, batch_limit: int = 0, batchable_kinds: Collection[str] = ()
    ) -> FetchResult:
        """Claim due jobs of all queues, as `Broker.claim` does of one.

        A queue is asked even if there is no room: it tells of jobs to cancel, and when the next one is due. If a
        queue fails after another one has answered, the answer counts, and the failure is raised at the next claim.
        """
        if failure := self._failure:
            self._failure = None
            raise failure
        found: list[FetchResult] = []
        for queue in self._turn():
            try:
                each = await self._brokers[queue].claim(
                    wanted, busy=busy, batch_limit=batch_limit, batchable_kinds=batchable_kinds
                )
            except Exception as error:
                if not any(one.jobs for one in found):
                    raise
                self._failure = error
                found.append(FetchResult(due_in=0))
                break
            found.append(each)
            busy += len(each.jobs)
            batched = sum(claim.is_batchable for claim in each.jobs)
            wanted, batch_limit = wanted - (len(each.jobs) - batched), batch_limit - batched
            if each.drain_first or any(claim.runs_isolated for claim in each.jobs):
                wanted = batch_limit = 0  # a job that must run alone waits, or runs
                self._first(queue)
        return _joined(found, self._take(found))

    def _turn(self) -> list[str]:
        """The queues, beginning with another one each time."""
        turn = list(self._turns)
        self._turns.rotate(-1)
        return turn

    def _first(self, queue: str) -> None:
        """It is asked first at the next claim: whether the others may claim then is for it to say."""
        self._turns.rotate(-self._turns.index(queue))

    def _take(self, found: Iterable[FetchResult]) -> list[Claim]:
        """The claims, with their queues noted; not those of ids that are held from another queue.

        Such an entry has no body that is its own. It falls due again after its lease.
        """
        claims = []
        for claim in (claim for each in found for claim in each.jobs):
            held = self._held.get(claim.job_id)
            if held is None or held.queue == claim.queue:
                self._held[claim.job_id] = _Held(claim.queue)
                claims.append(claim)
        return claims

    async def renew(self, job_ids: Sequence[str]) -> dict[str, RenewalStatus]:
        """Hold on to these jobs for another lease. Each queue is asked: that takes away what Redis has lost."""
        ids = self._by_queue(job_ids, lambda job_id: job_id)
        renewed: dict[str, RenewalStatus] = {}
        for queue, broker in self._brokers.items():
            renewed |= await broker.renew(ids.get(queue, ()))
        return renewed

    async def acknowledge(self, acks: Sequence[Ack]) -> list[bool]:
        """End claims; False for each that was not ours any more: then nothing was done."""
        before = {each.job_id: self._held.get(each.job_id) for each in acks}
        ended: dict[str, bool] = {}
        for queue, some in self._by_queue(acks, lambda ack: ack.job_id).items():
            answers = await self._brokers[queue].acknowledge(some)
            ended |= {ack.job_id: answer for ack, answer in zip(some, answers, strict=True)}
        for job_id, held in before.items():
            if held is not None and self._held.get(job_id) is held:  # else it was claimed again
                del self._held[job_id]
        return [ended[each.job_id] for each in acks]

    def _by_queue(self, items: Iterable[T], id_of: Callable[[T], str]) -> dict[str, list[T]]:
        parts: dict[str, list[T]] = {}
        for each in items:
            held = self._held.get(id_of(each))
            parts.setdefault(held.queue if held else self._any.queue, []).append(each)
        return parts

    async def orphaned_claims(self, known: Collection[str]) -> list[str]:
        """Jobs that are ours on Redis, but not here: the answer to their claim was lost on its way."""
        found = []
        for queue, broker in self._brokers.items():
            for job_id in await broker.orphaned_claims(known):
                self._held[job_id] = _Held(queue)
                found.append(job_id)
        return found

    async def close(self) -> None:
        """Let go of Redis."""
        await self._any.close()


def _joined(found: Sequence[FetchResult], claims: Sequence[Claim]) -> FetchResult:
    waits = [each.due_in for each in found if each.due_in is not None]
    return FetchResult(
        claims,
        any(each.drain_first for each in found),
        frozenset().union(*(each.aborted for each in found)),
        frozenset().union(*(each.cancelled for each in found)),
        min(waits, default=None),
    )
