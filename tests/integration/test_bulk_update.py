"""`lock_rows` and `BulkUpdate`, on the tables of a service that is not the task manager."""

from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import ARRAY, ForeignKey, Text, event, func, select
from sqlalchemy.engine import URL
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.orm.exc import StaleDataError
from sqlmodel import col

from ledgerq.admin.audit import attach
from ledgerq.admin.audit import run as run_statements
from ledgerq.audit import Audited, AuditLog, Origin, acting_as
from ledgerq.database.engine import Database
from ledgerq.database.transaction import transaction
from ledgerq.errors import MissingReference, NotAudited, Refused
from ledgerq.execution.outcome import Completed
from ledgerq.execution.process import process
from ledgerq.execution.registry import Registry
from ledgerq.execution.retry import Policy
from ledgerq.job import JobContext, Kind
from ledgerq.sessions import BulkUpdate, lock_rows
from ledgerq.wire.payload import Payload
from tests.audited_shop import Card, Clerk, Order, Parcel, Stock, Visit, opened_shop
from tests.support import delivery

ADA, BOB = Origin("user:ada", job_id="job-1"), Origin("user:bob", job_id="job-2")
IDS = [UUID(int=n) for n in range(3)]


@pytest.fixture
async def shop(any_url: URL) -> AsyncIterator[Database]:
    async with opened_shop(any_url) as database:
        await furnish(database)
        yield database


async def furnish(database: Database) -> None:
    async with transaction(database.sessions) as session, acting_as(session, Origin("setup")):
        session.add_all(Order(id=each, lines=[1], details={"a": 1}, note="n") for each in IDS)
        session.add_all(Stock(region="EU", sku=n, amount=n) for n in range(3))
        session.add_all([Card(id=1, number="4711"), Visit(id=1, page="/"), Clerk(id=1, name="C")])


async def entries(database: Database) -> list[tuple[Any, ...]]:
    async with database.sessions() as session:
        found = await session.scalars(select(AuditLog).order_by(col(AuditLog.id)))
        kept = [e for e in found if e.actor != "setup"]
    return [(e.actor, e.job_id, e.entity_id, e.action, e.before, e.after) for e in kept]


async def held(database: Database, table: type[Any]) -> Sequence[Any]:
    async with database.sessions() as session:
        return (await session.scalars(select(table))).unique().all()


def change(order: Order) -> None:
    """All types of column, some in place."""
    order.status, order.total = "closed", order.total + Decimal("2.50")
    order.lines.append({"sku": 1})
    order.details = {"b": [1, None]}
    order.placed_at = datetime(2026, 1, 2, tzinfo=UTC)
    order.receipt, order.note = b"\x00x", None


async def test_any_number_of_composite_keys_is_one_statement(shop: Database) -> None:
    """A list of so many pairs would be too deep for PostgreSQL's parser."""
    asked = [("EU", number) for number in range(20_000)]
    if shop.config.is_sqlite:
        asked = asked[:10_000]
    async with transaction(shop.sessions) as session:
        assert sorted(await lock_rows(session, Stock, asked)) == [("EU", 0), ("EU", 1), ("EU", 2)]


async def test_rows_and_entries_are_those_of_the_flush(shop: Database) -> None:
    """One order is changed by the session, the others in bulk."""
    async with transaction(shop.sessions) as session, acting_as(session, ADA):
        change(await session.get_one(Order, IDS[0]))
    async with transaction(shop.sessions) as session:
        orders = await lock_rows(session, Order, IDS[1:])
        async with BulkUpdate(session) as updates:
            for each in orders.values():
                change(each)
                updates.add(each, ADA)
        assert not session.dirty
    flushed, *bulk = [(e[:2], e[3:]) for e in await entries(shop)]
    assert bulk == [flushed, flushed]
    first, *others = sorted(await held(shop, Order), key=lambda order: order.id)
    columns = ("status", "total", "lines", "details", "placed_at", "receipt")
    assert {
        len(others),
        *(getattr(o, c) == getattr(first, c) for c in columns for o in others),
    } == {2, True}


async def test_each_add_is_an_entry_of_its_author(shop: Database) -> None:
    """Also of one row; composite keys, too. The database has the last values."""
    async with transaction(shop.sessions) as session:
        stocks = await lock_rows(session, Stock, [("EU", 2), ("EU", 1), ("EU", 9), ("EU", 1)])
        assert list(stocks) == [("EU", 1), ("EU", 2)]
        async with BulkUpdate(session) as updates:
            for origin in (ADA, BOB):
                for stock in stocks.values():
                    stock.amount += 10
                    updates.add(stock, origin)
                    updates.add(stock, origin)  # nothing has changed since
        assert stocks["EU", 1].amount == 21
    assert await entries(shop) == [
        ("user:ada", "job-1", "EU,1", "update", {"amount": 1}, {"amount": 11}),
        ("user:ada", "job-1", "EU,2", "update", {"amount": 2}, {"amount": 12}),
        ("user:bob", "job-2", "EU,1", "update", {"amount": 11}, {"amount": 21}),
        ("user:bob", "job-2", "EU,2", "update", {"amount": 12}, {"amount": 22}),
    ]
    assert {(s.sku, s.amount) for s in await held(shop, Stock)} == {(0, 0), (1, 21), (2, 22)}


async def test_masks_hold_and_others_leave_no_entry(shop: Database) -> None:
    """A class that is not audited needs no author."""
    async with transaction(shop.sessions) as session:
        [card] = (await lock_rows(session, Card, [1])).values()
        [visit] = (await lock_rows(session, Visit, [1, 2])).values()
        async with BulkUpdate(session) as updates:
            card.number, visit.page = "4712", "/new"
            updates.add(card, ADA)
            updates.add(visit)
    [entry] = await entries(shop)
    assert entry[4:] == ({"number": "***"}, {"number": "***"})
    assert [visit.page for visit in await held(shop, Visit)] == ["/new"]


async def test_what_only_a_flush_can_write_is_refused(shop: Database) -> None:
    """An unknown author, a key, an expression, a relationship, a row of two tables: and nothing is written."""
    async with transaction(shop.sessions) as session, acting_as(session, ADA):
        session.add(Parcel(id=1, order_id=IDS[0]))
    with pytest.raises(NotAudited, match="nobody has said"):
        await changed(shop, Stock, ("EU", 1), amount=5)
    for table, key, values, field in (
        (Stock, ("EU", 1), {"sku": 7}, "sku"),
        (Visit, 1, {"page": func.lower("X")}, "page"),
        (Parcel, 1, {"order": Order()}, "order"),
        (Clerk, 1, {"desk": "7"}, "Clerk"),
    ):
        with pytest.raises(Refused, match=f"{field}: only a flush"):
            await changed(shop, table, key, ADA, **values)
    assert {(s.sku, s.amount) for s in await held(shop, Stock)} == {(0, 0), (1, 1), (2, 2)}


async def changed(
    shop: Database, table: type[Any], key: Any, origin: Origin | None = None, **values: Any
) -> None:
    async with transaction(shop.sessions) as session:
        with session.no_autoflush:
            row = (await lock_rows(session, table, [key]))[key]
            async with BulkUpdate(session) as updates:
                for field, value in values.items():
                    setattr(row, field, value)
                updates.add(row, origin)


async def test_a_refused_row_names_its_constraint(shop: Database) -> None:
    """As by a flush, and no row is changed; neither is one that is gone."""
    async with transaction(shop.sessions) as session, acting_as(session, ADA):
        session.add_all(Parcel(id=n, order_id=IDS[n]) for n in (0, 1))
    with pytest.raises(MissingReference) as caught:
        await changed(shop, Parcel, 1, ADA, order_id=UUID(int=99))
    # PostgreSQL has named this constraint itself, so that it can't be found in the metadata
    named = (caught.value.fields, caught.value.constraint)
    assert named[0] == ("order_id",) or named == ((), "shop_parcel_order_id_fkey")
    assert str(UUID(int=99)) not in str(caught.value)
    with pytest.raises(StaleDataError):
        async with transaction(shop.sessions) as session:
            visit = await session.get_one(Visit, 1)
            async with BulkUpdate(session) as updates:
                visit.page = "/late"
                updates.add(visit)
                connection = await session.connection()
                await connection.exec_driver_sql("DELETE FROM shop_visit")


async def test_a_block_that_raises_writes_nothing(shop: Database) -> None:
    """Although its transaction commits."""
    async with transaction(shop.sessions) as session:
        [visit] = (await lock_rows(session, Visit, [1])).values()
        with pytest.raises(ZeroDivisionError):
            async with BulkUpdate(session) as updates:
                visit.page = "/new"
                updates.add(visit)
                raise ZeroDivisionError
    assert [visit.page for visit in await held(shop, Visit)] == ["/"]


async def test_no_change_is_lost_in_a_block(shop: Database) -> None:
    """A lock would read old values, a flush writes newer ones: both are refused. What a failed block took counts as unwritten."""
    async with transaction(shop.sessions) as session, acting_as(session, ADA):
        [visit] = (await lock_rows(session, Visit, [1])).values()
        with pytest.raises(Refused, match="lock the rows before the BulkUpdate block"):
            async with BulkUpdate(session) as updates:
                visit.page = "b"
                updates.add(visit)
                await lock_rows(session, Visit, [1])
        await session.refresh(visit)
        with pytest.raises(Refused, match="page: was changed and flushed after its `add`"):
            async with BulkUpdate(session) as updates:
                visit.page = "c"
                updates.add(visit)
                visit.page = "d"
                await session.flush()
        with pytest.raises(RuntimeError):
            async with BulkUpdate(session) as updates:
                visit.page = "e"
                updates.add(visit)
                raise RuntimeError
        await session.refresh(visit)
        assert visit.page == "d"
        visit.page = "e"
    assert [each.page for each in await held(shop, Visit)] == ["e"]


async def test_triggers_write_the_entries_of_each_author(postgresql_url: URL) -> None:
    """On PostgreSQL, with `by_trigger`: the flush's and ours do not double them."""
    audited = (Audited(Stock, by_trigger=True),)
    async with opened_shop(postgresql_url, audited) as shop:
        await furnish(shop)
        await run_statements(shop, await attach(shop, "shop_stock"))
        async with transaction(shop.sessions) as session:
            stocks = await lock_rows(session, Stock, [("EU", 1), ("EU", 2)])
            async with BulkUpdate(session) as updates:
                for origin, sku in ((ADA, 1), (BOB, 2), (BOB, 1)):
                    stocks["EU", sku].amount += 10
                    updates.add(stocks["EU", sku], origin)
        assert await entries(shop) == [
            ("user:ada", "job-1", "EU,1", "update", {"amount": 1}, {"amount": 11}),
            ("user:bob", "job-2", "EU,2", "update", {"amount": 2}, {"amount": 12}),
            ("user:bob", "job-2", "EU,1", "update", {"amount": 11}, {"amount": 21}),
        ]


class Refill(Payload[int], kind="refill"):
    sku: int


@pytest.mark.parametrize("shares", [True, False])
async def test_in_a_handler_of_one_job_the_author_is_the_job(shop: Database, shares: bool) -> None:
    """Also where jobs share a commit, which they go on to do."""

    async def handle(context: JobContext, refill: Refill) -> int:
        stocks = await lock_rows(context.session, Stock, [("EU", refill.sku)])
        async with BulkUpdate(context.session) as updates:
            for stock in stocks.values():
                stock.amount += 10
                updates.add(stock)
        return len(stocks)

    registry = Registry([kind := Kind(Refill, handle, shares_commit=shares)])
    arrived = [delivery(Refill(sku=sku), f"refill-{n}") for n, sku in enumerate((1, 2, 1))]
    outcomes = await process(arrived, registry, shop.sessions, Policy())
    assert outcomes == [Completed(1)] * 3
    assert registry.shares_commits(kind) is shares
    assert [(e[1], e[2], e[5]["amount"]) for e in await entries(shop)] == [
        ("refill-0", "EU,1", 11),
        ("refill-1", "EU,2", 12),
        ("refill-2", "EU,1", 21),
    ]


class Base(DeclarativeBase):
    """The parent of a table with columns that arrays can't hold, or that an UPDATE fills."""


class Shelf(Base):
    __tablename__ = "shop_shelf"
    id: Mapped[int] = mapped_column(primary_key=True)
    above: Mapped[int | None] = mapped_column(ForeignKey("shop_shelf.id"))
    labels: Mapped[list[str]] = mapped_column(ARRAY(Text))
    changes: Mapped[int] = mapped_column(default=0, onupdate=lambda: 7)
    changed_at: Mapped[datetime | None] = mapped_column(onupdate=func.now())


async def test_arrays_and_columns_that_an_update_fills_are_written(postgresql_url: URL) -> None:
    """In one round trip for each statement; afterwards the session reads what the database has filled in."""
    async with opened_shop(postgresql_url) as shop:
        async with shop.engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        async with transaction(shop.sessions) as session:
            session.add_all(Shelf(id=n, labels=[]) for n in (1, 2))
        async with transaction(shop.sessions) as session:
            shelves = await lock_rows(session, Shelf, [1, 2])
            async with BulkUpdate(session) as updates:
                for shelf in shelves.values():
                    shelf.labels, shelf.above = ["a", str(shelf.id)], 1
                    updates.add(shelf)
            await session.refresh(shelves[1])
            assert shelves[1].changed_at is not None
    async with opened_shop(postgresql_url) as shop:
        found = sorted((s.id, s.labels, s.above, s.changes) for s in await held(shop, Shelf))
    assert found == [(1, ["a", "1"], 1, 7), (2, ["a", "2"], 1, 7)]


async def test_a_row_that_is_gone_is_noticed_though_its_columns_fit_no_array(
    postgresql_url: URL,
) -> None:
    """Then the statement runs once for each row; asyncpg counts the rows of none that it runs many times."""
    async with opened_shop(postgresql_url) as shop:
        async with shop.engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        async with transaction(shop.sessions) as session:
            session.add_all(Shelf(id=n, labels=[]) for n in (1, 2))
        with pytest.raises(StaleDataError):
            async with transaction(shop.sessions) as session, BulkUpdate(session) as updates:
                for shelf in [await session.get_one(Shelf, n) for n in (1, 2)]:
                    shelf.labels = ["a"]
                    updates.add(shelf)
                async with shop.engine.begin() as connection:
                    await connection.exec_driver_sql("DELETE FROM shop_shelf WHERE id = 2")
        assert [each.labels for each in await held(shop, Shelf)] == [[]]


async def test_locked_rows_are_read_anew_in_the_order_of_their_keys(postgresql_url: URL) -> None:
    """What the session has changed is flushed first. Rows that are locked wait for each other."""
    async with opened_shop(postgresql_url) as shop:
        await furnish(shop)
        sent = list[str]()
        async with transaction(shop.sessions) as session:
            visit = await session.get_one(Visit, 1)
            visit.page = "/mine"
            event.listen(
                shop.engine.sync_engine,
                "before_cursor_execute",
                lambda *given: sent.append(given[2]),
            )
            assert await lock_rows(session, Visit, [1]) == {1: visit}
            assert visit.page == "/mine"
            assert await lock_rows(session, Visit, []) == {}
        assert [s for s in sent if "FOR UPDATE" in s and "ORDER BY shop_visit.id" in s]
