"""What a worker does with a queue: claim jobs, renew leases, acknowledge claims; each is one script, one round trip.

A claim holds for a lease, which Redis' clock measures. A claim names its owner by a token; only the owner can renew or
end the claim. A claimed job stays on the queue, due again at the end of its lease, and so comes after the due jobs.
"""

import time
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

from ledgerq.broker.keys import ABORTED, keys_of_claim, running_key
from ledgerq.broker.room import NO_ROOM, Room
from ledgerq.broker.scripts import script
from ledgerq.execution.delivery import Delivery
from ledgerq.wire.envelope import MAX_BODY_BYTES, queue_mark

AckAction = Literal["done", "retry", "release", "interrupt"]
_SHARED, _OUTSIDE = 1, 2  # how a job runs, in claim.lua
_LOOK_AGAIN = 10.0  # seconds: then a claim looks again at the first jobs that were passed over, and at new ones before them


class RenewalStatus(IntEnum):
    """The answer of Redis to the renewal of one lease."""

    RENEWED = 1
    GONE = 0  # Redis has lost the claim
    TAKEN = -1  # the lease ran out, and another worker has the job


@dataclass(slots=True, kw_only=True)
class Claim(Delivery):
    """A delivery that this worker holds for the length of a lease.

    `body` is empty if Redis has lost it, or if the body under the job's id is of another queue's job. A body that is
    too long is cut to one byte more than `MAX_BODY_BYTES`. `score` is when the job was due, in milliseconds since 1970.

    `is_batchable`: the kind's jobs share transactions, and this is the job's first attempt. `works_outside`: the job takes
    one of the slots for jobs that work outside of the database. `is_suspect`: so many workers died while they had the job
    that it may be the cause. `is_doubtful`: the job works outside, and so many would make any other job a suspect.
    """

    score: float
    is_batchable: bool
    works_outside: bool
    is_suspect: bool
    is_doubtful: bool

    @property
    def runs_isolated(self) -> bool:
        """True if the worker claims no job while this one runs; jobs that already work outside of the database go on."""
        return self.is_suspect and not self.works_outside


@dataclass(frozen=True, slots=True)
class Ack:
    """How a claim ends, as sent to Redis. Times are milliseconds.

    `action`: `done` ends the job; `retry`, `release` and `interrupt` leave it on the queue, due after `delay`. Only `retry`
    spends an attempt; `interrupt` counts an interruption. `result` is kept for `keep`, or without limit if `keep` is 0; an
    empty `result` is not kept. `note` is added to the log of the job's failures. `outlive` is how long arq's key of a
    running job stays after its end, so that the same run of a cron job is not enqueued twice.
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
    """What one poll of the queue has found.

    `drain_first`: before the next poll, let the running jobs end, except those that work outside of the database, because
    the next job must run alone. `aborted` and `cancelled` are the ids of jobs to stop: by arq's `Job.abort`, and by
    `ledgerq cancel`. `passed_over`: this poll or an earlier one skipped due jobs that work outside of the database, because
    there was no room for them; `due_in` is about the first job behind the skipped ones.
    """

    jobs: Sequence[Claim] = ()
    drain_first: bool = False
    aborted: Collection[str] = ()
    cancelled: Collection[str] = ()
    due_in: float | None = None  # seconds until the next job is due; None if there is none
    passed_over: bool = False

    @property
    def more(self) -> bool:
        """True if a job is due that this poll did not claim."""
        return self.due_in == 0


@dataclass(frozen=True, slots=True)
class LeaseSettings:
    """How long a claim holds without renewal: `lease`, in seconds; and the limits for jobs whose workers died.

    A job whose worker died `isolate_after_crashes` times runs alone; after `max_crashes` it is given up. For a job that
    works outside of the database, both numbers are multiplied by `outside_factor`; after the first one, other jobs run
    beside the job, but no second job with so many crashes.
    """

    lease: float = 15
    isolate_after_crashes: int = 2
    max_crashes: int = 3
    outside_factor: int = 2

    def is_suspect(self, crashes: int, *, works_outside: bool) -> bool:
        """True if the job has met so many crashes that it may be their cause, and is not given up."""
        factor = self.outside_factor if works_outside else 1
        return self.isolate_after_crashes * factor <= crashes < self.max_crashes * factor

    @property
    def lease_ms(self) -> int:
        """The lease in milliseconds."""
        return int(self.lease * 1000)


class Broker:
    """One worker's claims on one queue. `token` names their owner; each start of the worker draws a new token."""

    def __init__(
        self, redis: Redis, queue: str, worker: str, lease_settings: LeaseSettings
    ) -> None:
        self.redis, self.queue, self.worker = redis, queue, worker
        self.lease_settings, self.token = lease_settings, uuid4().hex
        self._keys = [queue, running_key(queue), ABORTED]
        self._keys_of_claim = keys_of_claim(queue)
        self._claim = script(redis, "claim")
        self._renew = script(redis, "renew")
        self._acknowledge = script(redis, "acknowledge")
        self._review_crashes = script(redis, "review_crashes")
        self._passed: Sequence[bytes] = (b"", b"")  # id and score of the last job passed over
        self._looked_back, self._looks_back = 0.0, 0

    @classmethod
    def connect(
        cls,
        redis: ArqRedis,
        queue: str,
        worker: str,
        lease_settings: LeaseSettings,
        token: str | None = None,
    ) -> "Broker":
        """A broker with its own connections to the server of `redis`. They never send a command twice.

        Brokers with one `token` own the same claims: each can renew and end them. Without a token, a new one is made.
        """
        broker = cls(own_connections(redis), queue, worker, lease_settings)
        broker.token = token or broker.token
        return broker

    @property
    def queues(self) -> Sequence[str]:
        """The key of the broker's one queue."""
        return (self.queue,)

    def twin(self, redis: ArqRedis) -> "Broker":
        """A second broker for these claims, with connections of its own, for use in another event loop."""
        return Broker.connect(redis, self.queue, self.worker, self.lease_settings, self.token)

    async def claim(self, wanted: int, *, busy: int, room: Room = NO_ROOM) -> FetchResult:
        """Claim due jobs, the earliest first.

        Args:
            wanted: maximum number of jobs, without those that count against `room`.
            busy: number of jobs that this worker runs now, without those that work outside.
            room: how many further jobs of some kinds there is room for.
        """
        lease_settings = self.lease_settings
        now = time.monotonic()
        if look_back := bool(self._passed[0]) and now > self._looked_back + _LOOK_AGAIN:
            self._looked_back, self._looks_back = now, self._looks_back + 1
        arguments: list[bytes | str | int] = [
            wanted, lease_settings.lease_ms, self.token, self.worker,
            busy, lease_settings.isolate_after_crashes, lease_settings.max_crashes,
            queue_mark(self.queue), MAX_BODY_BYTES, room.batch, room.outside, *self._passed,
            self._looks_back if look_back else 0, int(room.has_suspect), int(room.has_doubtful), lease_settings.outside_factor, len(room.batchable_kinds), *room.batchable_kinds, *room.outside_kinds,
        ]  # fmt: skip
        jobs, drain_first, aborted, cancelled, due_in, *passed = await self._claim(
            keys=self._keys_of_claim, args=arguments
        )
        self._passed = passed
        return FetchResult(
            [_claim(each, self.queue, self.worker, lease_settings) for each in jobs],
            bool(drain_first),
            frozenset(map(text, aborted)),
            frozenset(map(text, cancelled)),
            None if due_in < 0 else due_in / 1000,
            passed_over=bool(passed[0]),
        )

    async def renew(self, job_ids: Sequence[str]) -> dict[str, RenewalStatus]:
        """Renew the leases of these jobs; answers for each job whether its lease was renewed."""
        answers = await self._renew(
            keys=self._keys[:2],
            args=[self.lease_settings.lease_ms, self.token, *map(raw, job_ids)],
        )
        return {job_id: RenewalStatus(each) for job_id, each in zip(job_ids, answers, strict=True)}

    async def acknowledge(self, acks: Sequence[Ack]) -> list[bool]:
        """End claims; True for each that ended. False if this worker had lost the claim: then nothing was done."""
        arguments: list[Any] = [self.token]
        for each in acks:
            arguments += [
                raw(each.job_id), each.action, each.delay, each.result,
                each.keep, _note(each), each.outlive,
            ]  # fmt: skip
        return [bool(each) for each in await self._acknowledge(keys=self._keys, args=arguments)]

    async def review_crashes(self, job_ids: Collection[str], *, take_back: bool) -> int:
        """Take back the crashes that were counted because leases of this worker on these jobs ran out, or let them stay.

        Each is reviewed once. Answers with the number of crashes that were taken back.
        """
        about: list[bytes | str | int] = [self.token, int(take_back), *map(raw, job_ids)]
        return int(await self._review_crashes(keys=[self.queue], args=about))

    async def orphaned_claims(self, known: Collection[str]) -> list[str]:
        """The ids of jobs that this worker has claimed on Redis but does not know: the claim's answer was lost.

        Args:
            known: the ids of the jobs that this worker knows.
        """
        entries: dict[bytes, bytes] = await self.redis.hgetall(running_key(self.queue))  # type: ignore[misc]
        mine = f"{self.token}|".encode()
        ours = (text(job_id) for job_id, entry in entries.items() if entry.startswith(mine))
        return [job_id for job_id in ours if job_id not in known]

    async def close(self) -> None:
        """Close the connections to Redis."""
        await self.redis.aclose(close_connection_pool=True)


def own_connections(redis: ArqRedis) -> Redis:
    """A client with its own connections to the server of `redis`. They never send a command twice.

    A claim whose answer was lost must not be repeated by the client: the second command would claim other jobs.
    """
    pool = redis.connection_pool
    options = {"socket_timeout": 5, "socket_connect_timeout": 2, **pool.connection_kwargs}
    options |= {"retry": Retry(NoBackoff(), 0), "retry_on_error": [], "retry_on_timeout": False}
    return Redis(connection_pool=ConnectionPool(connection_class=pool.connection_class, **options))


def _note(ack: Ack) -> bytes:
    """The note as JSON; empty if JSON can't carry the note, so that the other claims still end."""
    try:
        return to_json(ack.note) if ack.note else b""
    except ValueError:
        return b""


def text(job_id: bytes) -> str:
    """A job id as text. Bytes that are no UTF-8 are kept as surrogates, which `raw` turns back into bytes."""
    return job_id.decode(errors="surrogateescape")


def raw(job_id: str) -> bytes:
    """A job id as the bytes that Redis has."""
    return job_id.encode(errors="surrogateescape")


def _claim(answer: Sequence[Any], queue: str, worker: str, lease_settings: LeaseSettings) -> Claim:
    job_id, body, attempt, score, crashes, interruptions, log, runs = answer
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
        is_batchable=runs == _SHARED,
        works_outside=runs == _OUTSIDE,
        is_suspect=lease_settings.is_suspect(crashes, works_outside=runs == _OUTSIDE),
        is_doubtful=runs == _OUTSIDE and crashes >= lease_settings.isolate_after_crashes,
    )


def _history(log: bytes) -> tuple[Mapping[str, Any], ...]:
    """The entries of a job's log of failures; none if a line is not JSON: somebody's edit must not stop the job."""
    try:
        entries = [from_json(line) for line in log.split(b"\n") if line]
    except ValueError:
        return ()
    return tuple(entry for entry in entries if isinstance(entry, dict))
