"""Reports to a fence all that happens on its connection: by the driver's connection, and by events of the engine."""

from typing import Any

import asyncpg
from sqlalchemy import Engine, event
from sqlalchemy.engine import Connection, ExceptionContext
from sqlalchemy.ext.asyncio import AsyncEngine

from ledgerq.database.fence import FENCE, OF, SPOILT, Fence, is_closed
from ledgerq.database.sqlstate import is_of_the_server

OPENING = "ledgerq_opening"  # execution option: the statement to send together with BEGIN


class FencedConnection(asyncpg.Connection):
    """asyncpg's connection, which reports statements to the fence, if there is one, and checks COMMIT's answer.

    `opening` is a statement to send together with the next BEGIN, `closing` are those to send together with the next
    COMMIT: see ledgerq.database.round_trips.
    """

    fence: Fence | None = None
    opening = ""
    closing: tuple[str, ...] = ()
    held = ""  # a BEGIN that waits for the statement behind it
    _top_xact: Any  # asyncpg's own attribute: the transaction that it has begun

    async def execute(self, query: str, *args: Any, timeout: float | None = None) -> str:  # noqa: ASYNC109 - asyncpg's
        """Run a statement. SQLAlchemy uses this method for BEGIN, COMMIT and ROLLBACK.

        Raises:
            InFailedSQLTransactionError: COMMIT rolled back, because an earlier error was swallowed.
        """
        if self.opening and query.startswith("BEGIN"):
            self.held = query
            return "BEGIN"
        # when a flush fails, SQLAlchemy rolls back; asyncpg has no transaction any more by then
        rolls_back = query.startswith("ROLLBACK") and self._top_xact is None
        if self.fence and not rolls_back:
            self.fence.begins(query)
        before = self._closing_before(query) if self.closing else ""
        status: str = await super().execute(before + query, *args, timeout=timeout)
        if status == "ROLLBACK" and query.lstrip()[:6].upper() == "COMMIT":
            error = asyncpg.InFailedSQLTransactionError("COMMIT rolled back")
            raise error
        return status

    def _closing_before(self, query: str) -> str:
        """What goes to the server before this query: all of `closing` before COMMIT, which then waits no more."""
        if query.startswith("COMMIT"):
            closing, self.closing = self.closing, ()
            return "".join(f"{each}; " for each in closing)
        if query.startswith("ROLLBACK;"):
            self.closing = ()
        return ""

    async def open(self) -> str:
        """Send BEGIN and the first statement; returns the statement's status."""
        if not self.held and not self.is_in_transaction():
            problem = "there is no BEGIN to send a statement with"
            raise asyncpg.InterfaceError(problem)
        query, self.held, self.opening = f"{self.held}{self.opening}", "", ""
        return await self.execute(query)


class _Opening:
    """What SQLAlchemy takes for the prepared statement while `opening` waits, whatever its text."""

    def __init__(self, connection: FencedConnection) -> None:
        self._connection, self._status = connection, ""

    def get_attributes(self) -> tuple[()]:
        return ()

    async def fetch(self) -> list[Any]:
        self._status = await self._connection.open()
        return []

    def get_statusmsg(self) -> str:
        return self._status


def _asking(name: str) -> Any:
    method = getattr(asyncpg.Connection, name)

    async def asks(self: FencedConnection, query: str, *args: Any, **more: Any) -> Any:
        fence = self.fence
        if self.opening:
            return _Opening(self)
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
    """Listen to an engine's events, and tell the connection's fence, if it has one; it may refuse a handler's statement."""
    sync = engine.sync_engine
    event.listen(sync, "before_cursor_execute", _begins)
    event.listen(sync, "after_cursor_execute", _ends)
    event.listen(sync, "checkin", _close_if_spoilt)
    event.listen(sync, "invalidate", _invalidated)
    if sync.dialect.name == "sqlite":  # on PostgreSQL, FencedConnection.execute sees COMMIT
        event.listen(sync, "commit", _commits)
    else:
        event.listen(sync, "do_execute", _opens)
    driver_of = sync.dialect.get_driver_connection

    def lent(connection: Any) -> Any:
        driver = driver_of(connection)
        if fence := getattr(driver, "fence", None):
            fence.lends()
        return driver

    sync.dialect.get_driver_connection = lent  # type: ignore[method-assign]


def _opens(cursor: Any, _statement: str, _: object, context: Any) -> None:
    """Let the statement of the option go with BEGIN. A listener of the service that sends one first has done so by now."""
    if context is not None and (opening := context.execution_options.get(OPENING)):
        cursor._connection.opening = opening  # noqa: SLF001 - asyncpg's connection; SQLAlchemy names it nowhere else here


def _begins(
    connection: Connection, _cursor: object, statement: str, _: object, context: Any, *__: object
) -> None:
    if fence := connection.info.get(FENCE):
        fence.begins(statement)
        if context is not None and context.execution_options.get("stream_results"):
            fence.lends("a cursor")


def _commits(connection: Connection) -> None:
    if fence := connection.info.get(FENCE):
        fence.begins("COMMIT")


def _ends(connection: Connection, *_: object) -> None:
    if fence := connection.info.get(FENCE):
        fence.ends()


def _close_if_spoilt(connection: object, record: Any) -> None:
    spoilt = record.info.pop(SPOILT, False)
    # a fence is there only while a handler runs, so the handler has given its connection back
    fence = record.info.pop(FENCE, None)
    if fence and connection is not None and not is_closed(record.driver_connection):
        fence.lets_go()
    if connection is not None and (
        spoilt or fence or _is_left_open(record) or _is_left_waiting(record)
    ):
        record.invalidate()


def _is_left_open(record: Any) -> bool:
    """True if the connection is still in a transaction when it comes back to the pool."""
    asked = getattr(record.driver_connection, "is_in_transaction", None)
    return bool(asked and asked())


def _is_left_waiting(record: Any) -> bool:
    """True if statements still wait for a BEGIN or COMMIT."""
    driver = record.driver_connection
    return isinstance(driver, FencedConnection) and bool(
        driver.opening or driver.held or driver.closing
    )


def _invalidated(_connection: object, record: Any, error: BaseException | None) -> None:
    fence = record.info.get(FENCE)
    if fence and error is None and not is_closed(record.driver_connection):
        fence.lets_go()  # the handler itself has invalidated the connection


@event.listens_for(Engine, "handle_error")
def _stamp(context: ExceptionContext) -> None:
    """Note on each error its connection, since a service may use several connections and several databases."""
    error, connection = context.sqlalchemy_exception, context.connection
    if error is not None:
        setattr(error, OF, connection)
        if connection is not None and not connection.closed and not connection.invalidated:
            if fence := connection.info.get(FENCE):
                fence.failed(error)
            if is_of_the_server(error):  # a new connection may reach another server
                connection.info[SPOILT] = True
