"""Whose change an entry says it is, where a block ends in an unusual way: by a cancellation, a time limit, a failed flush."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from typing import Any, ClassVar

import pytest
from sqlalchemy import event, select, text, update
from sqlalchemy.engine import URL
from sqlmodel import col

from ledgerq.admin.audit import attach, run
from ledgerq.audit import Audited, AuditLog, Origin, acting_as
from ledgerq.database.engine import Database
from ledgerq.database.transaction import savepoint, transaction
from ledgerq.errors import LedgerqError, NotAudited
from ledgerq.execution.outcome import Completed
from ledgerq.execution.process import process
from ledgerq.execution.registry import Registry
from ledgerq.execution.retry import Policy
from ledgerq.job import JobContext, Kind
from ledgerq.sessions import BulkUpdate
from ledgerq.wire.payload import Payload
from tests.audited_shop import Stock, opened_shop
from tests.support import delivery

OUTER, INNER = Origin("outer"), Origin("inner")


@pytest.fixture(params=["flush", "trigger"])
async def shop(any_url: URL, request: pytest.FixtureRequest) -> AsyncIterator[Database]:
    """Entries by the flush, or by a trigger where the database has such triggers; it holds three rows."""
    by_trigger = request.param == "trigger"
    async with opened_shop(any_url, (Audited(Stock, by_trigger=by_trigger),)) as database:
        async with transaction(database.sessions) as session, acting_as(session, Origin("setup")):
            session.add_all([Stock(region="EU", sku=n, amount=0) for n in range(3)])
        if by_trigger and not database.config.is_sqlite:
            await run(database, await attach(database, "shop_stock"))
        yield database


async def stocks(session: Any) -> Sequence[Stock]:
    found: Sequence[Stock] = (await session.scalars(select(Stock).order_by(Stock.sku))).all()
    return found


async def authors(shop: Database) -> dict[str, str]:
    """Of the updates, by the keys of their rows."""
    updates = select(AuditLog).where(col(AuditLog.action) == "update")
    async with shop.sessions() as session:
        return {e.entity_id: e.actor for e in (await session.scalars(updates)).all()}


async def test_a_block_that_a_time_limit_ends_keeps_its_changes_and_no_others(
    shop: Database,
) -> None:
    """The block's changes are its author's, later ones those of who acted before."""
    async with transaction(shop.sessions) as session, acting_as(session, OUTER):
        first, second, _ = await stocks(session)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                async with acting_as(session, INNER):
                    first.amount = 1
                    await asyncio.sleep(60)
        second.amount = 1
    assert await authors(shop) == {"EU,0": "inner", "EU,1": "outer"}


async def test_a_block_cancelled_within_a_statement_leaves_no_entry(shop: Database) -> None:
    """The transaction can only be rolled back; the session's next one has the author of its own."""
    if shop.config.is_sqlite:
        return
    async with shop.sessions() as session:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05), acting_as(session, OUTER), acting_as(session, INNER):
                (await stocks(session))[0].amount = 1
                await session.execute(text("SELECT pg_sleep(60)"))
        await session.rollback()
        async with acting_as(session, OUTER):
            (await stocks(session))[1].amount = 1
            await session.commit()
    assert await authors(shop) == {"EU,1": "outer"}


async def test_changes_that_could_not_be_flushed_get_no_other_author(shop: Database) -> None:
    """If the flush at the end of a block fails before it begins, a later flush of the block's changes is refused."""

    def fail_once(session: Any, *_: object) -> None:
        event.remove(session, "before_flush", fail_once)
        raise ZeroDivisionError

    with pytest.raises(NotAudited, match="nobody has said who changes it"):
        async with transaction(shop.sessions) as session, acting_as(session, OUTER):
            first, *_ = await stocks(session)
            with suppress(KeyError):
                async with acting_as(session, INNER):
                    first.amount = 1
                    event.listen(session.sync_session, "before_flush", fail_once)
                    raise KeyError
            await session.flush()
    assert await authors(shop) == {}


async def test_a_block_in_a_savepoint_that_the_database_undid_leaves_the_former_author(
    shop: Database,
) -> None:
    """What is changed after the savepoint is the doing of who acted before it."""
    async with transaction(shop.sessions) as session, acting_as(session, OUTER):
        with suppress(LedgerqError):
            async with savepoint(session), acting_as(session, INNER):
                session.add(Stock(region="EU", sku=1))
        (await stocks(session))[0].amount = 1
    assert await authors(shop) == {"EU,0": "outer"}


async def test_a_task_that_is_torn_down_within_a_block_leaves_no_author(shop: Database) -> None:
    """A coroutine that is closed may await nothing: its changes are refused to whoever uses the session next."""
    session = shop.sessions()

    async def change() -> None:
        async with acting_as(session, OUTER), acting_as(session, INNER):
            (await stocks(session))[0].amount = 1
            await asyncio.sleep(0)

    changing = change()
    with pytest.raises(NotAudited):
        async with session:
            await _run_to_its_sleep(changing, session)
            changing.close()
            await session.flush()
    assert await authors(shop) == {}


class Restock(Payload[Any]):
    kind: ClassVar[str] = "restock"
    sku: int = 0


async def restock(context: JobContext[Any], order: Restock) -> None:
    (await context.session.get_one(Stock, ("EU", order.sku))).amount += 1


async def _by_objects(session: Any) -> None:
    for stock in await stocks(session):
        stock.amount += 1


async def _by_a_statement(session: Any) -> None:
    await session.execute(update(Stock).values(amount=1))


async def _by_text(session: Any) -> None:
    await session.execute(text("UPDATE shop_stock SET amount = 1"))


async def _by_bulk_update(session: Any) -> None:
    async with BulkUpdate(session) as updates:
        for stock in await stocks(session):
            stock.amount += 1
            updates.add(stock)


@pytest.mark.parametrize("change", [_by_objects, _by_a_statement, _by_text, _by_bulk_update])
async def test_a_handler_of_many_changes_nothing_without_an_author(
    shop: Database, change: Any
) -> None:
    """Whatever way it changes an audited row, and whoever writes the entry, it is refused and each job runs alone."""
    assert shop.tables.recorder
    by_trigger = not shop.config.is_sqlite and shop.tables.recorder.rules[Stock].by_trigger
    if change is _by_text and not by_trigger:
        return  # the flush sees no text
    seen = []

    async def restock_many(contexts: Sequence[JobContext[Any]], _: Sequence[Restock]) -> list[None]:
        try:
            await change(contexts[0].session)
            await contexts[0].session.flush()
        except NotAudited as error:
            seen.append(error)
            raise
        return [None] * len(contexts)

    kind = Kind(Restock, restock, handle_many=restock_many)
    arrived = [delivery(Restock(sku=n), f"job-{n}") for n in range(3)]
    outcomes = await process(arrived, Registry([kind]), shop.sessions, Policy())
    assert [type(each) for each in outcomes] == [Completed] * 3
    assert seen
    assert await authors(shop) == {f"EU,{n}": "tester" for n in range(3)}


async def test_a_handler_of_many_may_run_statements_that_change_no_audited_row(
    shop: Database,
) -> None:
    """A statement on an audited table that finds no row needs no author, as a cascade of the database sends it."""
    if shop.config.is_sqlite:
        return

    async def restock_many(contexts: Sequence[JobContext[Any]], _: Sequence[Restock]) -> list[None]:
        await contexts[0].session.execute(text("DELETE FROM shop_stock WHERE sku = 77"))
        for context in contexts:
            async with acting_as(context.session, context.origin):
                await context.session.execute(text("UPDATE shop_stock SET amount = amount + 1"))
        return [None] * len(contexts)

    kind = Kind(Restock, restock, handle_many=restock_many)
    arrived = [delivery(Restock(sku=n), f"job-{n}") for n in range(2)]
    outcomes = await process(arrived, Registry([kind]), shop.sessions, Policy())
    assert [type(each) for each in outcomes] == [Completed] * 2


async def test_a_bulk_update_needs_an_author(shop: Database) -> None:
    """`add` refuses a changed row of an audited class if neither it nor the session names one; what is the same needs none."""
    async with transaction(shop.sessions) as session:
        first, second, _ = await stocks(session)
        async with BulkUpdate(session) as updates:
            first.amount = 0
            updates.add(first)
            second.amount = 1
            with pytest.raises(NotAudited, match="nobody has said who changes it"):
                updates.add(second)
            updates.add(second, INNER)
    assert await authors(shop) == {"EU,1": "inner"}


async def _run_to_its_sleep(changing: Any, session: Any) -> None:
    """Drive the coroutine until the row is changed."""

    class Driven:
        def __await__(self) -> Any:
            while not session.dirty:
                yield changing.send(None)

    await Driven()
