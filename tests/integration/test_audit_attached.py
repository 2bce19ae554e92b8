"""`ledgerq audit attach`: PostgreSQL writes the entries itself, whatever way a change comes by."""

from collections.abc import AsyncIterator, Sequence
from typing import Any, ClassVar
from uuid import UUID

import pytest
from sqlalchemy import delete, insert, select, text, update
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import async_sessionmaker
from sqlmodel import col

from ledgerq import App, audit
from ledgerq.admin.audit import attach, detach, run
from ledgerq.audit import Audited, AuditLog, Origin, acting_as, key_text
from ledgerq.database.engine import Database, build_database
from ledgerq.database.settings import DatabaseConfig
from ledgerq.database.transaction import savepoint, transaction
from ledgerq.errors import NotAudited, SettingError, UsageError
from ledgerq.execution.outcome import Completed
from ledgerq.execution.process import process
from ledgerq.execution.registry import Registry
from ledgerq.execution.retry import Policy
from ledgerq.job import JobContext, Kind
from ledgerq.store.audit_attached import require_attached
from ledgerq.store.schema import create_tables
from ledgerq.wire.payload import Payload
from tests.audited_shop import METADATA, Card, Order, Person, Stock, opened_shop
from tests.support import delivery

ADA = Origin("user:ada", job_id="j", kind="k", attempt=3, trace_id="t")
ORDER_ID = UUID("6f0f2d0e-9a75-4d0a-8f3f-0d5f4f5ab111")
BY_TRIGGER = (
    Audited(Stock, by_trigger=True),
    Audited(Card, mask={"number"}, exclude={"holder"}, by_trigger=True),
    Audited(Order, replaced={"embedding"}, by_trigger=True),
    Person,
)


@pytest.fixture
async def shop(postgresql_url: URL) -> AsyncIterator[Database]:
    """Three of its tables are attached."""
    async with opened_shop(postgresql_url, BY_TRIGGER) as database:
        for table in ("shop_stock", "shop_card", "shop_order"):
            await run(database, await attach(database, table))
        yield database


async def told(database: Database) -> list[tuple[Any, ...]]:
    async with database.sessions() as session:
        found = (await session.scalars(select(AuditLog).order_by(col(AuditLog.id)))).all()
    return [(e.entity_type, e.entity_id, e.action, e.before, e.after) for e in found]


async def authors(database: Database) -> Sequence[tuple[Any, ...]]:
    async with database.sessions() as session:
        found = (await session.scalars(select(AuditLog).order_by(col(AuditLog.id)))).all()
    return [(e.actor, e.job_id, e.kind, e.attempt, e.trace_id) for e in found]


async def test_bulk_statements_and_sql_leave_entries(shop: Database) -> None:
    """One for each row, with the author of the transaction."""
    async with transaction(shop.sessions) as session, acting_as(session, ADA):
        await session.execute(
            insert(Stock), [{"region": "EU", "sku": n, "amount": n} for n in range(3)]
        )
        await session.execute(update(Stock).where(col(Stock.sku) < 2).values(amount=9))
        await session.execute(text("UPDATE shop_stock SET amount = amount"))
        await session.execute(text("UPDATE shop_stock SET sku = 7 WHERE sku = 2"))
        await session.execute(delete(Stock).where(col(Stock.sku) == 7))
    found = await told(shop)
    assert sorted(e[1:3] for e in found[:3]) == [(f"EU,{n}", "create") for n in range(3)]
    assert sorted(e[1:] for e in found[3:5]) == [
        ("EU,0", "update", {"amount": 0}, {"amount": 9}),
        ("EU,1", "update", {"amount": 1}, {"amount": 9}),
    ]
    held = {"region": "EU", "sku": 7, "amount": 2}
    assert [e[1:] for e in found[5:]] == [
        ("EU,2", "delete", {**held, "sku": 2}, {}),
        ("EU,7", "create", {}, held),
        ("EU,7", "delete", held, {}),
    ]
    assert set(await authors(shop)) == {("user:ada", "j", "k", 3, "t")}


async def test_the_session_does_not_tell_it_twice(shop: Database) -> None:
    """A change by the session leaves the trigger's entry alone; columns are masked and left out there too."""
    async with transaction(shop.sessions) as session, acting_as(session, ADA):
        card = Card(number="4000", holder="Bo")
        session.add(card)
        await session.flush()
        card.number = "4001"
        await session.flush()
        card.holder = "Bob"
    assert await told(shop) == [
        ("shop_card", "1", "create", {}, {"id": 1, "number": "***"}),
        ("shop_card", "1", "update", {"number": "***"}, {"number": "***"}),
    ]


async def test_who_is_not_known_to_ledgerq_is_the_role_of_the_database(shop: Database) -> None:
    """An author is not made up."""
    async with shop.engine.begin() as connection:
        await connection.execute(text("INSERT INTO shop_stock VALUES ('EU', 1, 1)"))
        role = await connection.scalar(text("SELECT session_user"))
    assert await authors(shop) == [(f"database:{role}", None, None, None, None)]


async def test_the_author_ends_with_the_block_and_with_the_transaction(shop: Database) -> None:
    """A pooled connection carries nobody into the next transaction, a savepoint nobody out of it."""
    async with transaction(shop.sessions) as session, acting_as(session, Origin("outer")):
        with pytest.raises(ZeroDivisionError):
            async with savepoint(session), acting_as(session, Origin("inner")):
                raise ZeroDivisionError
        await session.execute(text("INSERT INTO shop_stock VALUES ('EU', 1, 1)"))
    async with transaction(shop.sessions) as session:
        await session.execute(text("INSERT INTO shop_stock VALUES ('EU', 2, 1)"))
    [(first, *_), (second, *_)] = await authors(shop)
    assert first == "outer"
    assert second.startswith("database:")


class Restock(Payload[Any]):
    kind: ClassVar[str] = "restock"
    sku: int = 0


@pytest.mark.parametrize("shared", [False, True])
async def test_sql_in_a_job_is_the_doing_of_the_job(shop: Database, shared: bool) -> None:
    """In jobs that share a transaction of each one's own."""

    async def handle(context: JobContext[Any], order: Restock) -> None:
        await context.session.execute(
            text("INSERT INTO shop_stock VALUES ('EU', :sku, 1)"), {"sku": order.sku}
        )

    kind = Kind(Restock, handle, shares_commit=shared)
    arrived = [delivery(Restock(sku=n), f"job-{n}") for n in range(3)]
    outcomes = await process(arrived, Registry([kind]), shop.sessions, Policy())
    assert [type(each) for each in outcomes] == [Completed] * 3
    assert sorted(await authors(shop)) == [
        ("tester", f"job-{n}", "restock", 1, None) for n in range(3)
    ]


KEYS: list[tuple[str, int]] = [("a,b", 1), ("a\\", 2), ("", 3), ("é" * 300, 4), ("x" * 197, 55)]


async def test_keys_are_the_texts_that_the_session_would_write(shop: Database) -> None:
    """So that `history` finds them; longer ones are cut in the same way, UUIDs have their usual form."""
    async with shop.engine.begin() as connection:
        await connection.execute(
            text("INSERT INTO shop_stock VALUES (:r, :s, 1)"), [{"r": r, "s": s} for r, s in KEYS]
        )
        await connection.execute(
            text("INSERT INTO shop_order (id, status, total, lines) VALUES (:id, 'open', 1, '[]')"),
            {"id": ORDER_ID},
        )
    assert [e[1] for e in await told(shop)] == [*map(key_text, KEYS), str(ORDER_ID)]
    async with shop.sessions() as session:
        for key in KEYS:
            assert len(await audit.history(session, Stock, key)) == 1


async def test_large_values_are_cut_as_the_session_cuts_them(shop: Database) -> None:
    """Texts and documents."""
    async with shop.engine.begin() as connection:
        await connection.execute(
            text("INSERT INTO shop_order (id, status, total, lines) VALUES (:id, :s, 1, :l)"),
            {"id": ORDER_ID, "s": "x" * 20_000, "l": f'["{"y" * 20_000}"]'},
        )
    [(*_, after)] = await told(shop)
    assert after["status"] == "x" * (10_000 - 21) + "… (20,000 characters)"
    assert len(after["lines"]) == 10_000


async def test_truncate_is_refused(shop: Database) -> None:
    """It would leave no entries."""
    with pytest.raises(DBAPIError, match="TRUNCATE leaves no entries"):
        async with shop.engine.begin() as connection:
            await connection.execute(text("TRUNCATE shop_stock"))


async def test_a_role_without_a_right_to_the_log_may_change_the_table(shop: Database) -> None:
    """The entry is written all the same; the role can't make triggers of the function."""
    async with shop.engine.begin() as connection:
        for statement in (
            "CREATE ROLE clerk_without_log",
            "GRANT INSERT ON shop_stock TO clerk_without_log",
            "GRANT USAGE ON SCHEMA ledgerq TO clerk_without_log",
            "GRANT CREATE ON SCHEMA public TO clerk_without_log",
        ):
            await connection.execute(text(statement))
    try:
        async with shop.engine.begin() as connection:
            await connection.execute(text("SET LOCAL ROLE clerk_without_log"))
            await connection.execute(text("INSERT INTO shop_stock VALUES ('EU', 1, 1)"))
        assert len(await told(shop)) == 1
        with pytest.raises(DBAPIError, match=r"permission denied for function .*audit_write_rows"):
            async with shop.engine.begin() as connection:
                await connection.execute(text("SET LOCAL ROLE clerk_without_log"))
                await connection.execute(text("CREATE TABLE mine (id int PRIMARY KEY)"))
                await connection.execute(
                    text(
                        "CREATE TRIGGER t AFTER INSERT ON mine REFERENCING NEW TABLE AS new_rows "
                        "EXECUTE FUNCTION ledgerq.audit_write_rows('other', '{id}', '{}', '{}')"
                    )
                )
    finally:
        async with shop.engine.begin() as connection:
            await connection.execute(text("DROP OWNED BY clerk_without_log"))
            await connection.execute(text("DROP ROLE clerk_without_log"))


async def test_a_worker_refuses_to_start_where_entries_would_be_missing_or_doubled(
    shop: Database, postgresql_url: URL
) -> None:
    """The text says what mends it; attaching twice changes nothing."""
    await run(shop, await attach(shop, "shop_stock"))
    await require_attached(shop)
    await run(shop, await detach(shop, "shop_stock"))
    with pytest.raises(SettingError, match=r"lacks the trigger .* run: ledgerq audit attach"):
        await require_attached(shop)
    async with opened_shop(postgresql_url, (Card,)) as other:
        with pytest.raises(SettingError, match=r"say Audited\(Card, by_trigger=True\)"):
            await require_attached(other)


async def test_what_cannot_be_attached_is_refused_with_the_cure(shop: Database) -> None:
    """By its name; a column of the key can be neither masked nor excluded."""
    async with shop.engine.begin() as connection:
        await connection.execute(text("CREATE TABLE keyless (a int)"))
    for table, options, said in (
        ("nothing", {}, "there is no table nothing"),
        ("x.y.z", {}, "'x.y.z' is no table's name"),
        ("a.b.c.d", {}, "'a.b.c.d' is no table's name"),
        ("ledgerq.audit_log", {}, "ledgerq.audit_log is ledgerq's own"),
        ("ledgerq.outbox_message", {}, "ledgerq.outbox_message is ledgerq's own"),
        ("pg_class", {}, "pg_catalog.pg_class is PostgreSQL's own"),
        ("keyless", {}, "has no primary key"),
        ("shop_stock", {"mask": ["colour"]}, "has no column 'colour'"),
        ("shop_stock", {"mask": ["sku"]}, "--mask: 'sku' is part of the primary key"),
        ("shop_stock", {"exclude": ["sku"]}, "--exclude: 'sku' is part of the primary key"),
        ("shop_person", {}, "each change would leave two entries"),
    ):
        with pytest.raises(UsageError, match=said):
            await attach(shop, table, **options)


async def test_a_table_that_no_class_stands_for_is_audited_too(shop: Database) -> None:
    """In another schema by its whole name, whatever names it has."""
    async with shop.engine.begin() as connection:
        await connection.execute(text("CREATE SCHEMA old"))
        await connection.execute(
            text("""CREATE TABLE old."It's" ("the id" int PRIMARY KEY, secret text)""")
        )
    await run(shop, await attach(shop, """old."It's\"""", mask=["secret"]))
    async with shop.engine.begin() as connection:
        await connection.execute(text("""INSERT INTO old."It's" VALUES (1, 'x')"""))
    assert await told(shop) == [
        ("old.It's", "1", "create", {}, {"the id": 1, "secret": "***"}),
    ]


async def test_tables_made_for_a_test_are_attached(empty_postgresql_url: URL) -> None:
    """So that a test sees the entries that the service will leave."""
    app = App(jobs=[], metadata=METADATA, audited=BY_TRIGGER)
    database = build_database(DatabaseConfig(url=empty_postgresql_url), app.tables)
    try:
        await create_tables(database)
        await create_tables(database)
        await require_attached(database)
        async with transaction(database.sessions) as session, acting_as(session, ADA):
            session.add(Card(number="4000", holder="Bo"))
        assert [e[4] for e in await told(database)] == [{"id": 1, "number": "***"}]
    finally:
        await database.dispose()


async def test_a_session_of_another_maker_tells_the_triggers_who_acts(shop: Database) -> None:
    """Until the block ends."""
    plain = async_sessionmaker(shop.engine)
    async with plain() as session, session.begin(), acting_as(session, ADA):
        session.add(Stock(region="EU", sku=1))
        async with acting_as(session, Origin("inner")):
            session.add(Stock(region="EU", sku=2))
        session.add(Stock(region="EU", sku=3))
    assert [actor for actor, *_ in await authors(shop)] == ["user:ada", "inner", "user:ada"]


async def test_on_sqlite_a_session_of_another_maker_is_refused(sqlite_url: URL) -> None:
    """Nothing would write the entries; the sentence says which session does."""
    async with opened_shop(sqlite_url) as shop, async_sessionmaker(shop.engine)() as session:
        with pytest.raises(NotAudited, match=r"take it from open_database\(tables="):
            async with acting_as(session, ADA):
                pass


async def test_on_sqlite_the_session_writes_the_entries_that_a_trigger_would(
    sqlite_url: URL,
) -> None:
    """And refuses what it would not see."""
    async with opened_shop(sqlite_url, BY_TRIGGER) as shop:
        async with transaction(shop.sessions) as session, acting_as(session, ADA):
            session.add(Card(number="4000", holder="Bo"))
        assert await told(shop) == [
            ("shop_card", "1", "create", {}, {"id": 1, "number": "***"}),
        ]
        with pytest.raises(NotAudited):
            async with transaction(shop.sessions) as session, acting_as(session, ADA):
                await session.execute(update(Stock).values(amount=1))
        with pytest.raises(UsageError, match="SQLite has no triggers for statements"):
            await attach(shop, "shop_card")
