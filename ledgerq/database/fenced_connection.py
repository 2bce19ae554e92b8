"""What tells a fence of all that happens on its connection: the driver's connection, and the engine's events."""

from typing import Any

import asyncpg
from sqlalchemy import Engine, event
from sqlalchemy.engine import Connection, ExceptionContext
from sqlalchemy.ext.asyncio import AsyncEngine

from ledgerq.database.fence import FENCE, OF, SPOILT, Fence, is_closed
from ledgerq.database.sqlstate import is_of_the_server


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
    event.listen(sync, "invalidate", _invalidated)
    if sync.dialect.name == "sqlite":  # on PostgreSQL, COMMIT comes by FencedConnection
        event.listen(sync, "commit", _commits)
    driver_of = sync.dialect.get_driver_connection

    def lent(connection: Any) -> Any:
        driver = driver_of(connection)
        if fence := getattr(driver, "fence", None):
            fence.lends()
        return driver

    sync.dialect.get_driver_connection = lent  # type: ignore[method-assign]


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
    fence = record.info.pop(FENCE, None)  # while the handler runs: it has ended its transaction
    if fence and connection is not None and not is_closed(record.driver_connection):
        fence.lets_go()
    if connection is not None and (spoilt or fence or _is_left_open(record)):
        record.invalidate()


def _is_left_open(record: Any) -> bool:
    """True if the server is still in a transaction, of which the pool knows nothing any more."""
    asked = getattr(record.driver_connection, "is_in_transaction", None)
    return bool(asked and asked())


def _invalidated(_connection: object, record: Any, error: BaseException | None) -> None:
    fence = record.info.get(FENCE)
    if fence and error is None and not is_closed(record.driver_connection):
        fence.lets_go()  # by the handler's own call


@event.listens_for(Engine, "handle_error")
def _stamp(context: ExceptionContext) -> None:
    """Say on each error which connection's it is: a service may have more than one, and more than one database."""
    error, connection = context.sqlalchemy_exception, context.connection
    if error is not None:
        setattr(error, OF, connection)
        if connection is not None and not connection.closed and not connection.invalidated:
            if fence := connection.info.get(FENCE):
                fence.failed(error)
            if is_of_the_server(error):  # a new connection may find another one
                connection.info[SPOILT] = True
