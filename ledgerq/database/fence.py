"""Keeps a job's handler inside the transaction that it was given, and that transaction clean.

A handler can't begin, commit or roll back, by the session, the connection, SQL or the driver. When it returns, the
transaction must still be the one that holds the mark of its job. What it held ends with it: the next use of the
session is an error. A connection in which something may be left is closed instead of used again.
"""

import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeVar

from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.orm import SessionTransaction

from ledgerq.database.session import JobSession, LedgerqSession
from ledgerq.database.sqlstate import FOREIGN
from ledgerq.database.statements import Leaves, leaves_behind
from ledgerq.errors import (
    Disconnected,
    HandlerSilent,
    LedgerqError,
    NotAllowedInJob,
    SessionShared,
    Unavailable,
)
from ledgerq.text import leaves

T = TypeVar("T")

FENCE = "ledgerq_fence"  # in `info` of a connection, while a handler runs on it
SPOILT = "ledgerq_spoilt"  # … of one that is closed when it comes back to the pool
OF = "ledgerq_connection"  # on an error: which connection's it is


class SharesState(LedgerqError):
    """A handler left something in a transaction that it shares with other jobs. `statement` did it."""

    def __init__(self, statement: str) -> None:
        self.statement = statement
        super().__init__(f"leaves something in its transaction: {statement[:200]}")


class Fence:
    """Around the handlers of one transaction.

    Args:
        session: as `ledgerq.database.transaction` opened it.
        shared: other jobs follow in the same transaction.
        stalled: for how many seconds since a moment (time.monotonic) the event loop was held up by others.
    """

    def __init__(
        self,
        session: LedgerqSession,
        *,
        shared: bool = False,
        stalled: Callable[[float], float] = lambda since: 0.0,
    ) -> None:
        assert session.opened  # noqa: S101 - ledgerq.database.transaction sees to it
        connection = session.opened.sync_connection
        assert connection  # noqa: S101 - as above
        self._session, self._opened = session, session.opened
        self._shared, self._stalled = shared, stalled
        self._connection: Connection = connection
        self._driver: Any = connection.connection.driver_connection
        self._roots = session.sync_session.get_transaction(), connection.get_transaction()
        self._used = time.monotonic()  # when the last statement had run …
        self._began = 0.0  # … and when the one began that runs now
        self._let_go = False
        self._left = ""  # the statement that left something in the transaction
        self._error: BaseException | None = None  # of the database, the last one

    async def run(self, job_id: str, handle: Callable[[JobSession], Awaitable[T]]) -> T:
        """What the handler answers, if the transaction is whole after it.

        Raises:
            NotAllowedInJob: the transaction is not the one that it was.
            DBAPIError: it is not, because an error of the database was swallowed.
            SessionShared: a task that the handler left behind is using the session now.
            HandlerSilent, Disconnected: the connection is gone.
            SharesState: it left something that the next job would find.
        """
        given = JobSession(self._session, job_id)
        self._connection.info[FENCE] = self._driver.fence = self
        self._session.sync_session.fence = self  # type: ignore[attr-defined]
        self._used = time.monotonic()
        try:
            result = await handle(given)
        except BaseException as error:
            self._mark_foreign(error)
            raise
        finally:
            self._connection_info().pop(FENCE, None)
            self._driver.fence = None
            self._session.sync_session.fence = None  # type: ignore[attr-defined]
            busy = given.busy
            if busy:
                self._spoil()
            self._left = self._left or given.lent
            given.end()
        if busy:
            raise SessionShared
        await self._check()
        if self._shared:
            await self._hand_over()
        return result

    @property
    def lost(self) -> LedgerqError | None:
        """Why the connection is gone: the handler was silent for too long, or something outside."""
        if self._let_go:
            return NotAllowedInJob("closing the connection")
        if not is_closed(self._driver):
            return None
        return (
            HandlerSilent(self._silence, self._session.idle_limit)
            if self._was_silent
            else Disconnected()
        )

    @property
    def _silence(self) -> float:
        """For how many seconds no statement ran, before the one that runs now, or until now."""
        until = self._began if self._began > self._used else time.monotonic()
        return until - self._used

    @property
    def _was_silent(self) -> bool:
        """True if the database may have ended the transaction because of the handler."""
        limit = self._session.idle_limit
        return bool(limit) and self._silence - self._stalled(self._used) > 0.9 * limit

    def require(self, root: SessionTransaction | None) -> None:
        """Refuse to go on in another transaction than the one that the handler was given."""
        if root is not self._roots[0]:
            raise self._error or NotAllowedInJob("ending the transaction")

    def begins(self, statement: str) -> None:
        """A statement is about to run, by whatever way.

        Raises:
            NotAllowedInJob: it would begin or end a transaction.
        """
        if not _in_transaction(self._driver):  # by whatever way it was ended
            self._spoil()
            raise self._error or NotAllowedInJob("going on after the end of the transaction")
        self._write_what_waits()
        left = leaves_behind(statement)
        if left is Leaves.ENDS:
            self._spoil()
            raise NotAllowedInJob(" ".join(statement.split())[:100].rstrip(";"))
        if left is Leaves.IN_SESSION:
            self._spoil()
        if left and not self._left:
            self._left = statement
        self._began = time.monotonic()

    def _write_what_waits(self) -> None:
        """What the handler runs now sees what it changed before, whatever way its statement comes by."""
        session: Any = self._session.sync_session
        if session.waiting and not session.locking and not session._flushing:  # noqa: SLF001 - it flushes now
            with session.no_autoflush:
                session.flush()

    def ends(self) -> None:
        """A statement has run."""
        self._used = time.monotonic()

    def failed(self, error: BaseException) -> None:
        """The database answered with an error, or its connection is gone."""
        self._error = error
        if not is_closed(self._driver):
            self.ends()

    def lends(self, what: str = "the driver's connection") -> None:
        """The handler takes what it can use after its job."""
        self._left = self._left or what
        self._spoil()

    def lets_go(self) -> None:
        """The handler has given its connection back, or closed it."""
        self._let_go = True

    def _spoil(self) -> None:
        """What is left in the connection must not reach who uses it next."""
        self._connection_info()[SPOILT] = True

    def _connection_info(self) -> dict[str, Any]:
        if self._connection.closed or self._connection.invalidated:
            return {}
        return self._connection.info

    async def why_lost(self) -> LedgerqError | None:
        """As `lost`. After a long silence the server may have hung up, and the loop not have read it yet: look."""
        if self._was_silent and not self._let_go:
            with suppress(SQLAlchemyError):  # whatever else is wrong is told elsewhere
                await self._opened.exec_driver_sql("SELECT 1")
        return self.lost

    async def _check(self) -> None:
        if lost := await self.why_lost():
            raise lost
        session, connection = self._session.sync_session, self._connection
        roots = session.get_transaction(), connection.get_transaction()
        same = all(now is then for now, then in zip(roots, self._roots, strict=True))
        if not same or not session.is_active or not _in_transaction(self._driver):
            self._spoil()
            # SQLAlchemy rolls back when a flush fails; a handler that goes on then has swallowed the error
            raise self._error or NotAllowedInJob("ending the transaction")

    async def _hand_over(self) -> None:
        """Leave nothing of this job in the session and the transaction for the next one."""
        nested = self._connection.get_nested_transaction()
        if nested is not None and not self._session.in_nested_transaction():
            self._left = self._left or "a savepoint of the connection"
        if self._left:
            raise SharesState(self._left)
        await self._session.hand_over()

    def _mark_foreign(self, error: BaseException) -> None:
        """Errors of another database than ours are the handler's own."""
        for leaf in leaves(error):
            source = leaf.__cause__ if isinstance(leaf, LedgerqError) else leaf
            if isinstance(source, DBAPIError):
                foreign = getattr(source, OF, self._connection) is not self._connection
            else:
                foreign = isinstance(leaf, Disconnected | Unavailable) and not self.lost
            if foreign:
                setattr(leaf, FOREIGN, True)


def is_closed(driver: Any) -> bool:
    closed = getattr(driver, "is_closed", None)
    return bool(closed()) if closed else not getattr(driver, "_running", True)


def _in_transaction(driver: Any) -> bool:
    asked = getattr(driver, "is_in_transaction", None)
    return bool(asked() if asked else driver.in_transaction)
