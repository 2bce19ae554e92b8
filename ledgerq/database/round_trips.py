"""Sends one statement together with BEGIN, and some together with COMMIT, where each would cost a round trip of its own.

asyncpg does not pipeline. But one message of PostgreSQL's simple query protocol may hold several statements
(https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-MULTI-STATEMENT). They have no parameters, so
`written_out` puts the values into their text. On SQLite, which has no round trips, nothing is sent together.
"""

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from sqlalchemy import TextClause
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from ledgerq.database.fenced_connection import OPENING, FencedConnection
from ledgerq.database.session import LedgerqSession
from ledgerq.errors import Disconnected, Refused

_PARAMETER = re.compile(r"(?<!:):(\w+)")


async def begin_with(
    session: AsyncSession, statement: TextClause, values: Mapping[str, Any]
) -> int | None:
    """Begin the transaction together with this INSERT; answers with the number of rows that it wrote.

    None: nothing was done, since the transaction has begun, or nothing can be sent together with its BEGIN.
    """
    found = _connections(session)
    if found is None or found[1].is_in_transaction() or session.in_nested_transaction():
        return None
    connection, driver = found
    opening = {OPENING: written_out(statement, values)}
    try:
        written = (
            await connection.exec_driver_sql("-- BEGIN and a receipt", execution_options=opening)
        ).rowcount
    finally:
        driver.opening = driver.held = ""
    # a listener of the service may have done something else
    if written < 0 or not driver.is_in_transaction():
        await connection.invalidate()
        raise Disconnected
    return written


async def at_commit(
    session: AsyncSession, statement: TextClause, values: Mapping[str, Any]
) -> None:
    """Keep the statement, and send it together with the COMMIT of the session's transaction; on SQLite run it now.

    If it is kept, its failure is a failure of the commit, and a rollback of the transaction forgets it; a rollback to a
    savepoint does not. A server logs the text of statements that fail: no value may be a secret.
    """
    if found := _connections(session):
        found[1].closing += (written_out(statement, values),)
    else:
        await session.execute(statement, values)


def written_out(statement: TextClause, values: Mapping[str, Any]) -> str:
    """The statement's SQL with the values in place of its parameters."""
    first, *rest = _parts(statement.text)
    return first + "".join(
        literal(values[name]) + text for name, text in zip(rest[::2], rest[1::2], strict=True)
    )


@lru_cache(maxsize=64)
def _parts(sql: str) -> list[str]:
    """What stands before the first parameter, and for each parameter its name and what stands behind it."""
    return _PARAMETER.split(sql)


def literal(value: str | bytes | int | None) -> str:
    """The value as a constant of PostgreSQL's SQL, whatever `standard_conforming_strings` says.

    https://www.postgresql.org/docs/current/sql-syntax-lexical.html#SQL-SYNTAX-STRINGS-ESCAPE

    Raises:
        Refused: the value has a NUL, at which the server would take the message to end.
    """
    if value is None:
        return "NULL"
    if isinstance(value, bytes):
        return rf"E'\\x{value.hex()}'"
    if isinstance(value, int):
        return str(int(value))
    if "\0" in value:
        raise Refused("a value", "must have no NUL")
    text = str(value).replace("\\", "\\\\").replace("'", "''")
    return f"E'{text}'"


def _connections(session: AsyncSession) -> tuple[AsyncConnection, FencedConnection] | None:
    """The transaction's connection, and asyncpg's under it; None if there is none that takes more."""
    # behind a fence, to ask for the driver's connection is to borrow it
    if not isinstance(session, LedgerqSession) or getattr(session.sync_session, "fence", None):
        return None
    opened = session.opened
    sync = opened.sync_connection if opened else None
    if opened is None or sync is None or sync.closed or sync.invalidated:
        return None
    driver = sync.connection.driver_connection
    return (opened, driver) if isinstance(driver, FencedConnection) else None
