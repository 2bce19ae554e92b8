"""The queue on Redis as our worker uses it: claim, renew and finish, each one script and one round trip.

A claim is a lease: it names its owner by a token, runs out by Redis' own clock, and can only be renewed
or ended by its owner. Claimed jobs move behind those that are due, so they never stand in the way.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Literal
from uuid import uuid4

from arq.connections import ArqRedis
from pydantic_core import from_json, to_json
from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from ledgerq.broker.keys import ABORTED, cancel_key, exclusive_slot_key, running_key, workers_key
from ledgerq.broker.scripts import script
from ledgerq.execution.delivery import Delivery
from ledgerq.wire.envelope import MAX_BODY_BYTES, queue_mark

AckAction = Literal["done", "retry", "release", "interrupt"]


class RenewalStatus(IntEnum):
    """What became of a lease that was to be renewed."""

    RENEWED = 1
    GONE = 0  # Redis has forgotten the job
    TAKEN = -1  # it ran out, and somebody else has the job


@dataclass(slots=True, kw_only=True)
class Claim(Delivery):
    """A delivery that is ours for the length of the lease.

    `body` is empty if Redis has lost it, or has the body of another queue's job under the id. Of one that is too
    long it is the beginning, a byte longer than what is accepted.

    `is_batchable` if it was claimed as one whose kind shares transactions, for its first attempt, `runs_isolated` if no
    other job may be claimed while it runs: it has lost workers before.
    """

    score: float
    is_batchable: bool
    runs_isolated: bool


@dataclass(frozen=True, slots=True)
class Ack:
    """How a claim ends. Times are milliseconds; `keep` 0 keeps the result for ever.

    `outlive` leaves the claim there for a while, so that the same cron job is not enqueued again.
    """

    job_id: str
    action: AckAction
    delay: int = 0
    result: bytes = b""
    keep: int = 0
    note: Mapping[str, Any] | None = None
    outlive: int = 0


@dataclass(frozen=True, slots=True)
class FetchResult:
    """What a look at the queue brought. `drain_first` asks to let all running jobs end before the next look."""

    jobs: Sequence[Claim] = ()
    drain_first: bool = False
    aborted: Collection[str] = ()
    cancelled: Collection[str] = ()
    due_in: float | None = None  # seconds until the next job is due

    @property
    def more(self) -> bool:
        """True if a job is due that was not claimed."""
        return self.due_in == 0


@dataclass(frozen=True, slots=True)
class LeaseSettings:
    """For how long a job is claimed, in seconds, and after how many lost workers it runs alone, and is given up."""

    lease: float = 15
    isolate_after_crashes: int = 2
    max_crashes: int = 3

    @property
    def lease_ms(self) -> int:
        """As Redis wants it."""
        return int(self.lease * 1000)


class Broker:
    """One worker's hold on one queue. Its token is new with each start of the worker."""

    def __init__(
        self, redis: Redis, queue: str, worker: str, lease_settings: LeaseSettings
    ) -> None:
        self.redis, self.queue, self.worker = redis, queue, worker
        self.lease_settings, self.token = lease_settings, uuid4().hex
        self._keys = [queue, running_key(queue), ABORTED]
        self._keys_of_claim = [
            *self._keys, cancel_key(queue), exclusive_slot_key(queue), workers_key(queue),
        ]  # fmt: skip
        self._claim = script(redis, "claim")
        self._renew = script(redis, "renew")
        self._acknowledge = script(redis, "acknowledge")

    @classmethod
    def connect(
        cls,
        redis: ArqRedis,
        queue: str,
        worker: str,
        lease_settings: LeaseSettings,
        token: str | None = None,
    ) -> "Broker":
        """A broker on connections of its own to where `redis` goes, which never send a command twice.

        With the `token` of another one it holds on to the same claims.
        """
        broker = cls(own_connections(redis), queue, worker, lease_settings)
        broker.token = token or broker.token
        return broker

    @property
    def queues(self) -> Sequence[str]:
        """The key of its queue."""
        return (self.queue,)

    def twin(self, redis: ArqRedis) -> "Broker":
        """Another one that holds on to the same claims, on connections of its own, for another event loop."""
        return Broker.connect(redis, self.queue, self.worker, self.lease_settings, self.token)

    async def claim(
        self, wanted: int, *, busy: int, batch_limit: int = 0, batchable_kinds: Collection[str] = ()
    ) -> FetchResult:
        """Claim due jobs, in their order.

        Args:
            wanted: at most so many of any kind.
            busy: how many this worker runs now.
            batch_limit: so many more, if they are of kinds whose jobs share a transaction.
            batchable_kinds: these.
        """
        lease_settings = self.lease_settings
        keys = self._keys_of_claim
        arguments: list[bytes | str | int] = [
            wanted, lease_settings.lease_ms, self.token, self.worker,
            busy, lease_settings.isolate_after_crashes, lease_settings.max_crashes,
            queue_mark(self.queue), MAX_BODY_BYTES, batch_limit, *batchable_kinds,
        ]  # fmt: skip
        jobs, drain_first, aborted, cancelled, due_in = await self._claim(keys=keys, args=arguments)
        return FetchResult(
            [_claim(each, self.queue, self.worker, lease_settings) for each in jobs],
            bool(drain_first),
            _texts(aborted),
            _texts(cancelled),
            None if due_in < 0 else due_in / 1000,
        )

    async def renew(self, job_ids: Sequence[str]) -> dict[str, RenewalStatus]:
        """Hold on to these jobs for another lease."""
        answers = await self._renew(
            keys=self._keys[:2],
            args=[self.lease_settings.lease_ms, self.token, *map(raw, job_ids)],
        )
        return {job_id: RenewalStatus(each) for job_id, each in zip(job_ids, answers, strict=True)}

    async def acknowledge(self, acks: Sequence[Ack]) -> list[bool]:
        """End claims; False for each that was not ours any more: then nothing was done."""
        arguments: list[Any] = [self.token]
        for each in acks:
            arguments += [
                raw(each.job_id), each.action, each.delay, each.result,
                each.keep, _note(each), each.outlive,
            ]  # fmt: skip
        return [bool(each) for each in await self._acknowledge(keys=self._keys, args=arguments)]

    async def orphaned_claims(self, known: Collection[str]) -> list[str]:
        """Jobs that are ours on Redis, but not here: the answer to their claim was lost on its way."""
        entries: dict[bytes, bytes] = await self.redis.hgetall(running_key(self.queue))  # type: ignore[misc]
        mine = f"{self.token}|".encode()
        ours = (text(job_id) for job_id, entry in entries.items() if entry.startswith(mine))
        return [job_id for job_id in ours if job_id not in known]

    async def close(self) -> None:
        """Let go of Redis."""
        await self.redis.aclose(close_connection_pool=True)


def own_connections(redis: ArqRedis) -> Redis:
    """Connections to where `redis` goes, which never send a command twice.

    A claim whose answer is lost must not be sent again unseen: it would claim other jobs.
    """
    pool = redis.connection_pool
    options = {"socket_timeout": 5, "socket_connect_timeout": 2, **pool.connection_kwargs}
    options |= {"retry": Retry(NoBackoff(), 0), "retry_on_error": [], "retry_on_timeout": False}
    return Redis(connection_pool=ConnectionPool(connection_class=pool.connection_class, **options))


def _note(ack: Ack) -> bytes:
    """As JSON; one that can't be so is left out: it must not keep other jobs from ending."""
    try:
        return to_json(ack.note) if ack.note else b""
    except ValueError:
        return b""


def text(job_id: bytes) -> str:
    """An id as text, whatever its bytes: `raw` gives them back."""
    return job_id.decode(errors="surrogateescape")


def raw(job_id: str) -> bytes:
    """An id as Redis has it."""
    return job_id.encode(errors="surrogateescape")


def _texts(job_ids: Collection[bytes]) -> frozenset[str]:
    return frozenset(map(text, job_ids))


def _claim(answer: Sequence[Any], queue: str, worker: str, lease_settings: LeaseSettings) -> Claim:
    job_id, body, attempt, score, crashes, interruptions, log, is_batchable = answer
    return Claim(
        text(job_id),
        attempt,
        body or b"",
        crashes,
        interruptions,
        _history(log) if log else (),
        worker,
        queue,
        score=float(score),
        is_batchable=bool(is_batchable),
        runs_isolated=lease_settings.isolate_after_crashes <= crashes < lease_settings.max_crashes,
    )


def _history(log: bytes) -> tuple[Mapping[str, Any], ...]:
    """What is legible of it: a hand-made key must not cost the job."""
    try:
        entries = [from_json(line) for line in log.split(b"\n") if line]
    except ValueError:
        return ()
    return tuple(entry for entry in entries if isinstance(entry, dict))
