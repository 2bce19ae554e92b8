"""The relay: puts staged jobs on Redis when they are due, and again if Redis forgot them.

One loop in every worker, any number of them. What it puts there twice, Redis keeps once; what Redis
keeps twice, the inbox settles.
"""

import asyncio
from collections.abc import Sequence
from uuid import uuid4

import structlog
from arq.connections import ArqRedis
from pydantic_core import to_json
from redis.exceptions import RedisError, ResponseError
from sqlalchemy.exc import SQLAlchemyError

from db import outbox
from db.engine import Database, Sessions
from db.errors import LedgerqError
from db.listen import STAGED, listen
from db.models import OutboxMessage
from db.transaction import transaction
from jobs.envelope import Envelope, encode
from jobs.errors import Undecodable
from worker.keys import epoch_key
from worker.patience import Patience
from worker.scripts import script

BATCH = 500  # messages in one round trip

log = structlog.stdlib.get_logger("ledgerq.relay")


class Relay:
    """From the outbox to one queue. `interval` is the seconds between two looks when nothing is due."""

    def __init__(self, redis: ArqRedis, sessions: Sessions, queue: str, interval: float) -> None:
        self.redis, self.sessions, self.queue, self.interval = redis, sessions, queue, interval
        self._woken = asyncio.Event()
        self._one_at_a_time = asyncio.Lock()
        self._enqueue = script(redis, "enqueue")

    def wake(self) -> None:
        """Something may be due: look now."""
        self._woken.set()

    async def run(self) -> None:
        """Relay until cancelled, whatever Redis and the database do meanwhile."""
        patience = Patience()
        while True:
            self._woken.clear()
            try:
                full = await self.step() == BATCH
            except (RedisError, SQLAlchemyError, LedgerqError, OSError, TimeoutError) as error:
                if patience.failures == 0:
                    log.warning("relay.waits", error=str(error).partition("\n")[0])
                await asyncio.sleep(patience.next())
                continue
            if patience.failures:
                log.info("relay.goes_on", failures=patience.failures)
                patience.reset()
            if not full:
                await self._pause()

    async def listen(self, database: Database) -> None:
        """Look at once when the database tells that something was staged, until cancelled."""
        patience = Patience()
        while True:
            try:
                await listen(database, STAGED, self.wake)
                patience.reset()
            except (SQLAlchemyError, LedgerqError, OSError, TimeoutError) as error:
                log.debug("relay.hears_nothing", error=str(error).partition("\n")[0])
            await asyncio.sleep(patience.next())

    async def step(self) -> int:
        """Put on Redis what is due now, a batch at most; answers with how many."""
        async with self._one_at_a_time:
            return await self._step()

    async def _step(self) -> int:
        await self._notice_loss()
        async with transaction(self.sessions) as session:
            due = await outbox.take_due(session, BATCH)
        if due:
            try:
                await self._push(due)
            except (RedisError, OSError, TimeoutError):
                await self._take_back(due)
                raise
            log.debug("relay.dispatched", jobs=len(due))
        return len(due)

    async def _notice_loss(self) -> None:
        """If Redis was restarted, emptied or replaced since a relay last looked, all is due again."""
        found, current = await self._epoch()
        if found is not None and found == current:
            return
        async with transaction(self.sessions) as session:
            again = await outbox.all_due(session)
        await self.redis.set(epoch_key(self.queue), current)
        log.warning("relay.redis_lost_data", jobs_due_again=again)

    async def _epoch(self) -> tuple[str | None, str]:
        """The epoch noted on Redis, and the one it is: the id that a server draws when it starts."""
        noted = await self.redis.get(epoch_key(self.queue))
        found = noted.decode(errors="replace") if noted else None
        try:
            server = await self.redis.info("server")
        except ResponseError:  # forbidden here: then only an emptied Redis is noticed
            return found, found or uuid4().hex
        return found, str(server.get("run_id") or found or uuid4().hex)

    async def _push(self, messages: Sequence[OutboxMessage]) -> None:
        arguments: list[bytes | str | int] = [1]
        for message in messages:
            arguments += [message.job_id, _body(message), 0, "", 0]
        await self._enqueue(keys=[self.queue], args=arguments)

    async def _take_back(self, messages: Sequence[OutboxMessage]) -> None:
        """They did not get there: due now, not after the pause."""
        try:
            async with transaction(self.sessions) as session:
                await outbox.due_now(session, [message.job_id for message in messages])
        except (SQLAlchemyError, LedgerqError) as error:
            log.warning("relay.dispatched_later", jobs=len(messages), error=str(error))

    async def _pause(self) -> None:
        try:
            async with asyncio.timeout(self.interval):
                await self._woken.wait()
        except TimeoutError:
            pass


def _body(message: OutboxMessage) -> bytes:
    """The job as it travels. A row that somebody's own SQL left out of shape goes as it is, to be buried."""
    created = int(message.created_at.timestamp() * 1000)
    if not isinstance(message.payload, dict):
        return to_json({"f": message.kind, "k": message.payload, "et": created})
    envelope = Envelope(
        kind=message.kind,
        payload=message.payload,
        actor=message.actor,
        trace_id=message.trace_id,
        enqueued_ms=created,
        staged=True,
        ordered=message.ordering_key is not None,
    )
    try:
        return encode(envelope)
    except Undecodable:  # an actor that no log line could show, or a body that is too long
        return to_json({"f": message.kind, "k": {**message.payload, "_staged": "1"}, "et": created})
