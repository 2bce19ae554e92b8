"""Rows that go to the database in bulk hold what a flush stores, whatever the types of their columns."""

from collections.abc import AsyncIterator, Sequence
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy.engine import URL

from ledgerq.database.engine import Database
from ledgerq.database.transaction import transaction
from ledgerq.errors import TooLong
from ledgerq.sessions import insert_rows
from tests.bulk_shop import METADATA, NOON, OF_POSTGRESQL, OF_TYPES, ONLY_POSTGRESQL, opened, stored


@pytest.fixture
async def shop(any_url: URL) -> AsyncIterator[Database]:
    """The tables that both databases have."""
    async with opened(any_url, METADATA) as database:
        yield database


@pytest.fixture
async def postgresql_shop(postgresql_url: URL) -> AsyncIterator[Database]:
    """The tables with types or defaults that only PostgreSQL has, too."""
    async with opened(postgresql_url, METADATA, ONLY_POSTGRESQL) as database:
        yield database


async def as_a_flush_stores(
    database: Database, table: type[Any], values: Sequence[Any]
) -> tuple[list[Any], list[Any]]:
    """What the database has of the values after `insert_rows`, and after a flush of objects."""
    async with transaction(database.sessions) as session:
        await insert_rows(session, table, [{"value": each} for each in values])
    async with transaction(database.sessions) as session:
        for each in values:
            session.add(table(value=each))
            await session.flush()
    found, read = await stored(database, table, raw=True), await stored(database, table)
    half = len(values)
    assert [e.value for e in read[:half]] == [e.value for e in read[half:]]
    return found[:half], found[half:]


@pytest.mark.parametrize("name", OF_TYPES)
async def test_a_value_is_stored_as_a_flush_stores_it(shop: Database, name: str) -> None:
    """The type of the column prepares the value: an encrypted column never holds clear text."""
    inserted, flushed = await as_a_flush_stores(shop, *OF_TYPES[name])
    assert inserted == flushed


@pytest.mark.parametrize("name", OF_POSTGRESQL)
async def test_a_value_of_postgresql_is_stored_as_a_flush_stores_it(
    postgresql_shop: Database, name: str
) -> None:
    """Also where an array can't carry the values."""
    inserted, flushed = await as_a_flush_stores(postgresql_shop, *OF_POSTGRESQL[name])
    assert inserted == flushed


async def test_what_the_type_refuses_is_not_cut_to_fit(postgresql_shop: Database) -> None:
    """PostgreSQL would cut a text that is cast to VARCHAR(3)."""
    for name in ("short", "fixed"):
        with pytest.raises(TooLong):
            async with transaction(postgresql_shop.sessions) as session:
                await insert_rows(session, OF_TYPES[name][0], [{"value": "abcdef"}])


async def test_json_takes_what_pydantic_can_write(shop: Database) -> None:
    """On both databases, as in the entries of the audit log."""
    table, _ = OF_TYPES["json"]
    async with transaction(shop.sessions) as session:
        await insert_rows(session, table, [{"value": {"at": NOON, "of": Decimal("1.5")}}])
    [row] = await stored(shop, table)
    assert row.value == {"at": "2026-03-04T12:00:00Z", "of": "1.5"}
