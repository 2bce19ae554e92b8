"""`App(audited=[…])`: the session's flush writes one entry for each row that changes, and nobody else does."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from hashlib import sha256
from typing import Any, ClassVar
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sqlalchemy import delete, event, insert, select, text, update
from sqlalchemy.engine import URL, make_url
from sqlalchemy.orm import aliased
from sqlmodel import col

from ledgerq import audit
from ledgerq.audit import AuditLog, Change, Origin, acting_as
from ledgerq.database.engine import Database
from ledgerq.database.transaction import savepoint, transaction
from ledgerq.errors import NotAudited, Refused
from ledgerq.execution.outcome import Buried, Completed
from ledgerq.execution.process import process
from ledgerq.execution.registry import Registry
from ledgerq.execution.retry import Policy
from ledgerq.job import JobContext, Kind
from ledgerq.sessions import insert_rows, write
from ledgerq.wire.payload import Payload
from tests.audited_shop import Card, Clerk, Order, Parcel, Stock, Visit, opened_shop
from tests.support import delivery

ADA = Origin("user:ada", trace_id="t-1")
ORDER_ID = UUID("6f0f2d0e-9a75-4d0a-8f3f-0d5f4f5ab111")


@pytest.fixture
async def shop(any_url: URL) -> AsyncIterator[Database]:
    async with opened_shop(any_url) as database:
        yield database


@asynccontextmanager
async def by(shop: Database, origin: Origin = ADA) -> AsyncIterator[Any]:
    """A transaction in which somebody acts."""
    async with transaction(shop.sessions) as session, acting_as(session, origin):
        yield session


async def entries(database: Database) -> Sequence[AuditLog]:
    async with database.sessions() as session:
        return (await session.scalars(select(AuditLog).order_by(col(AuditLog.id)))).all()


async def told(database: Database) -> list[tuple[str, str, str, dict[str, Any], dict[str, Any]]]:
    found = await entries(database)
    return [(e.entity_type, e.entity_id, str(e.action), e.before, e.after) for e in found]


async def new_order(database: Database, **values: Any) -> None:
    async with by(database) as session:
        session.add(Order(id=ORDER_ID, **values))


async def test_each_change_of_a_row_leaves_one_entry(shop: Database) -> None:
    """What it holds at first, what changed in it, what it held at last; with the author."""
    await new_order(shop, total=Decimal("9.90"), placed_at=datetime(2026, 1, 2, tzinfo=UTC))
    async with by(shop) as session:
        order = await session.get_one(Order, ORDER_ID)
        order.status, order.total = "closed", Decimal("9.90")
    async with by(shop) as session:
        await session.delete(await session.get_one(Order, ORDER_ID))
    key = str(ORDER_ID)
    held = {"id": key, "total": "9.90", "lines": [], "placed_at": "2026-01-02T00:00:00Z"}
    assert await told(shop) == [
        ("shop_order", key, "create", {}, {**held, "status": "open"}),
        ("shop_order", key, "update", {"status": "open"}, {"status": "closed"}),
        ("shop_order", key, "delete", {**held, "status": "closed"}, {}),
    ]
    assert {(e.actor, e.trace_id, e.job_id) for e in await entries(shop)} == {
        ("user:ada", "t-1", None)
    }


async def test_ids_that_the_database_gives_are_in_the_entries(shop: Database) -> None:
    """In the order in which the objects were added; a masked value never is."""
    async with by(shop) as session:
        session.add_all([Card(number=f"400{n}", holder=f"h{n}") for n in range(5)])
    created = await told(shop)
    assert [(e[1], e[4]["holder"]) for e in created] == [(str(n + 1), f"h{n}") for n in range(5)]
    async with by(shop) as session:
        card = await session.get_one(Card, 1)
        card.number = "4999"
    assert (await told(shop))[-1][3:] == ({"number": "***"}, {"number": "***"})
    assert all("400" not in str(e) and "4999" not in str(e) for e in await told(shop))


async def test_a_key_of_several_parts_is_one_text(shop: Database) -> None:
    """And history finds it by the class and the parts, by names and text."""
    async with by(shop) as session:
        session.add(Stock(region="EU,north", sku=7, amount=3))
    async with shop.sessions() as session:
        for entity, key in (
            (Stock, ("EU,north", 7)),
            ("shop_stock", ("EU,north", 7)),
            ("shop_stock", r"EU\,north,7"),
        ):
            [found] = await audit.history(session, entity, key)
            assert found.entity_id == r"EU\,north,7"
        assert await audit.history(session, Stock, ("EU", "north,7")) == []


async def test_history_takes_any_form_of_a_uuid(shop: Database) -> None:
    """By the class, which knows that the key is one."""
    await new_order(shop)
    async with shop.sessions() as session:
        for key in (ORDER_ID, str(ORDER_ID), str(ORDER_ID).upper(), ORDER_ID.hex):
            assert len(await audit.history(session, Order, key)) == 1


async def test_a_change_inside_of_json_says_what_it_was(shop: Database) -> None:
    """Loaded, new, or changed twice: the former value is the one that the row held."""
    async with by(shop) as session:
        order = Order(id=ORDER_ID, lines=["pen"], details={"gift": False})
        session.add(order)
        await session.flush()
        order.lines.append("ink")
        await session.flush()
        assert order.details is not None
        order.details["gift"] = True
    async with by(shop) as session:
        loaded = await session.get_one(Order, ORDER_ID)
        loaded.lines.append("cap")
        loaded.details["gift"] = True  # nothing new
    changed = [(before, after) for *_, before, after in (await told(shop))[1:]]
    assert changed == [
        ({"lines": ["pen"]}, {"lines": ["pen", "ink"]}),
        ({"details": {"gift": False}}, {"details": {"gift": True}}),
        ({"lines": ["pen", "ink"]}, {"lines": ["pen", "ink", "cap"]}),
    ]


async def _refresh(session: Any, order: Order) -> None:
    await session.refresh(order, with_for_update=True)


async def _populate(session: Any, order: Order) -> None:
    await session.get_one(Order, order.id, with_for_update=True, populate_existing=True)


async def _load_another(session: Any, order: Order) -> None:
    order.lines.append("early")
    with session.no_autoflush:
        await session.refresh(order, ["note"])
    order.lines.remove("early")


async def _change_in_place(session: Any, order: Order) -> None:
    order.lines.append("early")


async def _undo(session: Any, order: Order) -> None:
    with pytest.raises(ZeroDivisionError):
        async with savepoint(session):
            order.lines.append("undone")
            await session.flush()
            raise ZeroDivisionError
    await session.refresh(order)


@pytest.mark.parametrize("how", [_refresh, _populate, _load_another, _change_in_place, _undo])
@pytest.mark.parametrize("assigned", [False, True])
async def test_what_json_was_is_told_however_it_was_read(
    shop: Database, how: Any, assigned: bool
) -> None:
    """Read again, under a lock, beside another column, after a savepoint; changed in place, assigned, or both."""
    await new_order(shop, lines=["pen"])
    async with by(shop) as session:
        order = await session.get_one(Order, ORDER_ID)
        await how(session, order)
        if assigned:
            order.lines = ["new"]
        else:
            order.lines.append("ink")
    *_, before, after = (await told(shop))[-1]
    assert before["lines"] == ["pen"]
    assert after["lines"][-1] == ("new" if assigned else "ink")


async def test_what_json_was_is_not_told_if_it_was_forgotten(shop: Database) -> None:
    """Someone else may have changed the row since."""
    await new_order(shop, lines=["pen"])
    async with by(shop) as session:
        order = await session.get_one(Order, ORDER_ID)
        session.expire(order)
        await session.execute(text("UPDATE shop_order SET lines = '[\"ink\"]'"))
        order.lines = ["new"]
    assert (await told(shop))[-1][3:] == ({}, {"lines": ["new"]})


async def test_a_column_that_is_left_out_leaves_no_entry(shop: Database) -> None:
    """A change of nothing else is none."""
    await new_order(shop, embedding=[1, 2])
    async with by(shop) as session:
        (await session.get_one(Order, ORDER_ID)).embedding = [3]
    [(*_, after)] = await told(shop)
    assert "embedding" not in after


async def test_a_former_value_that_was_not_loaded_is_left_out_and_not_read(shop: Database) -> None:
    """The entry says what it knows."""
    await new_order(shop, note="first")
    async with by(shop) as session:
        order = await session.get_one(Order, ORDER_ID)
        statements: list[str] = []
        event.listen(
            shop.engine.sync_engine,
            "before_cursor_execute",
            lambda *given: statements.append(given[2]),
        )
        order.note = "second"
    assert [each.split()[0] for each in statements] == ["UPDATE", "INSERT"]
    assert (await told(shop))[-1][3:] == ({}, {"note": "second"})


async def test_null_is_told_where_it_is_a_change(shop: Database) -> None:
    """From nothing to something, and back."""
    await new_order(shop)
    moment = datetime(2026, 3, 1, 12, tzinfo=timezone(timedelta(hours=2)))
    for value in (moment, None):
        async with by(shop) as session:
            (await session.get_one(Order, ORDER_ID)).placed_at = value
    assert [e[3:] for e in (await told(shop))[1:]] == [
        ({"placed_at": None}, {"placed_at": "2026-03-01T10:00:00Z"}),
        ({"placed_at": "2026-03-01T10:00:00Z"}, {"placed_at": None}),
    ]


async def test_sql_that_is_assigned_is_told_as_sql_or_as_what_came_of_it(shop: Database) -> None:
    """That it changed is never lost."""
    async with by(shop) as session:
        session.add(Stock(region="EU", sku=1, amount=1))
    async with by(shop) as session:
        stock = await session.get_one(Stock, ("EU", 1))
        stock.amount = Stock.amount + 1
    *_, before, after = (await told(shop))[-1]
    assert before == {"amount": 1}
    assert after["amount"] == 2 or "amount + " in after["amount"]["sql"]


async def test_large_values_are_cut_and_bytes_are_measured(shop: Database) -> None:
    """To the size that the documentation says."""
    await new_order(shop, status="x" * 20_000, receipt=b"\xff" * 5, lines=["y" * 20_000])
    [(*_, after)] = await told(shop)
    assert after["status"].endswith("… (20,000 characters)")
    assert {len(after["status"]), len(after["lines"])} == {10_000}
    assert after["receipt"] == {
        "bytes": 5,
        "sha256": sha256(b"\xff" * 5).hexdigest(),
    }


async def test_texts_that_no_database_holds_are_spelt_out(any_url: URL) -> None:
    """Half a character or a NUL in JSON does not stop the entry; the row may be refused for its own reasons."""
    async with opened_shop(any_url) as shop:
        if not shop.config.is_sqlite:
            return
        await new_order(shop, details={"nul": "a\x00b"})
        [(*_, after)] = await told(shop)
        assert after["details"] == {"nul": "a\\x00b"}


async def test_cascades_and_orphans_leave_entries(shop: Database) -> None:
    """What a relationship deletes, the session deletes."""
    async with by(shop) as session:
        session.add(Order(id=ORDER_ID, parcels=[Parcel(weight=n) for n in (1, 2, 3)]))
    async with by(shop) as session:
        order = await session.get_one(Order, ORDER_ID)
        del order.parcels[0]
    async with by(shop) as session:
        await session.delete(await session.get_one(Order, ORDER_ID))
    actions = [(entity, action) for entity, _, action, *_ in await told(shop)]
    assert actions.count(("shop_parcel", "create")) == 3
    assert actions[4:5] == [("shop_parcel", "delete")]
    assert sorted(actions[5:]) == [
        ("shop_order", "delete"),
        ("shop_parcel", "delete"),
        ("shop_parcel", "delete"),
    ]


async def test_a_class_that_inherits_is_an_entity_of_its_root(shop: Database) -> None:
    """One row in two tables is one entity, with the columns of both."""
    async with by(shop) as session:
        session.add(Clerk(name="Bo", desk="7"))
    async with by(shop) as session:
        clerk = await session.get_one(Clerk, 1)
        clerk.desk = "8"
        clerk.name = "Bob"
    created, changed = await told(shop)
    assert created[:3] == ("shop_person", "1", "create")
    assert created[4] == {"id": 1, "role": "clerk", "name": "Bo", "desk": "7"}
    assert changed[3:] == ({"name": "Bo", "desk": "7"}, {"name": "Bob", "desk": "8"})
    async with shop.sessions() as session:
        assert len(await audit.history(session, Clerk, 1)) == 2


async def test_a_changed_key_is_a_delete_and_a_create(shop: Database) -> None:
    """Each id has its whole history; so has an id that a new object takes over from a deleted one."""
    async with by(shop) as session:
        session.add(Stock(region="EU", sku=1, amount=5))
    async with by(shop) as session:
        (await session.get_one(Stock, ("EU", 1))).sku = 2
    async with by(shop) as session:
        await session.delete(await session.get_one(Stock, ("EU", 2)))
        session.add(Stock(region="EU", sku=2, amount=9))
    held = {"region": "EU", "sku": 2, "amount": 5}
    assert [e[1:] for e in await told(shop)][1:] == [
        ("EU,1", "delete", {**held, "sku": 1}, {}),
        ("EU,2", "create", {}, held),
        ("EU,2", "delete", held, {}),
        ("EU,2", "create", {}, {**held, "amount": 9}),
    ]


async def test_a_merge_is_an_update_of_what_differs(shop: Database) -> None:
    """As of any object."""
    async with by(shop) as session:
        session.add(Stock(region="EU", sku=1, amount=5))
    async with by(shop) as session:
        await session.merge(Stock(region="EU", sku=1, amount=6))
    assert (await told(shop))[-1][2:] == ("update", {"amount": 5}, {"amount": 6})


async def test_what_a_savepoint_undoes_leaves_no_entry(shop: Database) -> None:
    """The rest stays."""
    async with by(shop) as session:
        session.add(Stock(region="kept", sku=1))
        with pytest.raises(ZeroDivisionError):
            async with savepoint(session):
                session.add(Stock(region="undone", sku=1))
                await session.flush()
                raise ZeroDivisionError
        session.add(Stock(region="kept", sku=2))
    assert [e[1] for e in await told(shop)] == ["kept,1", "kept,2"]


async def test_what_changed_nobody_is_refused_to_nobody_else(shop: Database) -> None:
    """An audited row without an author is refused; a class that is not listed needs none, and leaves no entry."""
    with pytest.raises(NotAudited, match="shop_stock: is audited, and nobody has said who"):
        async with transaction(shop.sessions) as session:
            session.add(Stock(region="EU", sku=1))
    async with transaction(shop.sessions) as session:
        session.add(Visit(page="/"))
    assert await entries(shop) == []


async def test_an_author_that_the_log_cannot_keep_is_refused(shop: Database) -> None:
    """Nothing else is put in its place."""
    for actor in ("", "x" * 201, "two\nlines"):
        with pytest.raises(Refused, match="actor: must have 1 to 200 printable characters"):
            async with by(shop, Origin(actor)):
                pass


async def test_each_change_is_the_doing_of_who_acted_when_it_was_made(shop: Database) -> None:
    """Nested blocks, flushed or not, left by an error or not."""
    async with transaction(shop.sessions) as session, acting_as(session, Origin("outer")):
        session.add(Stock(region="a", sku=1))
        async with acting_as(session, Origin("inner")):
            session.add(Stock(region="b", sku=1))
        session.add(Stock(region="c", sku=1))
        with pytest.raises(ZeroDivisionError):
            async with acting_as(session, Origin("failed")):
                session.add(Stock(region="d", sku=1))
                raise ZeroDivisionError
        session.add(Stock(region="e", sku=1))
    authors = [(e.entity_id[0], e.actor) for e in await entries(shop)]
    assert authors == [
        ("a", "outer"), ("b", "inner"), ("c", "outer"), ("d", "failed"), ("e", "outer"),
    ]  # fmt: skip


BULK = {
    "update": lambda: update(Stock).values(amount=1),
    "delete": lambda: delete(Stock),
    "insert": lambda: insert(Stock).values(region="x", sku=1, amount=1),
    "core": lambda: update(Stock.__table__).values(amount=1),  # type: ignore[arg-type]
    "alias": lambda: update(aliased(Stock)).values(amount=1),
    "from a statement": lambda: select(Stock).from_statement(
        update(Stock).values(amount=1).returning(Stock)
    ),
    "inherited": lambda: update(Clerk.__table__).values(desk="1"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("statement", BULK.values(), ids=BULK)
async def test_a_statement_past_the_session_is_refused(shop: Database, statement: Any) -> None:
    """Unless the caller says that it records the entries itself."""
    with pytest.raises(NotAudited, match=r"changes rows that the session does not see; change obj"):
        async with by(shop) as session:
            await session.execute(statement())
    async with by(shop) as session:
        await session.execute(statement(), execution_options={audit.BY_HAND: True})
        await session.execute(update(Visit).values(page="x"))


async def test_statements_on_a_class_that_is_not_audited_run(shop: Database) -> None:
    """In each form that SQLAlchemy has for them."""
    async with transaction(shop.sessions) as session:
        inserted = insert(Visit).values(id=1, page="a").returning(Visit)
        changed = update(Visit).values(page="b").returning(Visit)
        for statement, page in ((inserted, "a"), (changed, "b")):
            found = await session.scalars(select(Visit).from_statement(statement))
            assert [visit.page for visit in found] == [page]
            session.expire_all()
        by_text = select(Visit).from_statement(text("SELECT * FROM shop_visit"))
        assert len((await session.scalars(by_text)).all()) == 1


NAMED = {
    "update(Stock)": lambda: update(aliased(Stock)).values(amount=1),
    "insert(Stock)": lambda: select(Stock).from_statement(
        insert(Stock).values(region="x", sku=1, amount=1).returning(Stock)
    ),
}


@pytest.mark.parametrize(("said", "statement"), NAMED.items(), ids=NAMED)
async def test_a_refused_statement_is_named_as_it_was_written(
    shop: Database, said: str, statement: Any
) -> None:
    """By its verb and the class."""
    with pytest.raises(NotAudited) as refused:
        async with by(shop) as session:
            await session.execute(statement())
    assert f"is audited, and {said} changes rows" in str(refused.value)


async def _in_a_cte(session: Any) -> None:
    changed = update(Stock).values(amount=7).returning(Stock.sku)
    await session.execute(select(changed.cte()))


async def _beside_a_select(session: Any) -> None:
    await session.execute(select(Visit.id).add_cte(delete(Stock).cte()))


async def _by_the_connection(session: Any) -> None:
    await (await session.connection()).execute(update(Stock).values(amount=7))


async def _by_the_sync_connection(session: Any) -> None:
    await session.run_sync(lambda sync: sync.connection().execute(delete(Stock)))


WITHIN = [_in_a_cte, _beside_a_select, _by_the_connection, _by_the_sync_connection]


@pytest.mark.parametrize("send", WITHIN)
async def test_a_statement_within_another_or_past_the_orm_is_refused(
    shop: Database, send: Any
) -> None:
    """Before it runs; SQLite has no statements that change rows within others."""
    if shop.config.is_sqlite and send in WITHIN[:2]:
        return
    async with by(shop) as session:
        session.add(Stock(region="EU", sku=1, amount=5))
    with pytest.raises(NotAudited, match=r"shop_stock|Stock: is audited, and (update|delete)\("):
        async with by(shop) as session:
            await send(session)
    async with by(shop) as session:
        session.add(Stock(region="EU", sku=2, amount=5))
        await session.connection()
        await session.flush()
        assert (await session.get_one(Stock, ("EU", 1))).amount == 5


async def test_statements_by_hand_run_in_every_form(shop: Database) -> None:
    """Also where SQLAlchemy makes others of one, and over the connection; only the marked one does."""
    by_hand = {audit.BY_HAND: True}
    async with by(shop) as session:
        rows = [{"region": "EU", "sku": n, "amount": n} for n in range(3)]
        await session.execute(insert(Stock), rows, execution_options=by_hand)
        await session.execute(update(Stock), rows, execution_options=by_hand)
        connection = await session.connection()
        await connection.execute(update(Stock).values(amount=9), execution_options=by_hand)
    assert await entries(shop) == []
    with pytest.raises(NotAudited):
        async with by(shop) as session:
            await session.execute(delete(Stock), execution_options=by_hand)
            await session.execute(delete(Stock))
    async with shop.engine.begin() as connection:  # no session's
        await connection.execute(delete(Stock))


async def test_rows_inserted_past_the_session_are_refused(shop: Database) -> None:
    """By the function for many rows too."""
    with pytest.raises(NotAudited, match=r"insert_rows\(Card\)"):
        async with by(shop) as session:
            await insert_rows(session, Card, [{"holder": "x"}])


async def test_entries_by_hand_stand_beside_those_of_the_flush(shop: Database) -> None:
    """Both are written: by hand it says what only the service knows."""
    async with by(shop) as session:
        order = Order(id=ORDER_ID)
        session.add(order)
        await session.flush()
        await audit.record(session, ADA, Change.of(order, {}, {"why": "a gift"}, "wrapped as gift"))
        await audit.record(session, ADA, Change.created(order), Change.gone(order, "shredded"))
    assert [e[:3] for e in await told(shop)] == [
        ("shop_order", str(ORDER_ID), action)
        for action in ("create", "wrapped as gift", "create", "shredded")
    ]


async def test_two_applications_in_one_process_do_not_mix(any_url: URL) -> None:
    """What one of them audits, the other need not."""
    async with opened_shop(any_url) as shop, opened_shop(any_url, audited=(Visit,)) as other:
        async with by(other) as session:
            session.add_all([Stock(region="EU", sku=1), Visit(page="/")])
        async with by(shop) as session:
            session.add_all([Stock(region="EU", sku=2), Visit(page="/")])
        found = [e[0] for e in await told(shop)]
    assert found == ["shop_visit", "shop_stock"]


class Restock(Payload[Any]):
    kind: ClassVar[str] = "restock"
    sku: int = 0
    fails: bool = False


async def restock(context: JobContext[Any], order: Restock) -> None:
    context.session.add(Stock(region="EU", sku=order.sku))
    if order.fails:
        await context.session.flush()
        raise Refused("sku", "is bad")


async def restock_many(
    contexts: Sequence[JobContext[Any]], orders: Sequence[Restock]
) -> list[None]:
    for context, order in zip(contexts, orders, strict=True):
        async with acting_as(context.session, context.origin):
            context.session.add(Stock(region="EU", sku=order.sku))
    return [None] * len(orders)


async def restock_many_without_authors(
    contexts: Sequence[JobContext[Any]], orders: Sequence[Restock]
) -> list[None]:
    contexts[0].session.add_all([Stock(region="EU", sku=order.sku) for order in orders])
    return [None] * len(orders)


async def restock_and_defer(context: JobContext[Any], order: Restock) -> None:
    stock = await context.session.get_one(Stock, ("EU", order.sku))
    stock.amount += 1
    await write(context.session, stock)  # type: ignore[arg-type]


async def run(shop: Database, kind: Kind[Any, Any], jobs: Sequence[Restock]) -> list[Any]:
    arrived = [delivery(job, f"job-{job.sku}") for job in jobs]
    return await process(arrived, Registry([kind]), shop.sessions, Policy())


KINDS = {
    "alone": Kind(Restock, restock),
    "sharing": Kind(Restock, restock, shares_commit=True),
    "many": Kind(Restock, restock, handle_many=restock_many),
}


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
async def test_each_job_is_the_author_of_its_own_entries(
    shop: Database, kind: Kind[Any, Any]
) -> None:
    """Alone, in a shared transaction, in a handler of many; a job that fails leaves none."""
    jobs = [Restock(sku=n, fails=n == 2 and "many" not in str(kind)) for n in range(5)]
    outcomes = await run(shop, kind, jobs)
    good = {
        job.sku for job, each in zip(jobs, outcomes, strict=True) if isinstance(each, Completed)
    }
    assert len(good) >= 4
    found = await entries(shop)
    assert {(e.entity_id, e.job_id, e.actor, e.kind, e.attempt) for e in found} == {
        (f"EU,{n}", f"job-{n}", "tester", "restock", 1) for n in good
    }
    assert len(found) == len(good)


async def test_a_handler_of_many_says_whose_change_it_is(shop: Database) -> None:
    """One that does not is refused; each job then runs by the handler of one."""
    kind = Kind(Restock, restock, handle_many=restock_many_without_authors)
    outcomes = await run(shop, kind, [Restock(sku=n) for n in range(3)])
    assert [type(each) for each in outcomes] == [Completed] * 3
    assert {(e.entity_id, e.job_id) for e in await entries(shop)} == {
        (f"EU,{n}", f"job-{n}") for n in range(3)
    }


async def test_a_deferred_write_is_still_its_jobs(shop: Database) -> None:
    """`write` keeps rows until the end of a shared transaction: not those of audited classes."""
    async with by(shop) as session:
        session.add_all([Stock(region="EU", sku=n) for n in range(3)])
    kind = Kind(Restock, restock_and_defer, shares_commit=True)
    outcomes = await run(shop, kind, [Restock(sku=n) for n in range(3)])
    assert [type(each) for each in outcomes] == [Completed] * 3
    assert [(e.entity_id, e.job_id) for e in (await entries(shop))[3:]] == [
        (f"EU,{n}", f"job-{n}") for n in range(3)
    ]


async def test_a_bulk_statement_in_a_job_buries_it_with_the_cure(shop: Database) -> None:
    """Trying again cannot help."""

    async def handle(context: JobContext[Any], _: Restock) -> None:
        await context.session.execute(update(Stock).values(amount=9))

    [outcome] = await run(shop, Kind(Restock, handle), [Restock()])
    assert isinstance(outcome, Buried)


STEP = st.tuples(
    st.sampled_from(["set", "set", "grow", "delete", "flush", "undo", "undo", "rekey"]),
    st.integers(0, 3),
    st.integers(0, 9),
)


async def _take(session: Any, step: tuple[str, int, int]) -> None:
    verb, sku, value = step
    stock = await session.get(Stock, ("EU", sku))
    match verb:
        case "set" if stock is None:
            session.add(Stock(region="EU", sku=sku, amount=value))
        case "set" | "grow" if stock is not None:
            stock.amount = value if verb == "set" else stock.amount + value
        case "delete" if stock is not None:
            await session.delete(stock)
        case "flush":
            await session.flush()
        case "rekey" if stock is not None and not await session.get(Stock, ("EU", value + 10)):
            stock.sku = value + 10
        case _:
            pass


async def _play(shop: Database, steps: list[tuple[str, int, int]]) -> None:
    async with by(shop) as session:
        for verb, sku, value in steps:
            if verb != "undo":
                await _take(session, (verb, sku, value))
                continue
            try:
                async with savepoint(session):
                    for inner in ("set", "delete", "rekey", "set"):
                        await _take(session, (inner, sku, value))
                    raise ZeroDivisionError  # noqa: TRY301
            except ZeroDivisionError:
                pass


def replayed(log: Sequence[Any]) -> dict[str, Any]:
    """The rows that the entries speak of."""
    rows: dict[str, Any] = {}
    for _, key, action, before, after in log:
        if action == "create":
            assert key not in rows
            rows[key] = after
        elif action == "delete":
            assert rows.pop(key) == before
        else:
            assert {field: rows[key][field] for field in before} == before
            rows[key] = {**rows[key], **after}
    return rows


@pytest.fixture
def fresh_file(
    sqlite_template: bytes, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[], URL]:
    """A SQLite file of its own for each call."""

    def make() -> URL:
        path = tmp_path_factory.mktemp("replay") / "test.sqlite3"
        path.write_bytes(sqlite_template)
        return make_url(f"sqlite:///{path}")

    return make


@hypothesis_settings(
    max_examples=60,
    suppress_health_check=list(HealthCheck),  # each example has a file of its own
)
@given(transactions=st.lists(st.lists(STEP, max_size=8), min_size=1, max_size=3))
def test_the_entries_replayed_are_the_rows(
    fresh_file: Callable[[], URL], transactions: Any
) -> None:
    """After any changes, deletes, flushes and savepoints that are undone."""

    async def check() -> None:
        async with opened_shop(fresh_file()) as shop:
            for steps in transactions:
                await _play(shop, steps)
            async with shop.sessions() as session:
                rows = (await session.scalars(select(Stock))).all()
            assert replayed(await told(shop)) == {
                f"EU,{row.sku}": {"region": "EU", "sku": row.sku, "amount": row.amount}
                for row in rows
            }

    asyncio.run(check())
