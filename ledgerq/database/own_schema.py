"""The schema of ledgerq's tables: on PostgreSQL their own, `ledgerq` unless set otherwise; on SQLite the only one.

ledgerq's statements name the schema `ledgerq`. If the tables stand elsewhere, the engine carries a
`schema_translate_map`: `{"ledgerq": None}` on SQLite, `{"ledgerq": "other"}` for another schema. On PostgreSQL
with the schema `ledgerq` there is no map, and nothing is translated.
"""

import re
from collections.abc import Mapping
from typing import Any

from sqlalchemy import BindParameter, TextClause, text
from sqlalchemy.dialects.postgresql import asyncpg
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from ledgerq.errors import SettingError

SCHEMA = "ledgerq"
_MAP = "schema_translate_map"
_IDENTIFIER = re.compile(r"[a-z_][a-z0-9_]{0,62}")
_OTHERS = {"public", "information_schema"}
_WORD = re.compile(rf"\b{SCHEMA}\b")
_CHANNEL = "ledgerq_outbox"
_MAX_NAME = 63  # bytes of a name in PostgreSQL
_PREPARER = asyncpg.dialect().identifier_preparer  # type: ignore[no-untyped-call]


def checked_schema(schema: Any, setting: str = "App(schema=)") -> str:
    """Check the name of the schema for ledgerq's tables; returns the name.

    Raises:
        SettingError: the name is no plain identifier, or it is `public` or a schema of PostgreSQL's own; names `setting`.
    """
    if not isinstance(schema, str):
        problem = "is no text"
    elif schema in _OTHERS:  # a downgrade to 0 drops the schema
        raise SettingError(
            setting, f"{schema!r} holds what is not ledgerq's", "name a schema of ledgerq's own"
        )
    elif not _IDENTIFIER.fullmatch(schema):
        problem = f"{schema!r} is no plain identifier"
    elif schema.startswith("pg_"):
        problem = f"{schema!r} begins with pg_, as PostgreSQL's own schemas do"
    else:
        return schema
    cure = "use 1 to 63 of the characters a-z, 0-9 and _, not a digit first"
    raise SettingError(setting, problem, cure)


def schema_options(*, on_sqlite: bool, schema: str = SCHEMA) -> dict[str, Any]:
    """Execution options with which an engine finds ledgerq's tables; empty on PostgreSQL for the schema `ledgerq`.

    If a service builds its own engine, and uses ledgerq's tables on SQLite or in another schema, it passes these
    options as the engine's `execution_options`.
    """
    if on_sqlite:
        return {_MAP: {SCHEMA: None}}
    return {} if schema == SCHEMA else {_MAP: {SCHEMA: schema}}


def translated_schema(session: AsyncSession | Session, schema: str | None = SCHEMA) -> str | None:
    """The schema to which the session's engine translates this one. None, given or returned, is the connection's default."""
    bind = session.get_bind()
    translation: Mapping[str | None, str | None] = bind.get_execution_options().get(_MAP) or {}
    if schema in translation:
        return translation[schema]
    return None if schema == SCHEMA and bind.dialect.name == "sqlite" else schema


async def reach_our_tables(session: AsyncSession) -> None:
    """On SQLite, let the session's statements find ledgerq's tables even if the service built the engine itself.

    The schema map is then set on the transaction's connection. Otherwise this does nothing.
    """
    bind = session.get_bind()
    if bind.dialect.name != "sqlite" or SCHEMA in (bind.get_execution_options().get(_MAP) or {}):
        return
    connection = (await session.connection()).sync_connection
    assert connection is not None  # noqa: S101 - it has begun
    theirs = connection.get_execution_options().get(_MAP) or {}
    if SCHEMA not in theirs:
        connection.execution_options(schema_translate_map={**theirs, SCHEMA: None})


class OurSql:
    """SQL text that names its tables `ledgerq.…`. `on` replaces `ledgerq` by the schema in use, and caches what it made."""

    def __init__(self, sql: str, *types: BindParameter[Any]) -> None:
        self._sql, self._types = sql, types
        self._made: dict[str | None, TextClause] = {}

    def on(self, session: AsyncSession) -> TextClause:
        """The statement for the session's engine."""
        schema = translated_schema(session)
        made = self._made.get(schema)
        if made is None:
            sql = self._sql.replace(f"{SCHEMA}.", f"{quoted(schema)}." if schema else "")
            made = self._made[schema] = text(sql).bindparams(*self._types)
        return made


def in_schema(sql: str, schema: str) -> str:
    """SQL that is written for the schema `ledgerq`, changed for another schema. Only for PostgreSQL."""
    if schema == SCHEMA:
        return sql
    renamed = _WORD.sub(lambda _: quoted(schema), sql)
    return renamed.replace(f"'{_CHANNEL}'", f"'{channel_of(schema)}'")


def channel_of(schema: str) -> str:
    """The NOTIFY channel on which the outbox's trigger announces staged jobs, for this schema."""
    return _CHANNEL if schema == SCHEMA else f"{_CHANNEL}_{schema}"[:_MAX_NAME]


def quoted(name: str) -> str:
    """The name for use in PostgreSQL's SQL, in quotes if it needs them."""
    return str(_PREPARER.quote(name))
