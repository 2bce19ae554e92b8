"""A trigger audits a table right whatever names its columns have: its function looks no name up as a column by chance."""

import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy import select, text
from sqlalchemy.engine import URL
from sqlmodel import col

from ledgerq.admin.audit import attach, run
from ledgerq.audit import AuditLog
from ledgerq.database.engine import Database
from ledgerq.store import audit_trigger
from tests.audited_shop import opened_shop

# every alias, variable, argument and function of the trigger's source is one of its words
SOURCE = audit_trigger._FUNCTIONS.read_text()
WORDS = sorted({word.lower() for word in re.findall(r"[A-Za-z_]+", SOURCE)} - {"id", "pin"})


@pytest.fixture
async def shop(postgresql_url: URL) -> AsyncIterator[Database]:
    async with opened_shop(postgresql_url, ()) as database:
        yield database


async def run_sql(shop: Database, *statements: str) -> None:
    async with shop.engine.begin() as connection:
        for statement in statements:
            await connection.execute(text(statement))


async def told(shop: Database) -> list[tuple[Any, ...]]:
    async with shop.sessions() as session:
        found = (await session.scalars(select(AuditLog).order_by(col(AuditLog.id)))).all()
    return [(e.entity_id, e.action, e.before, e.after) for e in found]


async def test_no_column_name_collides_with_a_name_of_the_trigger(shop: Database) -> None:
    """Columns named like every word of the function leave whole entries of each verb, and what is masked stays masked."""
    assert {"r", "keys", "excluded", "held", "author", "to_jsonb", "new_rows"} <= set(WORDS)
    columns = ", ".join(f"\"{word}\" text DEFAULT 'a'" for word in WORDS)
    await run_sql(shop, f"CREATE TABLE odd (id int PRIMARY KEY, pin text, {columns})")
    await run(shop, await attach(shop, "odd", mask=["pin", "keys"], exclude=["excluded"]))
    changed = ", ".join(f"\"{word}\" = 'b'" for word in WORDS)
    await run_sql(
        shop,
        "INSERT INTO odd (id, pin) VALUES (1, '4321')",
        f"UPDATE odd SET {changed}",  # noqa: S608 - names of this file
        "DELETE FROM odd",
    )
    first, last = ({word: value for word in WORDS if word != "excluded"} for value in "ab")
    for each in (first, last):
        each["keys"] = "***"
    fixed = {"id": 1, "pin": "***"}
    assert await told(shop) == [
        ("1", "create", {}, {**fixed, **first}),
        ("1", "update", first, last),
        ("1", "delete", {**fixed, **last}, {}),
    ]


async def test_a_row_that_is_one_document_named_as_an_alias_is_masked(shop: Database) -> None:
    """A JSON column `r` is a column of the row, not the row: no key and no secret of the row is looked up in it."""
    await run_sql(shop, "CREATE TABLE fit (id int PRIMARY KEY, r jsonb, pin text)")
    await run(shop, await attach(shop, "fit", mask=["r", "pin"]))
    await run_sql(
        shop,
        """INSERT INTO fit VALUES (1, '{"card": "4000"}', '1')""",
        "UPDATE fit SET pin = '2'",
        "DELETE FROM fit",
    )
    held = {"id": 1, "r": "***", "pin": "***"}
    assert await told(shop) == [
        ("1", "create", {}, held),
        ("1", "update", {"pin": "***"}, {"pin": "***"}),
        ("1", "delete", held, {}),
    ]
