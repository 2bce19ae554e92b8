"""For commands: Redis and a database that answers and is current, open for the length of a block."""

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
    """Sessions of the database.

    Raises:
        Unreachable: it does not answer.
        SchemaBehind, SchemaAhead: its schema is not the one this code was written for.
    """
    async with open_database(config, tables) as database:
        await database.ping()
        await require_current(database)
        yield database.sessions


@asynccontextmanager
async def open_redis_and_database(
    config: Config, tables: Tables
) -> AsyncIterator[tuple[ArqRedis, Sessions]]:
    """The same, and Redis, which need not answer."""
    redis = connect(config.worker)
    try:
        async with open_current_database(config.database, tables) as sessions:
            yield redis, sessions
    finally:
        await redis.aclose(close_connection_pool=True)
