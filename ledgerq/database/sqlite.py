"""Sets SQLite up as ledgerq needs it: with foreign keys, readers beside one writer, and an explicit BEGIN."""

import asyncio
from contextlib import suppress
from typing import Any

from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine

WRITES = "ledgerq_writes"  # execution option of a connection whose transaction will write


def teach_sqlite(engine: AsyncEngine) -> None:
    """Configure each connection of the engine, and begin transactions that write with BEGIN IMMEDIATE."""
    event.listen(engine.sync_engine, "connect", _configure)
    event.listen(engine.sync_engine, "begin", _begin)
    event.listen(engine.sync_engine, "invalidate", _roll_back)


def _configure(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # else the driver itself sends BEGIN, at a later moment
    cursor = connection.cursor()
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.close()


def _begin(connection: Any) -> None:
    """Begin a writing transaction as a writer: so it waits for another one, while a reader that writes would fail."""
    writes = connection.get_execution_options().get(WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _roll_back(connection: Any, _record: Any, _error: BaseException | None) -> None:
    """Roll back before the close: a cancelled statement's cursor may keep the write lock of a closed connection.

    The connection's own thread runs this rollback before the close that follows.
    """
    with suppress(RuntimeError):  # without an event loop nothing was cancelled
        task = asyncio.get_running_loop().create_task(connection.driver_connection.rollback())
        _pending.add(task)
        task.add_done_callback(_pending.discard)


_pending: set[asyncio.Task[None]] = set()  # keeps the tasks alive: the loop does not
