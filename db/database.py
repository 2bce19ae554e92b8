"""The database of the task manager, opened once for each process."""

from contextlib import AbstractAsyncContextManager

from db.schema import TABLES
from ledgerq import sessions
from ledgerq.sessions import Database, DatabaseConfig


def build_database(config: DatabaseConfig) -> Database:
    """Make the engine; no connection is opened yet. Who builds it disposes it."""
    return sessions.build_database(config, TABLES)


def open_database(config: DatabaseConfig) -> AbstractAsyncContextManager[Database]:
    """A database for the length of the block."""
    return sessions.open_database(config, TABLES)
