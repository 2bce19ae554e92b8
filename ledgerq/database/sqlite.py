"""SQLite taught what we take for granted: foreign keys, readers beside one writer, our own BEGIN."""

import asyncio
from contextlib import suppress
from typing import Any

from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine

WRITES = "ledgerq_writes"  # execution option of a connection whose transaction will write


def teach_sqlite(engine: AsyncEngine) -> None:
    """Set each connection up, and begin its transactions as what follows needs it."""
    event.listen(engine.sync_engine, "connect", _configure)
    event.listen(engine.sync_engine, "begin", _begin)
    event.listen(engine.sync_engine, "invalidate", _roll_back)


def _configure(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # or the driver begins, later than we think
    cursor = connection.cursor()
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.close()


def _begin(connection: Any) -> None:
    """A reader that turns writer fails at once if another one writes; one that says so first waits."""
    writes = connection.get_execution_options().get(WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _roll_back(connection: Any, _record: Any, _error: BaseException | None) -> None:
    """A cancelled statement may live on in its cursor, and with it the write lock, though closed.

    The connection's own thread takes this rollback before the close that follows.
    """
    with suppress(RuntimeError):  # no loop, no cancellation
        task = asyncio.get_running_loop().create_task(connection.driver_connection.rollback())
        _pending.add(task)
        task.add_done_callback(_pending.discard)


_pending: set[asyncio.Task[None]] = set()  # the loop itself does not hold its tasks
