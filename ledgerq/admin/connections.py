"""Connections for commands: a checked database, and Redis, closed when the block ends."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from arq.connections import ArqRedis

from ledgerq.broker.connection import connect
from ledgerq.config import Config
from ledgerq.database.engine import Sessions, Tables, open_database
from ledgerq.database.settings import DatabaseConfig
from ledgerq.store.schema import require_current


@asynccontextmanager
async def open_current_database(config: DatabaseConfig, tables: Tables) -> AsyncIterator[Sessions]:
    """Sessions on the database, after a check that it answers and that its schema is current.

    Raises:
        Unreachable: the database does not answer.
        SchemaBehind, SchemaAhead: the database's schema is too old or too new for this code.
    """
    async with open_database(config, tables) as database:
        await database.ping()
        await require_current(database)
        yield database.sessions


@asynccontextmanager
async def open_redis_and_database(
    config: Config, tables: Tables
) -> AsyncIterator[tuple[ArqRedis, Sessions]]:
    """A client of Redis, unchecked, and sessions on the database, which was checked as by `open_current_database`."""
    redis = connect(config.worker)
    try:
        async with open_current_database(config.database, tables) as sessions:
            yield redis, sessions
    finally:
        await redis.aclose(close_connection_pool=True)
