"""Keeps a job's handler inside the transaction that it was given, and that transaction clean.

A handler can't begin, commit or roll back, by the session, the connection, SQL or the driver. When it returns, the
transaction must still be the one that holds the mark of its job. What it held ends with it: the next use of the
session is an error. A connection in which something may be left is closed instead of used again.
"""

import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import asyncpg
from sqlalchemy import Engine, event
from sqlalchemy.engine import Connection, ExceptionContext
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.orm import SessionTransaction

from db.errors import (
    Disconnected,
    HandlerSilent,
    LedgerqError,
    NotAllowedInJob,
    SessionShared,
    Unavailable,
)
from db.session import JobSession, LedgerqSession
from db.statements import Leaves, leaves_behind
from db.translate import FOREIGN, is_of_the_server, leaves

T = TypeVar("T")

_FENCE = "ledgerq_fence"  # in `info` of a connection, while a handler runs on it
_SPOILT = "ledgerq_spoilt"  # … of one that is closed when it comes back to the pool
_DIALECT = "ledgerq_dialect"  # on an error: which engine's it is


class SharesState(LedgerqError):
    """A handler left something in a transaction that it shares with other jobs. `statement` did it."""

    def __init__(self, statement: str) -> None:
        self.statement = statement
        super().__init__(f"leaves something in its transaction: {statement[:200]}")


class Fence:
    """Around the handlers of one transaction.

    Args:
        session: as `db.transaction` opened it.
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
        assert session.opened  # noqa: S101 - db.transaction sees to it
        connection = session.opened.sync_connection
        assert connection  # noqa: S101 - as above
        self._session, self._shared, self._stalled = session, shared, stalled
        self._connection: Connection = connection
        self._driver: Any = connection.connection.driver_connection
        self._roots = session.sync_session.get_transaction(), connection.get_transaction()
        self._used = time.monotonic()  # when the last statement had run …
        self._began = 0.0  # … and when the one began that runs now
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
        self._connection.info[_FENCE] = self._driver.fence = self
        self._session.sync_session.fence = self  # type: ignore[attr-defined]
        self._used = time.monotonic()
        try:
            result = await handle(given)
        except BaseException as error:
            self._mark_foreign(error)
            raise
        finally:
            self._connection_info().pop(_FENCE, None)
            self._driver.fence = None
            self._session.sync_session.fence = None  # type: ignore[attr-defined]
            busy = given.busy
            if busy or given.lent:
                self._spoil()
            given.end()
        if busy:
            raise SessionShared
        self._check()
        if self._shared:
            await self._hand_over()
        return result

    @property
    def lost(self) -> LedgerqError | None:
        """Why the connection is gone: the handler was silent for too long, or something outside."""
        if not _is_closed(self._driver):
            return None
        until = self._began if self._began > self._used else time.monotonic()
        silent, limit = until - self._used, self._session.idle_limit
        if limit and silent - self._stalled(self._used) > 0.9 * limit:
            return HandlerSilent(silent, limit)
        return Disconnected()

    def require(self, root: SessionTransaction | None) -> None:
        """Refuse to go on in another transaction than the one that the handler was given."""
        if root is not self._roots[0]:
            raise self._error or NotAllowedInJob("ending the transaction")

    def begins(self, statement: str) -> None:
        """A statement is about to run, by whatever way.

        Raises:
            NotAllowedInJob: it would begin or end a transaction.
        """
        left = leaves_behind(statement)
        if left is Leaves.ENDS:
            self._spoil()
            raise NotAllowedInJob(" ".join(statement.split())[:100].rstrip(";"))
        if left is Leaves.IN_SESSION:
            self._spoil()
        if left and not self._left:
            self._left = statement
        self._began = time.monotonic()

    def ends(self) -> None:
        """A statement has run."""
        self._used = time.monotonic()

    def failed(self, error: BaseException) -> None:
        """The database answered with an error, or its connection is gone."""
        self._error = error
        if not _is_closed(self._driver):
            self.ends()

    def lends(self) -> None:
        """The handler takes the driver's own connection, with which it can do whatever it likes."""
        self._left = self._left or "the driver's connection"
        self._spoil()

    def _spoil(self) -> None:
        """What is left in the connection must not reach who uses it next."""
        self._connection_info()[_SPOILT] = True

    def _connection_info(self) -> dict[str, Any]:
        if self._connection.closed or self._connection.invalidated:
            return {}
        return self._connection.info

    def _check(self) -> None:
        if lost := self.lost:
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
        if self._left:
            raise SharesState(self._left)
        await self._session.hand_over()

    def _mark_foreign(self, error: BaseException) -> None:
        """Errors of another database than ours are the handler's own."""
        for leaf in leaves(error):
            source = leaf.__cause__ if isinstance(leaf, LedgerqError) else leaf
            if isinstance(source, DBAPIError):
                dialect = getattr(source, _DIALECT, self._connection.dialect)
                foreign = dialect is not self._connection.dialect
            else:
                foreign = isinstance(leaf, Disconnected | Unavailable) and not self.lost
            if foreign:
                setattr(leaf, FOREIGN, True)


class FencedConnection(asyncpg.Connection):
    """asyncpg's connection: asks the fence, if there is one, and believes what COMMIT answers."""

    fence: Fence | None = None
    _top_xact: Any  # asyncpg's: the transaction that it knows itself to be in

    async def execute(self, query: str, *args: Any, timeout: float | None = None) -> str:  # noqa: ASYNC109 - asyncpg's
        """Run a statement; SQLAlchemy begins, commits and rolls back by it.

        Raises:
            InFailedSQLTransactionError: COMMIT rolled back, because an error was swallowed before it.
        """
        # SQLAlchemy rolls back when a flush fails; asyncpg has let go of its transaction by then
        rolls_back = query.startswith("ROLLBACK") and self._top_xact is None
        if self.fence and not rolls_back:
            self.fence.begins(query)
        status: str = await super().execute(query, *args, timeout=timeout)
        if status == "ROLLBACK" and query.lstrip()[:6].upper() == "COMMIT":
            error = asyncpg.InFailedSQLTransactionError("COMMIT rolled back")
            raise error
        return status


def _asking(name: str) -> Any:
    method = getattr(asyncpg.Connection, name)

    async def asks(self: FencedConnection, query: str, *args: Any, **more: Any) -> Any:
        fence = self.fence
        if fence:
            fence.begins(query)
        answer = await method(self, query, *args, **more)
        if fence:
            fence.ends()
        return answer

    return asks


for _name in ("executemany", "fetch", "fetchmany", "fetchrow", "fetchval", "prepare"):
    setattr(FencedConnection, _name, _asking(_name))


def put_up_fences(engine: AsyncEngine) -> None:
    """Let the fence of a connection, if it has one, know of all that happens on it."""
    sync = engine.sync_engine
    event.listen(sync, "before_cursor_execute", _begins)
    event.listen(sync, "after_cursor_execute", _ends)
    event.listen(sync, "checkin", _close_if_spoilt)
    if sync.dialect.name == "sqlite":  # on PostgreSQL, COMMIT comes by FencedConnection
        event.listen(sync, "commit", lambda connection: _begins(connection, None, "COMMIT"))
    driver_of = sync.dialect.get_driver_connection

    def lent(connection: Any) -> Any:
        driver = driver_of(connection)
        if fence := getattr(driver, "fence", None):
            fence.lends()
        return driver

    sync.dialect.get_driver_connection = lent  # type: ignore[method-assign]


def _begins(connection: Connection, _cursor: object, statement: str, *_: object) -> None:
    if fence := connection.info.get(_FENCE):
        fence.begins(statement)


def _ends(connection: Connection, *_: object) -> None:
    if fence := connection.info.get(_FENCE):
        fence.ends()


def _close_if_spoilt(connection: object, record: Any) -> None:
    spoilt = record.info.pop(_SPOILT, False)
    let_go = record.info.pop(_FENCE, None)  # while the handler runs: it has ended its transaction
    if connection is not None and (spoilt or let_go):
        record.invalidate()


@event.listens_for(Engine, "handle_error")
def _stamp(context: ExceptionContext) -> None:
    """Say on each error which engine's it is: a service may have more than one database."""
    error, connection = context.sqlalchemy_exception, context.connection
    if error is not None:
        setattr(error, _DIALECT, context.dialect)
        if connection is not None and not connection.closed and not connection.invalidated:
            if fence := connection.info.get(_FENCE):
                fence.failed(error)
            if is_of_the_server(error):  # a new connection may find another one
                connection.info[_SPOILT] = True


def _is_closed(driver: Any) -> bool:
    closed = getattr(driver, "is_closed", None)
    return bool(closed()) if closed else not getattr(driver, "_running", True)


def _in_transaction(driver: Any) -> bool:
    asked = getattr(driver, "is_in_transaction", None)
    return bool(asked() if asked else driver.in_transaction)
