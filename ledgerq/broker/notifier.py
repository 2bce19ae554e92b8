"""Tells the poller at once that a queue has changed, by Redis' client-side caching.

Redis 6 and later notify a connection when keys with a prefix change (`CLIENT TRACKING … BCAST`,
https://redis.io/docs/latest/develop/reference/client-side-caching/), also if a stock arq client changed them.
A notification is a hint: if one is lost, the next poll finds the change.
"""

import asyncio
import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial

import structlog
from redis.asyncio import ConnectionPool
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import NoPermissionError, RedisError

from ledgerq.runtime.background_tasks import keep_going
from ledgerq.text import one_line

log = structlog.stdlib.get_logger("ledgerq.worker")

_SILENCE = 15.0  # seconds without a notification after which the connection is pinged
_APART = 0.0005  # seconds between two reads while the worker waits for changes
_APART_AT_WORK = 0.5  # … at most, while the worker does not wait for changes
_AGAIN = 0.1  # seconds from the end of a connection to the next one
_INVALIDATIONS = "__redis__:invalidate"
_EMPTIED = re.compile(rb"[*$]-1\r\n")  # an invalidation of no key in particular: all keys are gone


class QueueNotifier:
    """Listens for changes on a connection of its own.

    Args:
        pool: makes the connection to Redis.
        prefixes: prefixes of the keys whose changes matter.
        on_listening: is called with True when Redis begins to notify, with False when the connection ends.
        on_change: is called when such a key has changed, or may have.
        on_emptied: is called when Redis lost all keys.
        interested: is set while the worker waits for changes; notifications are read less often otherwise.
    """

    def __init__(
        self,
        pool: ConnectionPool,
        prefixes: Sequence[str],
        *,
        on_listening: Callable[[bool], None],
        on_change: Callable[[], None],
        on_emptied: Callable[[], None],
        interested: asyncio.Event,
    ) -> None:
        self._pool, self._prefixes = pool, prefixes
        self._on_listening, self._on_change, self._on_emptied = on_listening, on_change, on_emptied
        self._interested = interested
        self._refused = False  # Redis forbade listening, and a log line said so

    async def run(self) -> None:
        """Listen until cancelled."""
        failed = partial(log.debug, "notifier.disconnected")
        await keep_going(self.run_once, RedisError, OSError, TimeoutError, failed=failed)

    async def run_once(self) -> float:
        """Listen for as long as the connection lasts; answers with the seconds until the next one."""
        connection = self._pool.make_connection()  # type: ignore[no-untyped-call]
        try:
            await self._subscribe(connection)
            self._on_listening(True)
            self._on_change()  # something may have changed before
            try:
                await self._listen(connection)
            except (RedisError, OSError, TimeoutError) as error:
                log.debug("notifier.disconnected", error=one_line(error))
        except NoPermissionError as error:
            if not self._refused:
                log.warning("notifier.not_permitted", error=one_line(error))
            self._refused = True
            raise
        finally:
            self._on_listening(False)
            await connection.disconnect(nowait=True)
        return _AGAIN

    async def _subscribe(self, connection: AbstractConnection) -> None:
        await connection.connect()  # type: ignore[no-untyped-call]
        await connection.send_command("CLIENT", "ID")
        own = await connection.read_response()
        prefixes = [word for prefix in _apart(self._prefixes) for word in ("PREFIX", prefix)]
        await connection.send_command(
            "CLIENT", "TRACKING", "ON", "REDIRECT", own, "BCAST", *prefixes
        )
        await connection.read_response()
        await connection.send_command("SUBSCRIBE", _INVALIDATIONS)
        await connection.read_response()

    async def _listen(self, connection: AbstractConnection) -> None:
        # busy workers cause thousands of messages a second, and any byte means that a key changed: so the bytes
        # are read in chunks; to parse the messages takes 100 times as long (`make bench-private`)
        reader, asked = connection._reader, False  # noqa: SLF001 - it has no other way to read chunks
        while reader:
            news = await _read(reader)
            if news == b"" or (news is None and asked):
                return  # the connection is closed or dead
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
        """Read nothing until the worker waits for changes; at most 0.5 s, or Redis would close the connection."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_APART_AT_WORK):
                await self._interested.wait()


def _apart(prefixes: Iterable[str]) -> list[str]:
    """The prefixes, without those that begin with another prefix: Redis refuses two prefixes that cover one key."""
    kept: list[str] = []
    for prefix in sorted(set(prefixes)):
        if not kept or not prefix.startswith(kept[-1]):
            kept.append(prefix)
    return kept


async def _read(reader: asyncio.StreamReader) -> bytes | None:
    """The bytes that have arrived; b"" if the connection is closed, None if nothing arrives for `_SILENCE` seconds."""
    try:
        async with asyncio.timeout(_SILENCE):
            return await reader.read(65_536)
    except TimeoutError:
        return None
