"""Whatever a handler raises or answers: its job ends, its neighbours pay nothing, and what is kept is cut to length."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.engine import URL
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from db import projects
from db.database import open_database
from db.inputs import NewProject
from db.models import Project
from ledgerq.database.engine import Database, Sessions
from ledgerq.database.settings import DatabaseConfig
from ledgerq.database.transaction import transaction
from ledgerq.errors import HandlerSilent, Permanent, RetryLater, Snooze
from ledgerq.errors.jobs import MAX_PROBLEMS
from ledgerq.execution.outcome import Buried, Completed, Outcome, Retry
from ledgerq.execution.process import process
from ledgerq.execution.registry import Registry
from ledgerq.execution.retry import Policy
from ledgerq.job import JobContext, Kind
from ledgerq.store.tables import DeadLetter
from ledgerq.wire.payload import Payload
from tests.support import count, delivery, eventually, letter, process_one, rows

Handler = Callable[[JobContext, "Odd"], Awaitable[Any]]
LAST = Policy().max_attempts


class Odd(Payload, kind="odd"):
    n: int = 0


def registry(handle: Handler, **options: Any) -> Registry:
    return Registry([Kind(Odd, handle, **options)])


async def one(
    sessions: Sessions, handle: Handler, *, attempt: int = 1, n: int = 0, **policy: Any
) -> Outcome:
    arrived = delivery(Odd(n=n), f"j{n}", attempt)
    return await process_one(arrived, registry(handle), sessions, Policy(**policy))


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class Deadly(Exception):
    def __str__(self) -> str:
        raise SystemExit(3)


class Liar(Exception):
    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        raise RuntimeError("no class")


class Loud(Exception):
    def __getattribute__(self, name: str) -> Any:
        raise KeyError(name)


def nested(depth: int) -> BaseException:
    error: Exception = ValueError("at the bottom")
    for _ in range(depth):
        error = ExceptionGroup("deeper", [error])
    return error


def chained(length: int) -> BaseException:
    error: Exception = ValueError("first")
    for n in range(length):
        following = ValueError(f"{n}")
        following.__cause__ = error
        error = following
    return error


RAISED: dict[str, Callable[[], BaseException]] = {
    "no text": Mute,
    "a text that exits": Deadly,
    "no class": Liar,
    "no attributes": Loud,
    "GeneratorExit": GeneratorExit,
    "SystemExit": lambda: SystemExit(0),
    "KeyboardInterrupt": KeyboardInterrupt,
    "a cancellation of its own": asyncio.CancelledError,
    "StopIteration": StopIteration,
    "StopAsyncIteration": StopAsyncIteration,
    "8 MB": lambda: ValueError("x" * 8_000_000),
    "a group": lambda: ExceptionGroup("two", [Mute(), ValueError("x" * 100_000)]),
    "a group of exits": lambda: BaseExceptionGroup("exits", [SystemExit(1), GeneratorExit()]),
    "a deep group": lambda: nested(500),
    "a wide group": lambda: ExceptionGroup("wide", [ValueError(str(n)) for n in range(5_000)]),
    "a long chain": lambda: chained(900),
    "NUL and half a character": lambda: ValueError("\x00 \ud800 \x1b[2J"),
    "MemoryError": MemoryError,
    "RecursionError": RecursionError,
}


@pytest.mark.parametrize("make", RAISED.values(), ids=RAISED)
async def test_whatever_is_raised_is_buried_in_the_end(
    any_sessions: Sessions, make: Callable[[], BaseException]
) -> None:
    """After its attempts, with a letter of bounded size; before that, each attempt is spent."""

    async def handle(context: JobContext, odd: Odd) -> None:
        raise make()

    again = await one(any_sessions, handle)
    assert isinstance(again, Retry)
    assert again.counts_as_attempt
    assert isinstance(await one(any_sessions, handle, attempt=LAST), Buried)
    kept = await letter(any_sessions, "j0")
    size = len(kept.error) + len(kept.traceback or "") + len(str(kept.attempts))
    assert 0 < size < 30_000


@pytest.mark.parametrize("make", RAISED.values(), ids=RAISED)
async def test_whatever_is_raised_costs_its_batch_neighbours_nothing(
    any_sessions: Sessions, make: Callable[[], BaseException]
) -> None:
    """They are done at their first attempt."""

    async def handle(context: JobContext, odd: Odd) -> None:
        if odd.n == 1:
            raise make()
        await projects.create(context.session, context.origin, NewProject(name="x"))

    known = registry(handle, shares_commit=True)
    arrived = [delivery(Odd(n=n), f"j{n}") for n in range(4)]
    outcomes = await process(arrived, known, any_sessions, Policy())
    assert [isinstance(o, Completed) for o in outcomes] == [True, False, True, True]
    assert isinstance(outcomes[1], Retry)
    assert await count(any_sessions, Project) == 3


async def test_a_handler_that_cancels_its_own_task_is_a_failed_attempt(
    any_sessions: Sessions,
) -> None:
    """The worker's task goes on; nobody takes it for a stop."""

    async def handle(context: JobContext, odd: Odd) -> None:
        task = asyncio.current_task()
        assert task
        task.cancel()
        await asyncio.sleep(0)

    assert isinstance(await one(any_sessions, handle, attempt=LAST), Buried)
    task = asyncio.current_task()
    assert task
    assert not task.cancelling()
    await asyncio.sleep(0)


async def test_a_handler_that_does_not_stop_is_left_behind(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It swallows its cancellation; its job ends with its timeout all the same, and no connection is lost."""
    monkeypatch.setattr("ledgerq.execution.containment.PATIENCE", 0.05)

    async def handle(context: JobContext, odd: Odd) -> None:
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                continue

    outcome = await one(database.sessions, handle, timeout=0.1)
    assert isinstance(outcome, Retry)
    assert "longer than its timeout of 0.1 s" in str(outcome.error)
    assert database.engine.pool.checkedout() == 0  # type: ignore[attr-defined]


# --- groups -----------------------------------------------------------------------------------------


async def in_a_group(*errors: BaseException) -> None:
    async def sub(error: BaseException) -> None:
        raise error

    async with asyncio.TaskGroup() as group:
        for error in errors:
            group.create_task(sub(error))


@pytest.mark.parametrize(
    ("errors", "wanted"),
    [
        ([Permanent("no")], "buried"),
        ([ValueError(), Permanent("no")], "buried"),
        ([Snooze(5)], "snoozed"),
        ([RetryLater(7)], "later"),
        ([Snooze(5), RetryLater(7)], "later"),
        ([Snooze(5), ValueError()], "failed"),
        ([Permanent("no"), Snooze(5)], "buried"),
    ],
)
async def test_what_a_handler_asks_for_is_heard_out_of_a_task_group(
    sessions: Sessions, errors: list[BaseException], wanted: str
) -> None:
    """However deep in groups; a failure beside a wish that spends no attempt spends one, so that it ends."""

    async def handle(context: JobContext, odd: Odd) -> None:
        try:
            await in_a_group(*errors)
        except BaseExceptionGroup as group:
            raise BaseExceptionGroup("outer", [group]) from None

    outcome = await one(sessions, handle)
    heard: dict[str, bool] = {
        "buried": isinstance(outcome, Buried),
        "snoozed": isinstance(outcome, Retry)
        and not outcome.counts_as_attempt
        and outcome.delay == 5,
        "later": isinstance(outcome, Retry) and outcome.counts_as_attempt and outcome.delay == 7,
        "failed": isinstance(outcome, Retry) and outcome.counts_as_attempt and outcome.delay < 2,
    }
    assert heard[wanted], outcome


async def test_a_lost_connection_in_a_group_is_an_interruption(sessions: Sessions) -> None:
    """It is the job's own connection that was cut."""

    async def handle(context: JobContext, odd: Odd) -> None:
        async def cut() -> None:
            await context.session.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))

        async with asyncio.TaskGroup() as group:
            group.create_task(cut())

    outcome = await one(sessions, handle)
    assert isinstance(outcome, Retry)
    assert (outcome.counts_as_attempt, outcome.interrupted) == (False, True)


async def test_letters_of_groups_show_what_is_in_them(sessions: Sessions) -> None:
    """The leaves are in the text, and different leaves have different fingerprints."""
    errors: list[Exception] = [KeyError("customer"), OSError("disk")]

    async def handle(context: JobContext, odd: Odd) -> None:
        await in_a_group(errors[odd.n % 2])

    for n in range(4):
        await one(sessions, handle, attempt=LAST, n=n)
    kept = [await letter(sessions, f"j{n}") for n in range(4)]
    assert "KeyError: 'customer'" in kept[0].error
    assert "OSError: disk" in kept[1].error
    assert kept[0].fingerprint == kept[2].fingerprint != kept[1].fingerprint


# --- whose fault it is ------------------------------------------------------------------------------


async def silent_for_too_long(session: AsyncSession, watching: Sessions) -> None:
    """Do nothing in the transaction until the server has ended its connection."""
    pid = await session.scalar(text("SELECT pg_backend_pid()"))

    async def gone() -> bool:
        async with watching() as other:
            found = text("SELECT count(*) FROM pg_stat_activity WHERE pid = :pid")
            return not await other.scalar(found, {"pid": pid})

    await eventually(gone)


@pytest.mark.parametrize("ending", ["returns", "goes on", "raises", "blocks", "blocks and raises"])
async def test_a_handler_that_is_silent_in_its_transaction_has_failed(
    postgresql_url: URL, sessions: Sessions, ending: str
) -> None:
    """PostgreSQL ends its connection: an attempt is spent, and the error says to move the slow part."""

    async def handle(context: JobContext, odd: Odd) -> None:
        await projects.create(context.session, context.origin, NewProject(name="x"))
        if "blocks" in ending:  # the loop can't read that the connection is gone
            time.sleep(1.5)  # noqa: ASYNC251
        else:
            await silent_for_too_long(context.session, sessions)
        if ending == "goes on":
            await context.session.execute(text("SELECT 1"))
        if "raises" in ending:
            raise ValueError("after it")

    config = DatabaseConfig(url=postgresql_url, idle_in_transaction_timeout=1)
    async with open_database(config) as database:
        again = await one(database.sessions, handle)
        assert isinstance(again, Retry)
        assert again.counts_as_attempt
        assert isinstance(again.error, HandlerSilent)
        await one(database.sessions, handle, attempt=LAST)
        kept = await letter(database.sessions, "j0")
        assert await count(database.sessions, Project) == 0
    assert kept.reason == "handler_silent"
    assert "move what is slow out of the transaction: @job(outside=…)" in kept.error


@pytest.mark.parametrize("seconds", [0.95, 1.4])
@pytest.mark.parametrize("reason", ["refused", "not_allowed_in_job"])
async def test_what_a_handler_did_wrong_before_it_was_silent_is_told(
    postgresql_url: URL, seconds: float, reason: str
) -> None:
    """The look at the connection after a silence covers nothing up."""

    async def swallow(context: JobContext, odd: Odd) -> None:
        context.session.add_all([Project(name="x", key="K"), Project(name="y", key="K")])
        with suppress(IntegrityError):
            await context.session.flush()
        await asyncio.sleep(seconds)

    async def let_go(context: JobContext, odd: Odd) -> None:
        await (await context.session.connection()).close()
        await asyncio.sleep(seconds)

    config = DatabaseConfig(url=postgresql_url, idle_in_transaction_timeout=1)
    async with open_database(config) as database:
        buried = await one(database.sessions, {"refused": swallow}.get(reason, let_go))
    assert isinstance(buried, Buried)
    assert buried.reason == reason


async def test_a_handler_that_was_silent_may_still_say_that_it_is_permanent(
    postgresql_url: URL, sessions: Sessions
) -> None:
    """What it asks for is heard, though its connection is gone."""

    async def handle(context: JobContext, odd: Odd) -> None:
        await silent_for_too_long(context.session, sessions)
        raise Permanent("no such customer")

    config = DatabaseConfig(url=postgresql_url, idle_in_transaction_timeout=1)
    async with open_database(config) as database:
        outcome = await one(database.sessions, handle)
    assert isinstance(outcome, Buried)
    assert outcome.reason == "permanent"


@pytest.mark.parametrize("by", ["statement", "transaction", "connect", "group"])
async def test_another_database_that_fails_is_the_handlers_own_failure(
    sessions: Sessions, empty_postgresql_url: URL, by: str
) -> None:
    """Its second database drops the connection, or does not answer: an attempt of the job, no interruption."""
    other = DatabaseConfig(url=empty_postgresql_url)
    if by == "connect":
        other = DatabaseConfig(url="postgresql://me@127.0.0.1:1/nobody")

    async def use(second: Database) -> None:
        cut = text("SELECT pg_terminate_backend(pg_backend_pid())")
        if by == "transaction":
            async with transaction(second.sessions) as session:
                await session.execute(cut)
        elif by == "connect":
            async with transaction(second.sessions):
                pass
        else:
            async with second.engine.connect() as connection:
                await connection.execute(cut)

    async def handle(context: JobContext, odd: Odd) -> None:
        async with open_database(other) as second:
            if by != "group":
                await use(second)
            async with asyncio.TaskGroup() as group:
                group.create_task(use(second))

    outcome = await one(sessions, handle)
    assert isinstance(outcome, Retry)
    assert (outcome.counts_as_attempt, outcome.interrupted) == (True, False)


WAITS: dict[str, tuple[str, str]] = {
    "a grant is missing": ("42501", "missing_grant"),
    "a lock is held": ("55P03", "lock"),
    "a table is missing": ("42P01", "schema_skew"),
}


@pytest.mark.parametrize(("state", "waits_for"), WAITS.values(), ids=WAITS)
async def test_what_others_have_to_mend_has_patience(
    sessions: Sessions, state: str, waits_for: str
) -> None:
    """Four times the attempts, and the outcome says what is waited for."""

    async def handle(context: JobContext, odd: Odd) -> None:
        raised = f"DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = '{state}'; END $$"
        await context.session.execute(text(raised))

    again = await one(sessions, handle, attempt=4 * LAST - 1)
    assert isinstance(again, Retry)
    assert again.waits_for == waits_for
    assert isinstance(await one(sessions, handle, attempt=4 * LAST), Buried)


async def test_an_unknown_field_has_patience_and_other_faults_have_none(sessions: Sessions) -> None:
    """A newer worker may know the field; a wrong value stays wrong."""

    class Newer(Odd):
        extra: int = 0

    class Wrong(Odd):
        n: str = "x"  # type: ignore[assignment]

    async def handle(context: JobContext, odd: Odd) -> None:
        return None

    known, newer = registry(handle), Newer(extra=1)
    again = await process_one(delivery(newer, "j0", 4 * LAST - 1), known, sessions, Policy())
    assert isinstance(again, Retry)
    assert again.waits_for == "unknown_fields"
    assert isinstance(
        await process_one(delivery(newer, "j0", 99), known, sessions, Policy()), Buried
    )
    assert (await letter(sessions, "j0")).problems == [
        {"field": "extra", "problem": "Extra inputs are not permitted"}
    ]
    wrong = await process_one(delivery(Wrong(n="y"), "j1"), known, sessions, Policy())
    assert isinstance(wrong, Buried)


# --- results and problems ---------------------------------------------------------------------------

RESULTS: dict[str, tuple[Any, str]] = {
    "NaN": (float("nan"), "invalid_result"),
    "infinity in a list": ([float("inf")], "invalid_result"),
    "NUL": ({"a": "x\x00"}, "invalid_result"),
    "half a character": ("\ud800", "invalid_result"),
    "an object": (object(), "invalid_result"),
    "1 MB": ("x" * 1_000_000, "result_too_large"),
}


@pytest.mark.parametrize(("result", "reason"), RESULTS.values(), ids=RESULTS)
async def test_a_result_that_can_not_be_kept_is_the_results_own_error(
    any_sessions: Sessions, result: Any, reason: str
) -> None:
    """The letter names the result and the problem; nothing of the job is left, nor of its neighbours lost."""

    async def handle(context: JobContext, odd: Odd) -> Any:
        await projects.create(context.session, context.origin, NewProject(name="x"))
        return result if odd.n == 1 else None

    known = registry(handle, shares_commit=True)
    arrived = [delivery(Odd(n=n), f"j{n}") for n in range(3)]
    outcomes = await process(arrived, known, any_sessions, Policy())
    assert [type(o) for o in outcomes] == [Completed, Buried, Completed]
    kept = await letter(any_sessions, "j1")
    assert kept.reason == reason
    assert kept.problems[0]["field"] == "result"
    assert await count(any_sessions, Project) == 2


@pytest.mark.parametrize("result", ["NaN", "Infinity", r"\u0000", "\x1b[2J", {"NaN": 1}])
async def test_a_text_that_only_looks_wrong_is_a_result(
    any_sessions: Sessions, result: Any
) -> None:
    """The checks look at what JSON says, not at how it is spelt."""

    async def handle(context: JobContext, odd: Odd) -> Any:
        return result

    outcome = await one(any_sessions, handle)
    assert isinstance(outcome, Completed)
    assert outcome.result == result


async def test_endless_problems_are_counted_not_listed(any_sessions: Sessions) -> None:
    """60,000 unknown fields: the letter lists some, cut to length, and says how many more."""

    async def handle(context: JobContext, odd: Odd) -> None:
        return None

    arrived = delivery(Odd(), attempt=99)
    fields = ",".join(f'"{"y" * 300}{n}":1' for n in range(3_000))
    body = arrived.body.replace(b'"k":{', b'"k":{' + fields.encode() + b",", 1)
    body = body.replace(b",}", b"}")
    arrived = type(arrived)(arrived.job_id, 99, body)
    await process_one(arrived, registry(handle), any_sessions, Policy())
    (kept,) = await rows(any_sessions, DeadLetter)
    assert len(kept.problems) <= MAX_PROBLEMS + 1
    assert len(str(kept.problems)) + len(kept.error) + len(kept.traceback or "") < 60_000


class ReasonOfItsOwn(Permanent):
    reason = property(lambda self: "the customer left")


class LongReason(Permanent):
    reason = "x" * 1_000  # type: ignore[assignment]


class UnstorableReason(Permanent):
    reason = "\x00\ud800"  # type: ignore[assignment]


class NoReason(Permanent):
    reason = None  # type: ignore[assignment]


class MuteProblems(Permanent):
    problems = property(lambda self: 1 / 0)

    def __init__(self, text: str) -> None:
        Exception.__init__(self, text)


@pytest.mark.parametrize(
    "error", [ReasonOfItsOwn, LongReason, UnstorableReason, NoReason, MuteProblems]
)
@pytest.mark.parametrize("attempt", [1, 99])
async def test_an_error_class_that_uses_our_names_for_its_own_is_buried(
    any_sessions: Sessions, error: type[Permanent], attempt: int
) -> None:
    """What a service's class makes of `reason` and `problems` keeps no job from its end."""

    async def handle(context: JobContext, payload: Odd) -> None:
        raise error("never")

    arrived = delivery(Odd(n=1), "j1", attempt)
    assert isinstance(await process_one(arrived, registry(handle), any_sessions, Policy()), Buried)
    assert (await letter(any_sessions, "j1")).reason == "permanent"
