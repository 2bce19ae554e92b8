"""For migrations: indexes on tables in use, and one migration at a time however many deploys start it."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from alembic import op
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

_LOCK = 0x6C65646765727121  # "ledgerq!": pg_advisory_lock takes a 64-bit number
_PATIENCE = 0.2  # seconds between two looks at the lock


def create_index_concurrently(
    name: str, table: str, columns: Sequence[str], **options: Any
) -> None:
    """Build an index without keeping writers out; one left invalid by a failed try is replaced.

    It can't run in a transaction: what the migration did before is committed first.
    """
    if op.get_context().dialect.name != "postgresql":
        op.create_index(name, table, list(columns), **options)
        return
    with op.get_context().autocommit_block():
        op.execute("SET lock_timeout = 0")  # it waits for running transactions, without a lock
        op.drop_index(name, table, if_exists=True, postgresql_concurrently=True)
        op.create_index(name, table, list(columns), postgresql_concurrently=True, **options)
        op.execute("RESET lock_timeout")


def drop_index_concurrently(name: str, table: str) -> None:
    """Drop an index without keeping writers out."""
    if op.get_context().dialect.name != "postgresql":
        op.drop_index(name, table)
        return
    with op.get_context().autocommit_block():
        op.drop_index(name, table, if_exists=True, postgresql_concurrently=True)


@asynccontextmanager
async def one_at_a_time(engine: AsyncEngine) -> AsyncIterator[None]:
    """Of several deploys that migrate at once, one goes first; the others wait here and find it done.

    The lock is asked for again and again instead of waited for: who waits in the database holds a
    snapshot, and CREATE INDEX CONCURRENTLY in the one that goes first would wait for that. It is
    the session's, so a deploy that is killed lets go of it. On SQLite
    the transaction itself is the lock: it begins as a writer.
    """
    if engine.dialect.name != "postgresql":
        yield
        return
    async with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        while not await connection.scalar(  # noqa: ASYNC110 - another process holds it
            text("SELECT pg_try_advisory_lock(:key)"), {"key": _LOCK}
        ):
            await asyncio.sleep(_PATIENCE)
        yield
