"""A job with its own commit sends its receipt with BEGIN, its audit entries and its answer with COMMIT."""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from ledgerq.audit import Change
from ledgerq.database.engine import Database, Sessions, Tables, build_database
from ledgerq.database.round_trips import literal
from ledgerq.database.session import LedgerqSession
from ledgerq.database.settings import DatabaseConfig
from ledgerq.database.transaction import savepoint, transaction
from ledgerq.errors import NotAllowedInJob, Refused
from ledgerq.execution.outcome import Buried, Completed, Duplicate, Outcome
from ledgerq.execution.process import process
from ledgerq.execution.registry import Registry
from ledgerq.execution.retry import Policy
from ledgerq.job import JobContext, job
from ledgerq.store import inbox, schema
from ledgerq.store.audit import of_job
from ledgerq.store.tables import AuditLog, ProcessedJob
from ledgerq.wire.payload import Payload
from tests.support import delivery, rows

Handler = Callable[[JobContext, Any], Awaitable[Any]]


class Work(Payload[Any], kind="work"):
    """What a test's handler does."""


def change(name: str) -> Change:
    return Change("shelf", name, "emptied", {"boxes": 1}, {"boxes": 0, "note": r"it's \ 'so' :x"})


async def run(sessions: Sessions, handler: Handler, job_id: str = "job") -> Outcome:
    async def work(context: JobContext, payload: Work) -> Any:
        return await handler(context, payload)

    registry = Registry([job(work)])
    [outcome] = await process([delivery(Work(), job_id)], registry, sessions, Policy(timeout=5))
    return outcome


@pytest.fixture
async def sent(monkeypatch: pytest.MonkeyPatch, sessions: Sessions) -> list[str]:
    """What goes to the server in each round trip, as far as asyncpg shows it, over a connection that is there."""
    async with transaction(sessions) as session:
        await session.execute(text("SELECT 1"))
    trips: list[str] = []
    execute, fetch = asyncpg.Connection.execute, asyncpg.prepared_stmt.PreparedStatement.fetch

    async def executes(self: Any, query: str, *args: Any, **more: Any) -> Any:
        trips.append(query)
        return await execute(self, query, *args, **more)

    async def fetches(self: Any, *args: Any, **more: Any) -> Any:
        trips.append(self.get_query())
        return await fetch(self, *args, **more)

    monkeypatch.setattr(asyncpg.Connection, "execute", executes)
    monkeypatch.setattr(asyncpg.prepared_stmt.PreparedStatement, "fetch", fetches)
    return trips


async def test_a_job_that_changes_nothing_takes_two_round_trips(
    sessions: Sessions, sent: list[str]
) -> None:
    async def nothing(context: JobContext, payload: Work) -> None:
        pass

    assert await run(sessions, nothing) == Completed(None)
    assert [trip.partition(" ")[0] for trip in sent] == ["BEGIN;INSERT", "COMMIT;"]


async def test_entries_and_answer_take_no_round_trip_of_their_own(
    sessions: Sessions, sent: list[str]
) -> None:
    async def records(context: JobContext, payload: Work) -> dict[str, str]:
        await context.record(change("one"), change("two"))
        return {"quote": "'", "backslash": "\\"}

    assert await run(sessions, records) == Completed({"quote": "'", "backslash": "\\"})
    assert len(sent) == 2
    entries = await rows(sessions, AuditLog)
    assert [(each.entity_id, each.job_id, each.after) for each in entries] == [
        (name, "job", change(name).after) for name in ("one", "two")
    ]
    again = await run(sessions, records)
    assert again == Duplicate(again.state, {"quote": "'", "backslash": "\\"})  # type: ignore[union-attr]
    assert len(await rows(sessions, AuditLog)) == 2


async def test_a_handler_reads_the_entries_that_it_has_written(any_sessions: Sessions) -> None:
    async def reads(context: JobContext, payload: Work) -> list[str]:
        await context.record(change("one"))
        found = await of_job(context.session, "job")
        await context.record(change("two"))
        plain = await context.session.scalar(text(f"SELECT count(*) FROM {table}"))  # noqa: S608
        return [*(each.entity_id for each in found), str(plain)]

    async with any_sessions() as session:
        on_sqlite = session.get_bind().dialect.name == "sqlite"
    table = "audit_log" if on_sqlite else "ledgerq.audit_log"
    assert await run(any_sessions, reads) == Completed(["one", "2"])
    assert [each.entity_id for each in await rows(any_sessions, AuditLog)] == ["one", "two"]


async def test_a_rolled_back_savepoint_takes_its_entries_along(any_sessions: Sessions) -> None:
    async def partly(context: JobContext, payload: Work) -> None:
        await context.record(change("before"))
        for read_first in (False, True):
            with suppress(LookupError):
                async with savepoint(context.session):
                    await context.record(change("undone"))
                    if read_first:
                        await of_job(context.session, "job")
                    await context.record(change("undone too"))
                    raise LookupError
        await context.record(change("after"))

    assert await run(any_sessions, partly) == Completed(None)
    kept = [each.entity_id for each in await rows(any_sessions, AuditLog)]
    assert kept == ["before", "after"]


@pytest.mark.parametrize("answer", [None, 1])
@pytest.mark.parametrize("by_orm", [True, False])
async def test_a_handler_cannot_delete_its_receipt(
    sessions: Sessions, answer: int | None, *, by_orm: bool
) -> None:
    async def deletes(context: JobContext, payload: Work) -> int | None:
        if by_orm:
            await context.session.delete(await context.session.get_one(ProcessedJob, "job"))
        else:
            await context.session.execute(text("DELETE FROM ledgerq.processed_job"))
        return answer

    outcome = await run(sessions, deletes)
    assert isinstance(outcome, Buried)
    assert isinstance(outcome.error, NotAllowedInJob)


async def test_what_waits_for_a_commit_is_forgotten_at_a_rollback(
    sessions: Sessions, sent: list[str]
) -> None:
    async def fails(session: LedgerqSession) -> None:
        await inbox.insert_receipt(session, "job", "work", b"")
        await inbox.keep_result(session, "job", 1)
        raise LookupError

    for _ in range(2):
        with pytest.raises(LookupError):
            async with transaction(sessions) as session:
                await fails(session)
    async with transaction(sessions) as session:
        await session.execute(text("SELECT 1"))
    assert not await rows(sessions, ProcessedJob)
    assert not any("UPDATE" in trip for trip in sent)


async def test_a_commit_that_fails_leaves_nothing_and_a_clean_pool(database: Database) -> None:
    """A deferred constraint fails at COMMIT, an entry that the log can't hold before it: nothing of the job stays."""

    async def twice(context: JobContext, payload: Work) -> int:
        await context.session.execute(text("INSERT INTO once VALUES (1), (1)"))
        await context.record(change("one"))
        return 1

    async def too_large(context: JobContext, payload: Work) -> int:
        await context.record(Change("shelf", 1, "filled", {}, {"note": "\x00"}))
        return 1

    async def fine(context: JobContext, payload: Work) -> int:
        await context.session.execute(text("INSERT INTO once VALUES (2)"))
        return 1

    async with transaction(database.sessions) as session:
        await session.execute(
            text("CREATE TABLE once (n int UNIQUE DEFERRABLE INITIALLY DEFERRED)")
        )
    for number, handler in enumerate((twice, too_large, twice, too_large)):
        outcome = await run(database.sessions, handler, f"job{number}")
        assert not isinstance(outcome, Completed)
    assert not await rows(database.sessions, AuditLog)
    assert not [
        each for each in await rows(database.sessions, ProcessedJob) if each.state == "done"
    ]
    assert await run(database.sessions, fine, "fine") == Completed(1)
    assert await run(database.sessions, fine, "fine2") != Completed(1)


async def test_in_another_schema_too(empty_postgresql_url: Any) -> None:
    tables = Tables(schema="elsewhere")
    other = build_database(DatabaseConfig(url=empty_postgresql_url), tables)
    try:
        await schema.create_tables(other)

        async def records(context: JobContext, payload: Work) -> int:
            await context.record(change("one"))
            return 7

        assert await run(other.sessions, records) == Completed(7)
        assert len(await rows(other.sessions, AuditLog)) == 1
    finally:
        await other.dispose()


VALUES = st.one_of(
    st.none(),
    st.integers(-(2**63), 2**63 - 1),
    st.binary(max_size=50),
    st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=50),
    st.text("\\'\"$E:;-/*x0", max_size=30),
)


@pytest.mark.parametrize("conforming", ["on", "off"])
async def test_a_literal_is_the_value(database: Database, conforming: str) -> None:
    async with database.engine.connect() as connection:
        driver: Any = (await connection.get_raw_connection()).driver_connection
        await driver.execute(f"SET standard_conforming_strings = {conforming}")
        seen: list[tuple[Any, str]] = []

        @settings(max_examples=300, suppress_health_check=list(HealthCheck), deadline=None)
        @given(VALUES)
        def collect(value: Any) -> None:
            seen.append((value, literal(value)))

        collect()
        for value, written in seen:
            kind = (
                "bytea"
                if isinstance(value, bytes)
                else "int8"
                if isinstance(value, int)
                else "text"
            )
            assert await driver.fetchval(f"SELECT CAST({written} AS {kind})") == value


def test_a_literal_has_no_nul() -> None:
    with pytest.raises(Refused, match="NUL"):
        literal("a\x00b")
