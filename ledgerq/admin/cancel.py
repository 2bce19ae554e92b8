"""Cancels a job wherever it is: staged, queued, deferred, running, or not yet known.

1. ask      the worker that runs the job, if one does, to roll it back; no worker claims the job meanwhile
2. end      the job in the database, by a receipt: from now on it never runs, even if Redis delivers it
3. remove   the job from the queue, and give clients that wait for it an answer

The second step decides. It waits for the lock on the running job's receipt. If the wait times out, both steps are done
again. If Redis can't be reached, the cancel waits until a running job has ended.
"""

import asyncio
import time
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from arq.connections import ArqRedis
from arq.jobs import serialize_result
from redis.exceptions import RedisError
from sqlalchemy.ext.asyncio import AsyncSession

from ledgerq.admin.queues import queue_of_job
from ledgerq.broker.keys import cancel_key, job_key, unique_key
from ledgerq.broker.queue import remove_from_queue
from ledgerq.database.engine import Sessions
from ledgerq.database.transaction import in_transaction
from ledgerq.errors import LockTimeout, StillRuns, Undecodable
from ledgerq.execution import interventions
from ledgerq.store import outbox
from ledgerq.store.tables import JobState
from ledgerq.wire.arq_json import to_wire
from ledgerq.wire.envelope import Envelope, check_job_id, decode
from ledgerq.wire.queue_name import queue_key

T = TypeVar("T")

_PAUSE = 0.05  # seconds before the next try to get the lock: SQLite may refuse it at once


@dataclass(frozen=True, slots=True)
class CancelAnswer:
    """How the job has ended, now or before. `redis_reached` is False if Redis could not be reached.

    `known` is False if the job was neither staged nor queued. If it is enqueued later, it will not run.
    """

    job_id: str
    state: JobState
    known: bool
    redis_reached: bool


async def cancel(
    redis: ArqRedis,
    sessions: Sessions,
    queue: str,
    job_id: str,
    *,
    actor: str,
    reason: str,
    timeout: float = 30,  # noqa: ASYNC109 - says what became of the job
    keep_result: int = 3600,
    others: Sequence[str] = (),
) -> CancelAnswer:
    """Cancel a job: it never runs from now on. If it has ended already, nothing changes, and the answer says how.

    Args:
        redis: the Redis of the queue; it need not answer.
        sessions: sessions of the database, which must answer.
        queue: the default queue's key.
        job_id: the job's id.
        actor: who cancels; written to the audit log.
        reason: why; written to the audit log.
        timeout: seconds to wait until the worker that runs the job has rolled it back. On SQLite, a wait for another
            writer can't be interrupted, so the cancel may take 30 s longer.
        keep_result: seconds for which Redis keeps the answer for clients that wait for the job.
        others: the keys of further queues on which the job may be.

    Raises:
        StillRuns: the job still runs after `timeout`; nothing has changed.
        Undecodable: `job_id` is empty, too long, or not printable.
    """
    check_job_id(job_id)
    look = _Look(redis, sessions, (queue, *others), job_id, timeout / 4)
    try:
        async with asyncio.timeout(timeout):
            state = await _end(look, actor=actor, reason=reason)
        if state is JobState.CANCELLED:
            reached, _ = await look.ask(_take_off(look, keep_result))
        else:
            reached, _ = await look.ask(redis.ping())
    except TimeoutError:
        raise StillRuns(job_id, timeout) from None
    finally:
        if look.queue:
            await look.ask(redis.zrem(cancel_key(look.queue), job_id))
    known = look.queued or look.envelope is not None
    return CancelAnswer(job_id, state, known, reached and look.queue is not None)


@dataclass(slots=True)
class _Look:
    """What is known of the job so far.

    Args:
        redis: as for `cancel`.
        sessions: as for `cancel`.
        queues: the keys of the queues on which the job may be, the default one first.
        job_id: the job.
        patience: seconds for one call to Redis, so that the database has its turn in time.
    """

    redis: ArqRedis
    sessions: Sessions
    queues: Sequence[str]
    job_id: str
    patience: float
    # the key of its queue, or else the default one; None while Redis has not told
    queue: str | None = None
    envelope: Envelope | None = None  # None if the job was not found, or if its body can't be read
    queued: bool = False

    async def ask(self, asked: Awaitable[T]) -> tuple[bool, T | None]:
        """Await a call to Redis; (False, None) if it failed or took too long, since a job can be cancelled without Redis."""
        try:
            async with asyncio.timeout(self.patience):
                return True, await asked
        except (RedisError, OSError, TimeoutError):
            return False, None

    async def find_queue(self) -> None:
        """Look for the queue that has the job, or to which the outbox will send it."""
        async with self.sessions() as session:
            message = await outbox.find(session, self.job_id)
        named = queue_key(message.queue if message else None, self.queues[0])
        asked = queue_of_job(self.redis, list({*self.queues, named}), self.job_id)
        reached, found = await self.ask(asked)
        if reached:
            self.queue = found or named

    async def ask_worker(self) -> None:
        """Ask the job's worker to roll it back."""
        if self.queue is None:
            await self.find_queue()
        if self.queue is not None:
            _, found = await self.ask(_ask(self.redis, self.queue, self.job_id))
            if found:
                self.queued, self.envelope = True, found.envelope or self.envelope


async def _end(look: _Look, *, actor: str, reason: str) -> JobState:
    """End the job in the database; waits while it runs. Returns how it ended."""

    async def once(session: AsyncSession) -> JobState | None:
        if message := await outbox.find(session, look.job_id):
            look.envelope = interventions.staged_envelope(message)
        return await interventions.cancel(
            session, look.job_id, actor=actor, reason=reason, envelope=look.envelope
        )

    while True:
        await look.ask_worker()
        try:
            state = await in_transaction(look.sessions, once)
        except LockTimeout:
            state = None
        if state:
            return state
        await asyncio.sleep(_PAUSE)


@dataclass(frozen=True, slots=True)
class _Queued:
    """A job that is on its queue. `envelope` is None if the body can't be read, for example of a pickled job."""

    envelope: Envelope | None


async def _ask(redis: ArqRedis, queue: str, job_id: str) -> _Queued | None:
    """Ask the job's worker to roll it back. Returns what is queued; None if this queue has no such job."""
    seconds, _ = await redis.time()  # a request that is not repeated is dropped, by this clock
    async with redis.pipeline(transaction=True) as pipe:
        pipe.zadd(cancel_key(queue), {job_id: int(seconds) * 1000})
        pipe.get(job_key(job_id))
        pipe.zscore(queue, job_id)
        _, body, queued = await pipe.execute()
    try:
        found = decode(body) if body else None
    except Undecodable:
        found = None
    if found is None:
        return None if queued is None else _Queued(None)
    if found.queue == queue or (found.queue is None and queued is not None):
        return _Queued(found)
    return None  # another queue has a job of this id


async def _take_off(look: _Look, keep: int) -> int:
    """Remove the job from the queue, free its unique key, and write the answer for clients that wait for it."""
    queue, envelope = look.queue or look.queues[0], look.envelope
    key = ""
    if envelope and envelope.unique:
        key = unique_key(queue, envelope.kind, envelope.unique)
    result = {look.job_id: _result(queue, look.job_id, envelope)}
    return await remove_from_queue(look.redis, queue, result, keep=keep, unique_key=key)


def _result(queue: str, job_id: str, envelope: Envelope | None) -> bytes:
    """The result that a worker would write for a cancelled job; empty if the job is unknown."""
    if envelope is None:
        return b""
    now = int(time.time() * 1000)
    error = {"error": "JobCancelled", "message": "was cancelled"}
    name, payload = envelope.wire_name, dict(envelope.payload)
    return (
        serialize_result(
            name, (), payload, 1, envelope.enqueued_ms, False, error, now, now,
            f"{job_id}:{name}", queue, job_id, serializer=to_wire,
        )
        or b""
    )  # fmt: skip
