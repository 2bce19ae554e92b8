"""A job with its own commit sends its receipt with BEGIN; what ends a staged one goes with COMMIT."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import event, text

from ledgerq.audit import Change
from ledgerq.database.engine import Database, Sessions, Tables, build_database
from ledgerq.database.round_trips import literal
from ledgerq.database.session import LedgerqSession
from ledgerq.database.settings import DatabaseConfig
from ledgerq.database.transaction import transaction
from ledgerq.errors import NotAllowedInJob, Refused, SessionShared
from ledgerq.execution.delivery import Delivery
from ledgerq.execution.outcome import Buried, Completed, Outcome, Retry
from ledgerq.execution.process import process
from ledgerq.execution.registry import Registry
from ledgerq.execution.retry import Policy
from ledgerq.job import JobContext, job
from ledgerq.staging import stage
from ledgerq.store import inbox, outbox, schema
from ledgerq.store.tables import AuditLog, OutboxMessage, ProcessedJob
from ledgerq.wire.envelope import encode
from ledgerq.wire.payload import Payload
from ledgerq.wire.request import Request
from tests.support import rows

Handler = Callable[[JobContext, Any], Awaitable[Any]]


class Work(Payload[Any], kind="work"):
    """What a test's handler does."""


def change(name: str) -> Change:
    return Change("shelf", name, "emptied", {"boxes": 1}, {"boxes": 0, "note": r"it's \ 'so' :x"})


async def run(
    sessions: Sessions, handler: Handler, job_id: str = "job", *, staged: bool = False
) -> Outcome:
    async def work(context: JobContext, payload: Work) -> Any:
        return await handler(context, payload)

    registry = Registry([job(work)])
    body = encode(replace(Request(Work()).envelope, staged=staged), queue="q")
    arrived = Delivery(job_id, 1, body)
    [outcome] = await process([arrived], registry, sessions, Policy(timeout=5))
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


async def test_a_staged_job_is_forgotten_in_the_round_trip_of_its_commit(
    sessions: Sessions, sent: list[str]
) -> None:
    async def nothing(context: JobContext, payload: Work) -> None:
        pass

    async with transaction(sessions) as session:
        await stage(session, Work(), job_id="job")
    sent.clear()
    assert await run(sessions, nothing, staged=True) == Completed(None)
    assert [trip.partition(" ")[0] for trip in sent] == ["BEGIN;INSERT", "DELETE"]
    assert sent[1].endswith("COMMIT;")
    assert not await rows(sessions, OutboxMessage)


@pytest.mark.parametrize("answer", [0, -7, 2**80, True, False])
async def test_a_number_is_kept_as_the_result_in_the_round_trip_of_the_commit(
    sessions: Sessions, sent: list[str], answer: int
) -> None:
    async def answers(context: JobContext, payload: Work) -> int:
        return answer

    assert await run(sessions, answers) == Completed(answer)
    assert [trip.partition(" ")[0] for trip in sent] == ["BEGIN;INSERT", "WITH"]
    assert sent[1].endswith("COMMIT;")
    [kept] = [each.result for each in await rows(sessions, ProcessedJob)]
    assert (kept, type(kept)) == (answer, type(answer))


async def test_no_text_of_a_result_is_in_a_message_that_a_server_may_log(
    sessions: Sessions, sent: list[str]
) -> None:
    async def answers(context: JobContext, payload: Work) -> Any:
        return {"token": "it's \\ private", "n": 1}

    assert isinstance(await run(sessions, answers), Completed)
    assert not any("private" in trip for trip in sent)
    [kept] = await rows(sessions, ProcessedJob)
    assert kept.result == {"token": "it's \\ private", "n": 1}


@pytest.mark.parametrize("how", ["appends a comment", "strips comments", "sends a statement first"])
async def test_listeners_of_the_service_do_not_keep_begin_from_the_server(
    database: Database, how: str
) -> None:
    """As OpenTelemetry's commenter does, and row level security by a listener."""
    done: dict[Any, Any] = {}  # connection → its transaction that was set up

    def listener(
        connection: Any, cursor: Any, statement: str, parameters: Any, *more: Any
    ) -> tuple[str, Any]:
        if how == "appends a comment":
            return f"{statement} /* trace='1' */", parameters
        if how == "strips comments":
            return "" if statement.startswith("--") else statement, parameters
        if connection.get_transaction() is not done.get(connection):
            done[connection] = connection.get_transaction()
            connection.exec_driver_sql("SET LOCAL work_mem = '5MB'")
        return statement, parameters

    async def reads(context: JobContext, payload: Work) -> str:
        return str(await context.session.scalar(text("SHOW work_mem")))

    async def fails(context: JobContext, payload: Work) -> None:
        await context.session.execute(text("CREATE TABLE undone (n int)"))
        raise LookupError

    event.listen(database.engine.sync_engine, "before_cursor_execute", listener, retval=True)
    memory = "5MB" if how == "sends a statement first" else "4MB"
    for n in range(3):  # the later ones find the listener's statement prepared
        assert await run(database.sessions, reads, f"job{n}") == Completed(memory)
    assert isinstance(await run(database.sessions, fails, "failing"), Retry)
    async with transaction(database.sessions) as session:
        assert await session.scalar(text("SELECT to_regclass('undone')")) is None


@pytest.mark.parametrize("answer", [1, "one"])
@pytest.mark.parametrize("by", ["the ORM", "SQL", "asyncpg", "a function"])
async def test_a_handler_cannot_delete_its_receipt(
    sessions: Sessions, by: str, answer: Any
) -> None:
    """A job with a result; nobody looks for the receipt of one without."""
    deletion = "DELETE FROM LEDGERQ.PROCESSED_JOB"

    async def deletes(context: JobContext, payload: Work) -> Any:
        session = context.session
        if by == "the ORM":
            await session.delete(await session.get_one(ProcessedJob, "job"))
        elif by == "SQL":
            await session.execute(text(deletion))
        elif by == "asyncpg":
            driver: Any = await (await session.connection()).get_raw_connection()
            await driver.driver_connection.execute(deletion)
        else:
            await session.execute(text("SELECT wipe()"))
        return answer

    async with transaction(sessions) as session:
        function = f"CREATE FUNCTION wipe() RETURNS void LANGUAGE sql AS '{deletion}'"
        await session.execute(text(function))
    outcome = await run(sessions, deletes)
    assert isinstance(outcome, Buried)
    assert isinstance(outcome.error, NotAllowedInJob)


async def test_what_waits_for_a_commit_is_forgotten_at_a_rollback(
    sessions: Sessions, sent: list[str]
) -> None:
    async def fails(session: LedgerqSession) -> None:
        await inbox.insert_receipt(session, "job", "work", b"")
        await outbox.remove_last(session, "job")
        raise LookupError

    for _ in range(2):
        with pytest.raises(LookupError):
            async with transaction(sessions) as session:
                await fails(session)
    async with transaction(sessions) as session:
        await session.execute(text("SELECT 1"))
    assert not await rows(sessions, ProcessedJob)
    assert not any("DELETE" in trip for trip in sent)


async def test_a_commit_that_fails_leaves_nothing_and_a_clean_pool(database: Database) -> None:
    async def twice(context: JobContext, payload: Work) -> int:
        await context.session.execute(text("INSERT INTO once VALUES (1), (1)"))
        await context.record(change("one"))
        return 1

    async def fine(context: JobContext, payload: Work) -> int:
        await context.session.execute(text("INSERT INTO once VALUES (2)"))
        return 1

    async with transaction(database.sessions) as session:
        await session.execute(
            text("CREATE TABLE once (n int UNIQUE DEFERRABLE INITIALLY DEFERRED)")
        )
    for number, handler in enumerate((twice, twice)):
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


async def test_a_task_that_still_uses_the_session_keeps_it_from_its_commit(
    any_sessions: Sessions,
) -> None:
    """Also if there is nothing to flush."""
    left: asyncio.Task[Any] | None = None
    with pytest.raises(SessionShared):
        async with transaction(any_sessions) as session:
            left = asyncio.create_task(session.execute(text("SELECT 1")))
            await asyncio.sleep(0)  # it has begun
    assert left
    await asyncio.gather(left, return_exceptions=True)
