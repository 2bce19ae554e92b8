"""Rows in bulk: the order of the ids, names of all kinds, defaults, one statement; and what a flush stores, of any type."""

from collections.abc import AsyncIterator, Sequence
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import event, select
from sqlalchemy.engine import URL

from db import projects
from db.inputs import NewProject
from db.models import Task
from ledgerq.audit import AuditLog
from ledgerq.database.engine import Database
from ledgerq.database.transaction import transaction
from ledgerq.errors import TooLong
from ledgerq.sessions import BulkUpdate, insert_returning_ids, insert_rows, lock_rows
from tests.bulk_shop import (
    METADATA,
    NOON,
    OF_POSTGRESQL,
    OF_TYPES,
    ONLY_POSTGRESQL,
    Animal,
    Cat,
    Copied,
    Filled,
    Labelled,
    Named,
    Pair,
    Size,
    Ticket,
    User,
    opened,
    stored,
)
from tests.support import ORIGIN


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


async def test_any_name_of_a_table_and_its_columns_is_quoted(shop: Database) -> None:
    """A row may name a column, or the attribute whose column has another name."""
    values = {"order": 1, "row_number": 2, "place": "here", "value_0": "x"}
    rows = [{**values, "of_day": "a"}, {**values, "of_day": "b"}]
    async with transaction(shop.sessions) as session:
        assert await insert_returning_ids(session, User, rows) == [1, 2]
        assert await insert_returning_ids(session, User, [{**values, "At:noon": "c"}]) == [3]
    found = await stored(shop, User)
    assert [each.model_dump(exclude={"id"}) for each in found[:2]] == rows
    assert found[2].of_day == "c"


async def test_ids_come_in_the_order_of_the_rows(shop: Database) -> None:
    """Not in their own order."""
    async with transaction(shop.sessions) as session:
        assert await insert_returning_ids(
            session, Pair, [{"id": 5, "n": 1}, {"id": 3, "n": 2}]
        ) == [5, 3]
        assert await insert_returning_ids(session, Pair, []) == []


@pytest.mark.parametrize("table", [Ticket, Labelled])
async def test_random_ids_come_in_the_order_of_the_rows(
    postgresql_shop: Database, table: type[Any]
) -> None:
    """Also if an array can't carry a column; and 2,000 of them."""
    rows = [{"n": n, **({"labels": [str(n)]} if table is Labelled else {})} for n in range(2_000)]
    async with transaction(postgresql_shop.sessions) as session:
        ids = await insert_returning_ids(session, table, rows)
        found = {each.id: each.n for each in await session.scalars(select(table))}
    assert [found[each] for each in ids] == list(range(2_000))


async def test_an_id_is_read_as_its_type_reads_it(shop: Database) -> None:
    """As the attribute of an object would be."""
    ids = [str(UUID(int=n)) for n in (2, 1)]
    async with transaction(shop.sessions) as session:
        found: list[Any] = await insert_returning_ids(session, Named, [{"id": n} for n in ids])
    assert found == ids


async def test_defaults_in_python_fill_the_columns_that_a_row_leaves_out(shop: Database) -> None:
    """A value, a function, a function of the row, and SQL. None in a row is NULL."""
    async with transaction(shop.sessions) as session:
        await insert_rows(session, Filled, [{"name": "a"}, {"name": "b"}])
        await insert_rows(session, Copied, [{"name": "a"}, {"name": "b"}])
        await insert_rows(session, Copied, [{"name": "c", "later": None}])
    one, other = await stored(shop, Filled)
    assert (one.amount, one.tags, one.size, one.seven) == (5, [], Size.LARGE, 7)
    assert one.token != other.token
    found = await stored(shop, Copied)
    assert [(each.copy_of, each.later) for each in found] == [("a", 7), ("b", 7), ("c", None)]


async def test_sqlalchemy_completes_the_rows_of_a_class(shop: Database) -> None:
    """With the class's name and the first version."""
    cat: Any = Cat
    async with transaction(shop.sessions) as session:
        await insert_rows(session, cat, [{"name": "Tom"}, {"name": "Tim"}])
    assert [(type(each), each.version) for each in await stored(shop, Animal)] == [(Cat, 1)] * 2


async def test_rows_without_columns_are_all_defaults(shop: Database) -> None:
    """As many as there are."""
    async with transaction(shop.sessions) as session:
        await insert_rows(session, OF_TYPES["short"][0], [{}, {}])
    assert len(await stored(shop, OF_TYPES["short"][0])) == 2


async def test_columns_of_plain_types_go_in_one_statement(database: Database) -> None:
    """Whatever the number of rows: enums, JSON, times and defaults in Python too."""
    async with transaction(database.sessions) as session:
        project = await projects.create(session, ORIGIN, NewProject(name="p"))
        sent = list[tuple[str, bool]]()
        event.listen(
            database.engine.sync_engine,
            "before_cursor_execute",
            lambda *given: sent.append((given[2], given[5])),
        )
        tasks = [{"title": "t", "project_id": project.id, "tags": ["a"], "due_at": NOON}] * 1_000
        await insert_returning_ids(session, Task, tasks)
        entry = {"entity_type": "t", "entity_id": "1", "action": "a", "actor": "x", "before": {}}
        await insert_rows(session, AuditLog, [{**entry, "after": {"a": 1}}] * 1_000)
    assert [(sql.split("(")[0], many) for sql, many in sent if sql.startswith("INSERT")] == [
        ("INSERT INTO task ", False),
        ("INSERT INTO ledgerq.audit_log ", False),
    ]


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
