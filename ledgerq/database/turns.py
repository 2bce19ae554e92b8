"""A line before the pool, for work of which more may go on at once than there are connections.

Who waits in line waits as long as it takes. Who waits at the pool is refused after `LEDGERQ_DB_POOL_TIMEOUT`, as if the
database were away.
"""

from asyncio import Semaphore
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from weakref import WeakKeyDictionary

from sqlalchemy.ext.asyncio import AsyncEngine

from ledgerq.database.engine import Sessions
from ledgerq.database.session import LedgerqSession
from ledgerq.database.transaction import reading

_LINES = WeakKeyDictionary[AsyncEngine, Semaphore]()
_HAS_ONE = ContextVar("ledgerq_has_a_turn", default=False)


@asynccontextmanager
async def turn(sessions: Sessions) -> AsyncIterator[None]:
    """Limit `turn` blocks to half as many at once as the pool has connections; others wait. A nested block does not wait.

    ```python
    async with turn(sessions), transaction(sessions) as session: ...
    ```
    """
    engine: AsyncEngine = sessions.kw["bind"]
    size = getattr(engine.pool, "size", None)
    if size is None or _HAS_ONE.get():  # a pool without a limit refuses nobody
        yield
        return
    async with _LINES.setdefault(engine, Semaphore(max(1, size() // 2))):
        _HAS_ONE.set(True)
        try:
            yield
        finally:
            _HAS_ONE.set(False)


@asynccontextmanager
async def reading_in_turn(sessions: Sessions) -> AsyncIterator[LedgerqSession]:
    """Open a session for reading inside a `turn`: waits while half of the pool's connections are used in such blocks."""
    async with turn(sessions), reading(sessions) as session:
        yield session
