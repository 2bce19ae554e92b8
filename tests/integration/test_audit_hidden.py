"""What `Audited` masks or excludes never reaches the log, whoever writes the entry, and whatever changed meanwhile."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import permutations
from typing import Any

import pytest
from sqlalchemy import ForeignKey, Text, select, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlmodel import col

from ledgerq import App, Audited, audit
from ledgerq.admin.audit import attach, run
from ledgerq.audit import AuditLog, Change, Origin, acting_as
from ledgerq.database.engine import Database, build_database
from ledgerq.database.settings import DatabaseConfig
from ledgerq.database.transaction import transaction
from ledgerq.errors import SettingError
from ledgerq.store.audit_attached import require_attached
from ledgerq.store.audit_trigger import functions_version

ADA = Origin("user:ada")
SECRETS = ("name-1", "pin-2", "word-3", "number-4", "note-5")


class Base(DeclarativeBase):
    """Of this file."""


class Person(Base):
    __tablename__ = "hidden_person"
    id: Mapped[int] = mapped_column("person_id", primary_key=True)
    role: Mapped[str] = mapped_column(Text)
    name: Mapped[str | None] = mapped_column(Text)
    __mapper_args__ = {"polymorphic_on": "role", "polymorphic_identity": "person"}  # noqa: RUF012


class Chief(Person):
    """In a table of its own beside that of persons."""

    __tablename__ = "hidden_chief"
    id: Mapped[int] = mapped_column(ForeignKey("hidden_person.person_id"), primary_key=True)
    pin: Mapped[str] = mapped_column("pin_code", Text)
    __mapper_args__ = {"polymorphic_identity": "chief"}  # noqa: RUF012


class Guest(Person):
    """In the table of persons."""

    word: Mapped[str | None] = mapped_column(Text)
    __mapper_args__ = {"polymorphic_identity": "guest"}  # noqa: RUF012


class Card(Base):
    __tablename__ = "hidden_card"
    id: Mapped[int] = mapped_column(primary_key=True)
    number: Mapped[str | None] = mapped_column("card_number", Text)
    note: Mapped[str | None] = mapped_column(Text)


TABLES = ("hidden_person", "hidden_chief", "hidden_card")


@asynccontextmanager
async def opened(url: URL, *audited: Any) -> AsyncIterator[Database]:
    """A service that audits these classes, with its tables."""
    app = App(jobs=[], metadata=[Base.metadata], audited=audited)
    database = build_database(DatabaseConfig(url=url), app.tables)
    try:
        async with database.engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        yield database
    finally:
        await database.dispose()


@asynccontextmanager
async def by(database: Database) -> AsyncIterator[Any]:
    async with transaction(database.sessions) as session, acting_as(session, ADA):
        yield session


async def run_sql(database: Database, *statements: str) -> None:
    async with database.engine.begin() as connection:
        for statement in statements:
            await connection.execute(text(statement))


async def log_of(database: Database) -> Sequence[AuditLog]:
    async with database.sessions() as session:
        return (await session.scalars(select(AuditLog).order_by(col(AuditLog.id)))).all()


async def leaked(database: Database) -> list[str]:
    told = [f"{entry.before} {entry.after}" for entry in await log_of(database)]
    assert told
    return [secret for secret in SECRETS if any(secret in each for each in told)]


HIDING = (
    ("mask", {Person: {"name"}, Chief: {"pin"}, Guest: {"word"}}),
    ("exclude", {Person: {"name"}, Chief: {"pin"}, Guest: {"word"}}),
)


@pytest.mark.parametrize(("option", "hidden"), HIDING)
@pytest.mark.parametrize("order", list(permutations((Person, Chief, Guest))))
@pytest.mark.parametrize("by_trigger", [False, True])
async def test_what_one_class_hides_no_entry_of_its_tables_shows(
    postgresql_url: URL, option: str, hidden: Any, order: Any, by_trigger: bool
) -> None:
    """In whatever order a parent and its subclasses are listed, by the flush and by triggers."""
    listed: list[Any] = [
        Audited(each, by_trigger=by_trigger, **{option: hidden[each]}) for each in order
    ]
    async with opened(postgresql_url, *listed) as database:
        if by_trigger:
            for table in ("hidden_person", "hidden_chief"):
                await run(database, await attach(database, table))
        await require_attached(database)
        async with by(database) as session:
            session.add(Chief(id=1, name="name-1", pin="pin-2"))
            session.add(Guest(id=2, name="name-1", word="word-3"))
            session.add(Person(id=3, name="name-1"))
        assert await leaked(database) == []
        assert {e.entity_id for e in await log_of(database)} == {"1", "2", "3"}


async def test_a_subclass_hides_what_its_parent_hides(any_url: URL) -> None:
    """Also where it is listed with rules of its own, or not at all."""
    for audited in ([Chief], []):
        async with opened(any_url, Audited(Person, mask={"name"}), *audited) as database:
            async with by(database) as session:
                session.add(Chief(id=len(audited), name="name-1", pin="shown"))
            assert await leaked(database) == []
            assert (await log_of(database))[-1].after["pin"] == "shown"


@pytest.mark.parametrize("by_trigger", [False, True])
async def test_entries_by_hand_hide_what_the_class_hides(any_url: URL, by_trigger: bool) -> None:
    """Under the names of attributes and of columns; NULL stays visible, and so do words of one's own."""
    rules = Audited(Card, mask={"number"}, exclude={"note"}, by_trigger=by_trigger)
    async with opened(any_url, rules) as database:
        async with by(database) as session:
            card = Card(id=1, number="number-4", note="note-5")
            session.add(card)
            await session.flush()
            shown = {"number": "number-4", "card_number": "number-4", "note": "note-5", "why": "x"}
            await audit.record(
                session,
                ADA,
                Change.created(card),
                Change.of(card, {"number": None}, shown, "looked at"),
                Change.inserted("hidden_card", 1, shown),
                Change("hidden_card", 1, "said", shown, {}),
                Change.gone(card, "shredded"),
            )
        assert await leaked(database) == []
        looked_at = next(e for e in await log_of(database) if e.action == "looked at")
        assert looked_at.before == {"number": None}
        assert looked_at.after == {"number": "***", "card_number": "***", "why": "x"}


BY_TRIGGER = Audited(Card, by_trigger=True)
HIDDEN = Audited(Card, mask={"number"}, exclude={"note"}, by_trigger=True)

CHANGED_MEANWHILE = {
    "a mask that is new": ([], Audited(Card, mask={"number"}, by_trigger=True), "does not hide card_number"),
    "an exclusion that is new": ([], Audited(Card, exclude={"note"}, by_trigger=True), "does not hide note"),
    "all triggers disabled": (["ALTER TABLE hidden_card DISABLE TRIGGER ALL"], BY_TRIGGER, "insert, .* disabled"),
    "a trigger for replicas only": (
        ["ALTER TABLE hidden_card ENABLE REPLICA TRIGGER ledgerq_audit_delete"], BY_TRIGGER, "delete, .* disabled",
    ),
    "a trigger dropped": (["DROP TRIGGER ledgerq_audit_insert ON hidden_card"], BY_TRIGGER, "lacks .*_insert.*"),
    "another dropped": (["DROP TRIGGER ledgerq_audit_truncate ON hidden_card"], BY_TRIGGER, "lacks .*_truncate.*"),
    "a renamed key": (["ALTER TABLE hidden_card RENAME id TO nr"], BY_TRIGGER, "its key is id, the table's nr"),
}  # fmt: skip


@pytest.mark.parametrize(
    ("statements", "now", "said"), CHANGED_MEANWHILE.values(), ids=CHANGED_MEANWHILE
)
async def test_a_worker_refuses_triggers_that_are_not_as_the_class_is_audited_now(
    postgresql_url: URL, statements: list[str], now: Audited, said: str
) -> None:
    """The sentence names the difference; attaching again mends it."""
    async with opened(postgresql_url, BY_TRIGGER) as before:
        await run(before, await attach(before, "hidden_card"))
        await require_attached(before)
        await run_sql(before, *statements)
    async with opened(postgresql_url, now) as database:
        with pytest.raises(SettingError, match=rf"{said}; run: ledgerq audit attach .*hidden_card"):
            await require_attached(database)
        await run(database, await attach(database, "hidden_card"))
        await require_attached(database)


def outdated(statements: Sequence[str]) -> list[str]:
    """The statements that an older ledgerq attached the triggers by."""
    now, before = (f"audit triggers: {functions_version() - age}" for age in (0, 1))
    return [each.replace(now, before) for each in statements]


async def test_functions_of_an_older_version_are_refused(postgresql_url: URL) -> None:
    """They stand in the database, and only attaching replaces them."""
    async with opened(postgresql_url, BY_TRIGGER) as database:
        statements = await attach(database, "hidden_card")
        await run(database, outdated(statements))
        with pytest.raises(SettingError, match="has triggers of an older ledgerq"):
            await require_attached(database)
        await run(database, statements)
        await require_attached(database)


async def test_attaching_again_as_told_keeps_what_only_an_option_hides(postgresql_url: URL) -> None:
    """The sentence repeats the options."""
    async with opened(postgresql_url, BY_TRIGGER) as database:
        await run(database, await attach(database, "hidden_card", mask=["note"]))
        await require_attached(database)
    async with opened(postgresql_url, Audited(Card, mask={"number"}, by_trigger=True)) as database:
        with pytest.raises(SettingError, match=r"attach \S+ --mask note$"):
            await require_attached(database)


async def test_the_told_command_hides_no_column_of_the_key(postgresql_url: URL) -> None:
    """Where an older ledgerq excluded a part of the key, the command of the sentence leaves it out, and so can be run."""
    async with opened(postgresql_url, BY_TRIGGER) as database:
        made = await attach(database, "hidden_card", exclude=["note"])
        with_key = [each.replace("""'{"note"}'""", """'{"id","note"}'""") for each in made]
        await run(database, outdated(with_key))
        with pytest.raises(SettingError, match=r"attach \S+ --exclude note$"):
            await require_attached(database)


RENAMED = {"key": ("id", "nr"), "masked": ("card_number", "digits"), "excluded": ("note", "remark")}


@pytest.mark.parametrize(("column", "renamed"), RENAMED.values(), ids=RENAMED)
async def test_a_trigger_refuses_rows_whose_columns_were_renamed(
    postgresql_url: URL, column: str, renamed: str
) -> None:
    """It would show what was hidden, or lose the key; each kind of statement is refused with the cure."""
    async with opened(postgresql_url, HIDDEN) as database:
        await run(database, await attach(database, "hidden_card"))
        await run_sql(database, "INSERT INTO hidden_card VALUES (1, 'number-4', 'note-5')")
        await run_sql(database, f"ALTER TABLE hidden_card RENAME {column} TO {renamed}")
        for statement in (
            "INSERT INTO hidden_card VALUES (2, 'number-4', 'note-5')",
            f"UPDATE hidden_card SET {renamed} = '7'",  # noqa: S608 - names of this file
            "DELETE FROM hidden_card",
        ):
            with pytest.raises(DBAPIError, match=rf"column {column}, .*: run ledgerq audit attach"):
                await run_sql(database, statement)
        assert await leaked(database) == []
