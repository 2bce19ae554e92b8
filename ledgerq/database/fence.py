"""Keeps a job's handler inside the transaction that it was given, and that transaction clean.

A handler can't begin, commit or roll back its transaction, neither by the session nor by the connection, SQL or the
driver. When the handler returns, the transaction must still be the one that holds its job's receipt. After that, each
use of the session is an error. A connection in which the handler may have left something is closed, not used again.
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
    JobError,
    LedgerqError,
    NotAllowedInJob,
    Refused,
    RetryLater,
    SessionShared,
    Snooze,
    Unavailable,
)
from ledgerq.runtime.cancellation import told_to_stop
from ledgerq.text import leaves

_ASKING = (JobError, Refused, RetryLater, Snooze)  # by which a handler decides on its job

T = TypeVar("T")

FENCE = "ledgerq_fence"  # key in a connection's `info`: the fence of the handler that runs on it
SPOILT = "ledgerq_spoilt"  # key in `info`: the pool closes this connection when it comes back
OF = "ledgerq_connection"  # attribute of an error: the connection that raised it


class SharesState(LedgerqError):
    """Raised after a handler that has left something, for example a lock, in a transaction that other jobs share.

    `statement` is the SQL or the call that left it. The kind's jobs then get a transaction each.
    """

    def __init__(self, statement: str) -> None:
        self.statement = statement
        super().__init__(f"leaves something in its transaction: {statement[:200]}")


class Fence:
    """Keeps a handler from ending the transaction that it runs in, and notes what the handler leaves in it.

    Args:
        session: the session, as `ledgerq.database.transaction` opened it.
        shared: True if other jobs follow in the same transaction.
        stalled: a function that takes a moment (time.monotonic) and answers with the sum of the seconds after it in which
            others than this handler blocked the event loop.
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
        self._used = time.monotonic()  # when the last statement ended
        self._began = 0.0  # when the last statement began
        self._let_go = False
        self._left = ""  # the first statement or call that left something
        self._error: BaseException | None = None  # the last error of the database

    async def run(self, job_id: str, handle: Callable[[JobSession], Awaitable[T]]) -> T:
        """Run the handler and return its answer, if the transaction is intact afterwards.

        Raises:
            NotAllowedInJob: the handler has ended the transaction, or its connection.
            DBAPIError: the transaction has failed by this error, which the handler swallowed.
            SessionShared: a task that the handler started is still using the session.
            HandlerSilent, Disconnected: the connection is lost.
            SharesState: the handler left something that the next job in the transaction would find.
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
        """Why the connection is lost: by the handler's call or long silence, or by the server. None: it is not lost."""
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
        """The seconds without a statement: until the running statement began, or until now if none runs."""
        until = self._began if self._began > self._used else time.monotonic()
        return until - self._used

    @property
    def _was_silent(self) -> bool:
        """True if the handler ran no statement for so long that the database may have ended the transaction."""
        limit = self._session.idle_limit
        return bool(limit) and self._silence - self._stalled(self._used) > 0.9 * limit

    def require(self, root: SessionTransaction | None) -> None:
        """Refuse a statement if `root`, the session's transaction now, is not the one that the handler was given.

        Raises:
            NotAllowedInJob: the handler has ended its transaction; or the database's error, if that ended it.
        """
        if root is not self._roots[0]:
            raise self._error or NotAllowedInJob("ending the transaction")

    def begins(self, statement: str) -> None:
        """Called before each statement of the handler: check it, flush deferred writes, note what it may leave behind.

        Raises:
            NotAllowedInJob: the statement would begin or end a transaction, or the transaction has ended; or the
                database's error, if that ended it.
        """
        if not _in_transaction(self._driver):
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
        """Flush deferred writes, so that the handler's next statement sees them."""
        session: Any = self._session.sync_session
        if session.waiting and not session.locking and not session._flushing:  # noqa: SLF001 - it flushes now
            with session.no_autoflush:
                session.flush()

    def ends(self) -> None:
        """Note that a statement has run."""
        self._used = time.monotonic()

    def failed(self, error: BaseException) -> None:
        """Note an error of the database, or the loss of the connection."""
        self._error = error
        if not is_closed(self._driver):
            self.ends()

    def lends(self, what: str = "the driver's connection") -> None:
        """Note that the handler takes something that it could still use after its job."""
        self._left = self._left or what
        self._spoil()

    def lets_go(self) -> None:
        """Note that the handler has given its connection back to the pool, or closed it."""
        self._let_go = True

    def _spoil(self) -> None:
        """Let the pool close the connection when it comes back: the handler may have left something in it."""
        self._connection_info()[SPOILT] = True

    def _connection_info(self) -> dict[str, Any]:
        if self._connection.closed or self._connection.invalidated:
            return {}
        return self._connection.info

    async def why_lost(self) -> LedgerqError | None:
        """Why the connection is lost, or None, as `lost`. After a long silence without statements, first ask the server."""
        if self._was_silent and not self._let_go:
            with suppress(SQLAlchemyError):  # other errors are reported elsewhere
                await self._opened.exec_driver_sql("SELECT 1")
        return self.lost

    async def why_lost_behind(self, error: BaseException) -> LedgerqError | None:
        """Why the connection is lost; None if not, or for a cancellation, JobError, Refused, RetryLater or Snooze."""
        asks = any(issubclass(type(each), _ASKING) for each in leaves(error))
        return None if asks or told_to_stop(error) else await self.why_lost()

    async def _check(self) -> None:
        if lost := await self.why_lost():
            raise lost
        session, connection = self._session.sync_session, self._connection
        roots = session.get_transaction(), connection.get_transaction()
        same = all(now is then for now, then in zip(roots, self._roots, strict=True))
        if not same or not session.is_active or not _in_transaction(self._driver):
            self._spoil()
            # when a flush fails, SQLAlchemy rolls back; the handler has returned, so it swallowed the error
            raise self._error or NotAllowedInJob("ending the transaction")

    async def _hand_over(self) -> None:
        """Make session and transaction ready for the next job: nothing of this job must be left in them."""
        nested = self._connection.get_nested_transaction()
        if nested is not None and not self._session.in_nested_transaction():
            self._left = self._left or "a savepoint of the connection"
        if self._left:
            raise SharesState(self._left)
        await self._session.hand_over()

    def _mark_foreign(self, error: BaseException) -> None:
        """Mark errors of other databases, which the handler uses itself, so that they are not taken for ours."""
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
