"""The relay: puts staged jobs on Redis when they are due, and again if Redis has lost them.

Each worker runs one relay; any number may run at once. If two relays put a job on Redis, Redis keeps it once, under
the job's id. If a job is delivered twice all the same, its receipt makes the second delivery a duplicate.
"""

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial
from uuid import uuid4

import structlog
from arq.connections import ArqRedis
from pydantic_core import to_json
from redis.exceptions import NoPermissionError, RedisError, ResponseError
from sqlalchemy.exc import SQLAlchemyError

from ledgerq.broker.keys import epoch_key
from ledgerq.broker.queue import Entry, enqueue
from ledgerq.database.engine import Database, Sessions
from ledgerq.database.transaction import transaction
from ledgerq.errors import LedgerqError, Undecodable
from ledgerq.runtime.background_tasks import keep_going
from ledgerq.store import outbox
from ledgerq.store.outbox import listen
from ledgerq.store.tables import OutboxMessage
from ledgerq.text import one_line
from ledgerq.wire.envelope import (
    MAX_ACTOR,
    MAX_TRACE_ID,
    UNKNOWN_ACTOR,
    Envelope,
    encode,
    presentable,
    queue_mark,
)
from ledgerq.wire.queue_name import carried_to

BATCH = 500  # messages that are taken from the outbox at once
_MAX_LOGGED = 10_000
_AGAIN = 0.1  # seconds from the end of a connection to the next one
_TROUBLE = (RedisError, SQLAlchemyError, LedgerqError, OSError, TimeoutError)

log = structlog.stdlib.get_logger("ledgerq.relay")


class Relay:
    """Puts the due messages of the outbox on their queues, also on queues that this worker does not serve.

    Args:
        redis: the client.
        sessions: sessions of the database with the outbox.
        queue: the default queue's key.
        interval: seconds between two reads of the outbox; after a full batch the next read follows at once.
        kinds: kind → its queue, or None for the default queue. A message that names no queue and is of another kind is
            left to other applications' relays for ten minutes. Without `kinds` the relay takes all messages.
    """

    def __init__(
        self,
        redis: ArqRedis,
        sessions: Sessions,
        queue: str,
        interval: float,
        kinds: Mapping[str, str | None] | None = None,
    ) -> None:
        self.redis, self.sessions, self.queue, self.interval = redis, sessions, queue, interval
        self._kinds = kinds
        self._woken = asyncio.Event()
        self._one_at_a_time = asyncio.Lock()
        self._told: set[tuple[str, str]] = set()  # what was wrong with which message

    def wake(self) -> None:
        """Ask the relay to read the outbox without a pause, because a message may be due. This does not wait for it."""
        self._woken.set()

    async def run(self) -> None:
        """Put due messages on Redis until cancelled; go on after failures of Redis and of the database."""
        await keep_going(
            self.run_once,
            *_TROUBLE,
            failed=partial(log.warning, "relay.unavailable"),
            recovered=partial(log.info, "relay.recovered"),
            wake=self._woken,
        )

    async def run_once(self) -> float:
        """Put due messages on Redis; answers with the seconds until the next round, 0 after a full batch."""
        return 0 if await self.dispatch() == BATCH else self.interval

    async def listen(self, database: Database) -> None:
        """Wake the relay each time the database notifies of a staged job, until cancelled."""

        async def listen_once() -> float:
            await listen(database, self.wake)
            return _AGAIN

        failed = partial(log.debug, "relay.listener_disconnected")
        await keep_going(listen_once, *_TROUBLE, failed=failed)

    async def dispatch(self) -> int:
        """Put due messages on Redis, at most `BATCH`; answers with how many were due."""
        async with self._one_at_a_time:
            return await self._dispatch()

    async def _dispatch(self) -> int:
        await self._notice_loss()
        async with transaction(self.sessions) as session:
            due = await outbox.take_due(session, BATCH, self._kinds)
        if due:
            try:
                await self._push(due)
            except (RedisError, OSError, TimeoutError):
                await self._take_back(due)
                raise
        return len(due)

    async def _notice_loss(self) -> None:
        """Make all messages due again if Redis was restarted, emptied or replaced since a relay last checked."""
        found, current = await self._epoch()
        if found is not None and found == current:
            return
        async with transaction(self.sessions) as session:
            again = await outbox.all_due(session)
        await self.redis.set(epoch_key(self.queue), current)
        if again:
            log.warning("relay.redis_lost_data", jobs_due_again=again)
        else:
            log.info("relay.redis_is_new")

    async def _epoch(self) -> tuple[str | None, str]:
        """The epoch that a relay has noted on Redis, or None; and the current one, the id of the server's start."""
        noted = await self.redis.get(epoch_key(self.queue))
        found = noted.decode(errors="replace") if noted else None
        try:
            server = await self.redis.info("server")
        except ResponseError:  # forbidden here: then only an emptied Redis is noticed
            return found, found or uuid4().hex
        return found, str(server.get("run_id") or found or uuid4().hex)

    async def _push(self, messages: Sequence[OutboxMessage]) -> None:
        by_queue: dict[str, list[OutboxMessage]] = {}
        for message in messages:
            by_queue.setdefault(self._queue_of(message), []).append(message)
        for queue, some in by_queue.items():
            try:
                await self._push_to(queue, some)
            except ResponseError as error:
                if queue == self.queue or type(error) not in {ResponseError, NoPermissionError}:
                    raise
                # the key is no queue, or is forbidden to this user: the other queues go on
                said = one_line(error)
                log.warning("relay.queue_refused", queue=queue, jobs=len(some), error=said)

    def _queue_of(self, message: OutboxMessage) -> str:
        """The key of the message's queue, or else of its kind's. A name that is not valid means the default queue."""
        try:
            return carried_to(message.queue, message.kind, self._kinds or {}, self.queue)
        except ValueError as error:
            if self._is_news("queue", message.job_id):
                log.warning("relay.queue_unusable", job_id=message.job_id, problem=str(error))
            return self.queue

    async def _push_to(self, queue: str, messages: Sequence[OutboxMessage]) -> None:
        entries = [Entry(message.job_id, _body(message, queue)) for message in messages]
        places = await enqueue(self.redis, queue, entries, again=True)
        log.debug("relay.dispatched", jobs=len(messages))
        for message, place in zip(messages, places, strict=True):
            if place.holder is not None:
                self._tell_held(message.job_id, place.holder)
            else:
                self._told.discard(("id", message.job_id))

    def _tell_held(self, job_id: str, holder: str) -> None:
        """Log that another job on Redis has the message's id. The message stays in the outbox, and is tried again."""
        if not self._is_news("id", job_id):
            return
        log.warning(
            "relay.id_held",
            job_id=job_id,
            holder=holder or "another queue, or a program that is not ours",
            cure="the job waits until the id is free; ids are shared by all queues of a Redis: use ids of your own",
        )

    def _is_news(self, what: str, job_id: str) -> bool:
        """True at the first call for this problem (`what`) of this message, so that it is logged once."""
        if (what, job_id) in self._told:
            return False
        if len(self._told) >= _MAX_LOGGED:
            self._told.clear()
        self._told.add((what, job_id))
        return True

    async def _take_back(self, messages: Sequence[OutboxMessage]) -> None:
        """Make these messages due at once, and not after the usual pause, because they did not reach Redis."""
        try:
            async with transaction(self.sessions) as session:
                await outbox.due_now(session, [message.job_id for message in messages])
        except (SQLAlchemyError, LedgerqError) as error:
            log.warning("relay.dispatched_later", jobs=len(messages), error=one_line(error))


def _body(message: OutboxMessage, queue: str) -> bytes:
    """The body of a staged job. A row with a payload that is not valid, written by other SQL, is sent to be buried.

    The body always has the actor: unprintable characters are escaped, and a long name is cut.
    """
    created = int(message.created_at.timestamp() * 1000)
    actor = presentable(message.actor, MAX_ACTOR) or UNKNOWN_ACTOR
    trace_id = presentable(message.trace_id or "", MAX_TRACE_ID) or None
    if not isinstance(message.payload, dict):
        return _out_of_shape(message, queue, message.payload, created, actor)
    envelope = Envelope(
        kind=message.kind,
        payload=message.payload,
        actor=actor,
        trace_id=trace_id,
        enqueued_ms=created,
        staged=True,
        ordered=message.ordering_key is not None,
        queue=queue,
    )
    try:
        return encode(envelope)
    except Undecodable:  # a body that is too long
        author = {"_staged": "1", "_actor": actor, **({"_trace_id": trace_id} if trace_id else {})}
        return _out_of_shape(message, queue, {**message.payload, **author}, created, actor)


def _out_of_shape(
    message: OutboxMessage, queue: str, keywords: object, created: int, actor: str
) -> bytes:
    body = {"f": message.kind, "k": keywords, "et": created, "actor": actor}
    return to_json(body)[:-1] + queue_mark(queue)
