"""Rows that go to the database in bulk hold what a flush stores, whatever the types of their columns."""

from collections.abc import AsyncIterator, Sequence
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy.engine import URL

from ledgerq.database.engine import Database
from ledgerq.database.transaction import transaction
from ledgerq.errors import TooLong
from ledgerq.sessions import BulkUpdate, insert_rows, lock_rows
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


async def require_as_flushed(database: Database, table: type[Any], values: Sequence[Any]) -> None:
    """Store the values by `insert_rows`, by `BulkUpdate` and by a flush, and compare what the database has."""
    async with transaction(database.sessions) as session:
        await insert_rows(session, table, [{"value": each} for each in values])
        for each in values:
            session.add(table(value=values[0]) if each is None else table())
            await session.flush()
        for each in values:
            session.add(table(value=each))
            await session.flush()
    many = len(values)
    async with transaction(database.sessions) as session:
        updated = await lock_rows(session, table, range(many + 1, 2 * many + 1))
        async with BulkUpdate(session) as updates:
            for row, value in zip(updated.values(), values, strict=True):
                row.value = value
                updates.add(row)
    for found in (
        await stored(database, table, raw=True),
        [each.value for each in await stored(database, table)],
    ):
        assert found[:many] == found[many : 2 * many] == found[2 * many :]


@pytest.mark.parametrize("name", OF_TYPES)
async def test_a_value_is_stored_as_a_flush_stores_it(shop: Database, name: str) -> None:
    """The type of the column prepares the value: an encrypted column never holds clear text."""
    await require_as_flushed(shop, *OF_TYPES[name])


@pytest.mark.parametrize("name", OF_POSTGRESQL)
async def test_a_value_of_postgresql_is_stored_as_a_flush_stores_it(
    postgresql_shop: Database, name: str
) -> None:
    """Also where an array can't carry the values."""
    await require_as_flushed(postgresql_shop, *OF_POSTGRESQL[name])


@pytest.mark.parametrize("name", ["short", "fixed", "secret"])
async def test_a_text_that_is_too_long_is_refused_and_not_cut(
    postgresql_shop: Database, name: str
) -> None:
    """PostgreSQL cuts a text that is cast to VARCHAR(3)."""
    table, _ = OF_TYPES[name]
    with pytest.raises(TooLong):
        async with transaction(postgresql_shop.sessions) as session:
            await insert_rows(session, table, [{"value": "abcdef" * 8}])
    async with transaction(postgresql_shop.sessions) as session:
        await insert_rows(session, table, [{"value": "abc"}])
    with pytest.raises(TooLong):
        async with transaction(postgresql_shop.sessions) as session:
            [row] = (await lock_rows(session, table, [1, 2])).values()
            async with BulkUpdate(session) as updates:
                row.value = "abcdef" * 8
                updates.add(row)
    [row] = await stored(postgresql_shop, table)
    assert row.value == "abc"


async def test_json_takes_what_pydantic_can_write(shop: Database) -> None:
    """On both databases, as in the entries of the audit log."""
    table, _ = OF_TYPES["json"]
    async with transaction(shop.sessions) as session:
        await insert_rows(session, table, [{"value": {"at": NOON, "of": Decimal("1.5")}}])
    [row] = await stored(shop, table)
    assert row.value == {"at": "2026-03-04T12:00:00Z", "of": "1.5"}
