"""Hears at once that a queue has changed, whoever changed it: Redis tells by client-side caching.

Redis 6 and later notify a connection when keys of a prefix change (`CLIENT TRACKING … BCAST`,
https://redis.io/docs/latest/develop/reference/client-side-caching/), a stock arq client's ZADD too. It is a
hint: what is missed is found by the next look at the queue.
"""

import asyncio
import re
from collections.abc import Callable, Sequence
from contextlib import suppress

import structlog
from redis.asyncio import ConnectionPool
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import NoPermissionError, RedisError

from ledgerq.backoff import Backoff
from ledgerq.text import one_line

log = structlog.stdlib.get_logger("ledgerq.worker")

_SILENCE = 15.0  # seconds after which the connection is asked whether it still is one
_APART = 0.002  # seconds between two readings of a worker that waits for changes
_APART_AT_WORK = 0.5  # … the longest, of one that has no room for more jobs
_INVALIDATIONS = "__redis__:invalidate"
_EMPTIED = re.compile(rb"[*$]-1\r\n")  # a message about no key in particular: all are gone


class QueueNotifier:
    """Listens on a connection of its own. `listening` is False while changes may go unheard."""

    def __init__(
        self,
        pool: ConnectionPool,
        prefixes: Sequence[str],
        *,
        on_change: Callable[[], None],
        on_emptied: Callable[[], None],
        interested: asyncio.Event,
    ) -> None:
        self._pool, self._prefixes = pool, prefixes
        self._on_change, self._on_emptied = on_change, on_emptied
        self._interested = interested
        self.is_listening = False

    async def run(self) -> None:
        """Listen until cancelled."""
        backoff = Backoff()
        while True:
            connection = self._pool.make_connection()  # type: ignore[no-untyped-call]
            try:
                await self._subscribe(connection)
                self.is_listening = True
                backoff.reset()
                self._on_change()  # something may have changed before
                await self._listen(connection)
            except NoPermissionError as error:
                if backoff.failures == 0:
                    log.warning("notifier.not_permitted", error=one_line(error))
            except (RedisError, OSError, TimeoutError) as error:
                log.debug("notifier.disconnected", error=one_line(error))
            finally:
                self.is_listening = False
                await connection.disconnect(nowait=True)
            await asyncio.sleep(backoff.next())

    async def _subscribe(self, connection: AbstractConnection) -> None:
        await connection.connect()  # type: ignore[no-untyped-call]
        await connection.send_command("CLIENT", "ID")
        own = await connection.read_response()
        prefixes = [word for prefix in self._prefixes for word in ("PREFIX", prefix)]
        await connection.send_command(
            "CLIENT", "TRACKING", "ON", "REDIRECT", own, "BCAST", *prefixes
        )
        await connection.read_response()
        await connection.send_command("SUBSCRIBE", _INVALIDATIONS)
        await connection.read_response()

    async def _listen(self, connection: AbstractConnection) -> None:
        # a fleet at work makes thousands of messages a second, and any byte says what there is to
        # say: they are read in heaps, and not as messages
        reader, asked = connection._reader, False  # noqa: SLF001 - it has no other way to read in heaps
        while reader:
            news = await _read(reader)
            if news == b"" or (news is None and asked):
                return  # it is no connection any more
            if news is None:
                await connection.send_command("PING", check_health=False)
            else:
                if _EMPTIED.search(news):
                    self._on_emptied()
                self._on_change()
                await asyncio.sleep(_APART)
                await self._until_interested()
            asked = news is None

    async def _until_interested(self) -> None:
        """While the worker has no room, nothing is read; not for ever, or Redis would close the connection."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_APART_AT_WORK):
                await self._interested.wait()


async def _read(reader: asyncio.StreamReader) -> bytes | None:
    """What has come; nothing if the connection is closed, None if it is silent."""
    try:
        async with asyncio.timeout(_SILENCE):
            return await reader.read(65_536)
    except TimeoutError:
        return None
