"""What else than the session's objects could write to an audited table is refused: mappings at the App, statements in a flush."""

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import ForeignKey, delete, event, insert, select, update
from sqlalchemy.engine import URL
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from ledgerq import App, Audited, audit
from ledgerq.admin.audit import attach, run
from ledgerq.audit import AuditLog, Origin, acting_as
from ledgerq.database.engine import Database, build_database
from ledgerq.database.settings import DatabaseConfig
from ledgerq.database.transaction import transaction
from ledgerq.errors import DefinitionError, NotAudited
from tests.audited_shop import Order, Stock, Visit, opened_shop

ADA = Origin("user:ada")


class Base(DeclarativeBase):
    """Of this file."""


class Group(Base):
    __tablename__ = "writers_group"
    id: Mapped[int] = mapped_column(primary_key=True)
    users: Mapped[list["User"]] = relationship(secondary="writers_member")


class User(Base):
    __tablename__ = "writers_user"
    id: Mapped[int] = mapped_column(primary_key=True)
    groups: Mapped[list[Group]] = relationship(secondary="writers_member", viewonly=True)


class Member(Base):
    __tablename__ = "writers_member"
    group: Mapped[int] = mapped_column(ForeignKey("writers_group.id"), primary_key=True)
    user: Mapped[int] = mapped_column(ForeignKey("writers_user.id"), primary_key=True)


class Note(Base):
    __tablename__ = "writers_note"
    id: Mapped[int] = mapped_column(primary_key=True)
    words: Mapped[str] = mapped_column(default="")


class ShortNote(Base):
    __table__ = Note.__table__


class OtherBase(DeclarativeBase):
    """Its classes are in another registry."""


class LateOrder(OtherBase):
    __table__ = Order.__table__


@contextmanager
def doing(entity: type[Any], name: str, statement: Any) -> Iterator[None]:
    """A listener of the class sends the statement over the connection of the flush."""

    def send(_: object, connection: Any, target: Any) -> None:
        connection.execute(statement(target))

    event.listen(entity, name, send)
    try:
        yield
    finally:
        event.remove(entity, name, send)


@pytest.fixture
async def shop(any_url: URL) -> AsyncIterator[Database]:
    async with opened_shop(any_url) as database:
        yield database


def test_a_relationship_that_writes_to_an_audited_table_is_refused() -> None:
    """The text names the relationship, the class, and what to do; one that only reads is not refused."""
    with pytest.raises(DefinitionError) as refused:
        App(jobs=[], audited=[Member])
    assert str(refused.value) == (
        "App(audited=): the relationship Group.users writes to table writers_member, which Member is audited in, and "
        "leaves no entry; say viewonly=True there and change objects of Member, or let a trigger write the entries: "
        "Audited(Member, by_trigger=True)"
    )
    App(jobs=[], audited=[Group, User])


async def test_a_relationship_that_writes_to_a_table_with_a_trigger_leaves_entries(
    any_url: URL,
) -> None:
    """Where there are no triggers, as on SQLite, the flush is refused."""
    app = App(jobs=[], metadata=[Base.metadata], audited=[Audited(Member, by_trigger=True)])
    database = build_database(DatabaseConfig(url=any_url), app.tables)
    try:
        async with database.engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        if database.config.is_sqlite:
            with pytest.raises(NotAudited, match=r"insert\(writers_member\)"):
                await _join(database)
            return
        await run(database, await attach(database, "writers_member"))
        await _join(database)
        async with database.sessions() as session:
            [entry] = (await session.scalars(select(AuditLog))).all()
        assert (entry.entity_id, entry.actor) == ("1,2", "user:ada")
    finally:
        await database.dispose()


async def _join(database: Database) -> None:
    async with transaction(database.sessions) as session, acting_as(session, ADA):
        session.add(Group(id=1, users=[User(id=2)]))


def test_an_unlisted_class_of_an_audited_table_is_refused() -> None:
    """The text names both classes; listed beside the other it is audited too, by whomever the entries are written."""
    for by_trigger in (False, True):
        with pytest.raises(DefinitionError) as refused:
            App(jobs=[], audited=[Audited(Note, by_trigger=by_trigger)])
        assert str(refused.value) == (
            "App(audited=): ShortNote has rows in table writers_note too, which Note is audited in, and its changes "
            "would leave no entry; list ShortNote as well"
        )
    App(jobs=[], audited=[Note, ShortNote])


async def test_an_unlisted_class_of_another_registry_is_refused_when_it_is_used(
    shop: Database,
) -> None:
    """An App knows the registries of the classes that it lists; no row of another's class is written without an entry."""
    with pytest.raises(DefinitionError, match="LateOrder has rows in table shop_order too"):
        async with transaction(shop.sessions) as session, acting_as(session, ADA):
            session.add(LateOrder(status="open"))


STATEMENTS = {
    "insert": lambda _: insert(Stock).values(region="x", sku=1, amount=1),
    "update": lambda _: update(Stock.__table__).values(amount=1),  # type: ignore[arg-type]
    "delete": lambda _: delete(Stock.__table__),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("moment", ["before_insert", "after_insert"])
@pytest.mark.parametrize("statement", STATEMENTS.values(), ids=STATEMENTS)
async def test_a_listeners_statement_on_an_audited_table_is_refused_in_a_flush(
    shop: Database, moment: str, statement: Any
) -> None:
    """As it is elsewhere: the flush knows nothing of the row. Said to be recorded by hand, it runs."""
    with doing(Visit, moment, statement), pytest.raises(NotAudited, match="does not see"):
        async with transaction(shop.sessions) as session, acting_as(session, ADA):
            session.add(Visit(page="/"))

    def by_hand(target: object) -> Any:
        return statement(target).execution_options(**{audit.BY_HAND: True})

    with doing(Visit, moment, by_hand):
        async with transaction(shop.sessions) as session, acting_as(session, ADA):
            session.add(Visit(page="/"))


async def test_a_listeners_statement_on_any_other_table_runs_in_a_flush(shop: Database) -> None:
    """Also while objects of audited classes are written."""
    with doing(Stock, "after_update", lambda _: insert(Visit).values(id=7, page="/")):
        async with transaction(shop.sessions) as session, acting_as(session, ADA):
            session.add(Stock(region="EU", sku=1))
        async with transaction(shop.sessions) as session, acting_as(session, ADA):
            (await session.get_one(Stock, ("EU", 1))).amount = 2
        async with shop.sessions() as session:
            assert (await session.get_one(Visit, 7)).page == "/"
