"""The entry of a deleted row is true: this transaction deleted it, and what took its place is told in full."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any, ClassVar
from uuid import UUID

import pytest
from sqlalchemy import Computed, Text, TypeDecorator, literal_column, select, text, types
from sqlalchemy.dialects import postgresql
from sqlalchemy.engine import URL
from sqlalchemy.ext.mutable import MutableList
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlmodel import col

from ledgerq import App
from ledgerq.audit import Audited, AuditLog, Origin, acting_as
from ledgerq.database.engine import Database, build_database
from ledgerq.database.settings import DatabaseConfig
from ledgerq.database.transaction import in_transaction, transaction
from ledgerq.errors import SerializationFailure
from ledgerq.execution.outcome import Completed
from ledgerq.execution.process import process
from ledgerq.execution.registry import Registry
from ledgerq.execution.retry import Policy
from ledgerq.job import JobContext, Kind
from ledgerq.wire.payload import Payload
from tests.audited_shop import Clerk, Order, Person, Stock, opened_shop
from tests.support import delivery

ADA = Origin("user:ada")
AUDITED = (Stock, Person, Audited(Order, exclude={"embedding"}))


@pytest.fixture
async def shop(any_url: URL) -> AsyncIterator[Database]:
    """It holds three rows."""
    async with opened_shop(any_url, AUDITED) as database:
        async with by(database) as session:
            session.add_all([Stock(region="EU", sku=n, amount=n) for n in range(3)])
        yield database


@asynccontextmanager
async def by(shop: Database) -> AsyncIterator[Any]:
    async with transaction(shop.sessions) as session, acting_as(session, ADA):
        yield session


async def told(shop: Database, action: str) -> list[str]:
    """The keys in the entries of an action."""
    entries = select(AuditLog).where(col(AuditLog.action) == action).order_by(col(AuditLog.id))
    async with shop.sessions() as session:
        return [e.entity_id for e in (await session.scalars(entries)).all()]


async def take(shop: Database, *skus: int) -> None:
    """Delete rows past the session, as another program does."""
    async with shop.engine.begin() as connection:
        for sku in skus:
            await connection.execute(text("DELETE FROM shop_stock WHERE sku = :sku"), {"sku": sku})


@pytest.mark.parametrize("skus", [[0], [0, 1], [0, 1, 2]])
async def test_a_row_that_is_gone_already_leaves_no_entry(shop: Database, skus: list[int]) -> None:
    """Whether it is deleted alone or beside rows that are there, the transaction fails by a conflict."""
    with pytest.raises(SerializationFailure) as failed:
        async with by(shop) as session:
            found = [await session.get_one(Stock, ("EU", sku)) for sku in skus]
            await session.execute(text("DELETE FROM shop_stock WHERE sku = 0"))
            for stock in found:
                await session.delete(stock)
    assert "confirm_deleted_rows=False" in failed.value.__notes__[0]
    assert await told(shop, "delete") == []


async def test_a_job_that_deletes_a_row_which_another_deletes_first_runs_again(
    postgresql_url: URL,
) -> None:
    """It finds the row gone, and only one entry says who deleted it."""
    async with opened_shop(postgresql_url, AUDITED) as shop:
        async with by(shop) as session:
            session.add_all([Stock(region="EU", sku=n, amount=n) for n in range(3)])
        runs = []

        async def clear(context: JobContext[Any], _: Clear) -> None:
            found = (await context.session.scalars(select(Stock))).all()
            runs.append(len(found))
            if len(runs) == 1:
                await take(shop, 1)
            for stock in found:
                await context.session.delete(stock)

        [outcome] = await process(
            [delivery(Clear(), "job-1")], Registry([Kind(Clear, clear)]), shop.sessions, Policy()
        )
        assert isinstance(outcome, Completed)
        assert runs == [3, 2]
        assert sorted(await told(shop, "delete")) == ["EU,0", "EU,2"]


class Clear(Payload[Any]):
    kind: ClassVar[str] = "clear"


async def test_many_rows_are_deleted_with_an_entry_each(shop: Database) -> None:
    """Those of composite keys, of one key, of UUIDs, and of classes in two tables."""
    async with by(shop) as session:
        session.add_all([Order() for _ in range(3)])
        session.add_all([Clerk(name="C", desk="1") for _ in range(3)])
    await in_transaction(shop.sessions, _delete_everything)
    assert len(await told(shop, "delete")) == 9
    async with shop.sessions() as session:
        for entity in (Stock, Order, Person):
            assert (await session.scalars(select(entity))).all() == []


async def _delete_everything(session: Any) -> None:
    async with acting_as(session, ADA):
        for entity in (Stock, Order, Person):
            for row in (await session.scalars(select(entity))).all():
                await session.delete(row)


class TakenBase(DeclarativeBase):
    """Of a table whose rows are taken over."""


class Taken(TakenBase):
    """With each way in which a column gets a value that the object does not set."""

    __tablename__ = "deleted_taken"
    id: Mapped[int] = mapped_column(primary_key=True)
    total: Mapped[int] = mapped_column(default=0)
    stars: Mapped[int] = mapped_column(server_default="3")
    note: Mapped[str | None]
    pin: Mapped[str | None]
    tags: Mapped[list[Any] | None] = mapped_column(MutableList.as_mutable(types.JSON))
    kept: Mapped[str | None] = mapped_column(deferred=True)
    changes: Mapped[int] = mapped_column(default=1, onupdate=literal_column("changes + 1"))
    double: Mapped[int] = mapped_column(Computed("total * 2"))


async def test_what_stays_of_a_row_that_a_new_object_takes_over_is_told(any_url: URL) -> None:
    """The create entry shows what the table holds, as far as the session has loaded it; what is masked stays masked."""
    audited = Audited(Taken, mask={"pin"}, exclude={"changes", "double"})
    app = App(jobs=[], metadata=[TakenBase.metadata], audited=[audited])
    database = build_database(DatabaseConfig(url=any_url), app.tables)
    try:
        async with database.engine.begin() as connection:
            await connection.run_sync(TakenBase.metadata.create_all)
        async with by(database) as session:
            session.add(Taken(id=1, total=5, stars=9, note="old", pin="1", tags=["a"], kept="k"))
        async with by(database) as session:
            old = await session.get_one(Taken, 1)
            assert old.tags is not None
            old.tags.append("not written")
            await session.delete(old)
            session.add(Taken(id=1, note=None, total=6))
        async with database.sessions() as session:
            [*_, deleted, created] = (
                await session.scalars(select(AuditLog).order_by(col(AuditLog.id)))
            ).all()
            held = await session.get_one(Taken, 1)
            assert (held.total, held.stars, held.note, held.pin, held.tags) == (
                6,
                9,
                None,
                "1",
                ["a"],
            )
        stayed = {"id": 1, "stars": 9, "pin": "***", "tags": ["a"]}
        assert deleted.before == {**stayed, "total": 5, "note": "old"}
        assert created.after == {**stayed, "total": 6}
    finally:
        await database.dispose()


async def test_what_an_update_changes_by_itself_is_not_told_as_it_was(any_url: URL) -> None:
    """The value of a column that the UPDATE fills is that of after it, or is left out."""
    app = App(jobs=[], metadata=[TakenBase.metadata], audited=[Audited(Taken)])
    database = build_database(DatabaseConfig(url=any_url), app.tables)
    try:
        async with database.engine.begin() as connection:
            await connection.run_sync(TakenBase.metadata.create_all)
        async with by(database) as session:
            session.add(Taken(id=1, total=5))
        async with by(database) as session:
            await session.delete(await session.get_one(Taken, 1))
            session.add(Taken(id=1, total=6))
        async with database.sessions() as session:
            [*_, created] = (
                await session.scalars(select(AuditLog).order_by(col(AuditLog.id)))
            ).all()
            held = await session.get_one(Taken, 1)
            assert (held.changes, held.double) == (2, 12)
        assert created.after.get("changes", 2) == 2
        assert created.after.get("double", 12) == 12
        assert (created.after["total"], created.after["stars"]) == (6, 3)
    finally:
        await database.dispose()


class Base(DeclarativeBase):
    """Of tables with keys of many types."""


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Reversed(TypeDecorator[str]):
    """A text that is stored backwards."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, _: object) -> str | None:
        return value and value[::-1]

    def process_result_value(self, value: str | None, _: object) -> str | None:
        return value and value[::-1]


NOON = datetime(2026, 1, 2, 12, 0, 0, 500_000, tzinfo=UTC)
KEYS: dict[str, tuple[Any, list[Any]]] = {
    "aware": (types.DateTime(timezone=True), [NOON, NOON + timedelta(days=1)]),
    "naive": (types.DateTime(), [NOON.replace(tzinfo=None), datetime(2026, 2, 1)]),  # noqa: DTZ001
    "date": (types.Date(), [NOON.date(), NOON.date() + timedelta(days=1)]),
    "time": (types.Time(), [time(1), time(2, 3, 4, 5)]),
    "interval": (types.Interval(), [timedelta(seconds=5), timedelta(days=400)]),
    "enum": (types.Enum(Colour, name="deleted_colour"), list(Colour)),
    "enum as text": (types.Enum(Colour, native_enum=False), list(Colour)),
    "number": (types.Numeric(10, 2), [Decimal("1.50"), Decimal(-7)]),
    "double": (types.Double(), [0.1, 2.0]),
    "small": (types.SmallInteger(), [1, 2]),
    "big": (types.BigInteger(), [1, 2**60]),
    "bytes": (types.LargeBinary(), [b"a", b"\x00\xff"]),
    "bool": (types.Boolean(), [True, False]),
    "uuid": (types.Uuid(), [UUID(int=1), UUID(int=2)]),
    "uuid as text": (types.Uuid(as_uuid=False), [UUID(int=1).hex, UUID(int=2).hex]),
    "char": (types.CHAR(5), ["ab", "abcde"]),
    "varchar": (types.String(5), ["a", "{a},"]),
    "own type": (Reversed(), ["abc", "xyz"]),
    "inet": (postgresql.INET(), ["10.0.0.1", "10.0.0.2"]),
    "array": (types.ARRAY(Text, as_tuple=True), [("a",), ("a", "b")]),
}
KINDS = {
    name: type(
        f"Kept{n}",
        (Base,),
        {"__tablename__": f"deleted_{n}", "key the": mapped_column(each, primary_key=True)},
    )
    for n, (name, (each, _)) in enumerate(KEYS.items())
}


async def test_many_rows_are_found_by_keys_of_any_type(postgresql_url: URL) -> None:
    """One statement deletes them all, and leaves an entry for each."""
    audited = [Audited(each, replaced={"key the"}) for each in KINDS.values()]
    app = App(jobs=[], metadata=[Base.metadata], audited=audited)
    database = build_database(DatabaseConfig(url=postgresql_url), app.tables)
    try:
        async with database.engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        for name, (_, keys) in KEYS.items():
            async with by(database) as session:
                session.add_all([KINDS[name](**{"key the": key}) for key in keys])
            async with by(database) as session:
                for row in (await session.scalars(select(KINDS[name]))).all():
                    await session.delete(row)
            async with database.sessions() as session:
                assert (await session.scalars(select(KINDS[name]))).all() == [], name
        assert len(await told(database, "delete")) == 2 * len(KEYS)
    finally:
        await database.dispose()
