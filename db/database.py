"""The database of the task manager, opened once for each process."""

from contextlib import AbstractAsyncContextManager

from db.schema import TABLES
from ledgerq import sessions
from ledgerq.sessions import Database, DatabaseConfig


def build_database(config: DatabaseConfig) -> Database:
    """Make the engine; no connection is opened yet. The caller must dispose it."""
    return sessions.build_database(config, TABLES)


def open_database(config: DatabaseConfig) -> AbstractAsyncContextManager[Database]:
    """A database whose connections are closed when the block ends."""
    return sessions.open_database(config, TABLES)
