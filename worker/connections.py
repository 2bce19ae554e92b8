"""For commands: Redis and a database that answers and is current, open for the length of a block."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from arq.connections import ArqRedis

from db.config import DatabaseConfig
from db.engine import Sessions, open_database
from db.schema import require_current
from worker.config import Config
from worker.connection import connect


@asynccontextmanager
async def open_current_database(config: DatabaseConfig) -> AsyncIterator[Sessions]:
    """Sessions of the database.

    Raises:
        Unreachable: it does not answer.
        SchemaBehind, SchemaAhead: its schema is not the one this code was written for.
    """
    async with open_database(config) as database:
        await database.ping()
        await require_current(database)
        yield database.sessions


@asynccontextmanager
async def open_redis_and_database(config: Config) -> AsyncIterator[tuple[ArqRedis, Sessions]]:
    """The same, and Redis, which need not answer."""
    redis = connect(config.worker)
    try:
        async with open_current_database(config.database) as sessions:
            yield redis, sessions
    finally:
        await redis.aclose(close_connection_pool=True)
