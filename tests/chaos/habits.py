"""What guests do, by name: to their transaction, with processes and the event loop, and what they raise and answer."""

import asyncio
import contextvars
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal, Never, TypeAlias

import structlog
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from ledgerq.errors import JobEnded, LedgerqError, Permanent
from ledgerq.job import JobContext
from tests.chaos import children

Ends: TypeAlias = Literal["done", "dead", "either"]

MEGABYTE = 1_000_000
BLOCKED = 3.0  # seconds
WORK_MEM = "7168"  # kB: what a guest sets, and nobody else may see
TENANT: contextvars.ContextVar[str | None] = contextvars.ContextVar("tenant", default=None)

log = structlog.stdlib.get_logger("ledgerq.chaos")
_background: set[asyncio.Task[None]] = set()


@dataclass(slots=True)
class Visit:
    """One attempt of a guest's job. `over` is set when its handler ends."""

    context: JobContext
    over: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def session(self) -> AsyncSession:
        """The job's."""
        return self.context.session


@dataclass(frozen=True, slots=True)
class Habit:
    """What a guest does, and how its job must end: if dead, for one of these reasons.

    `either` says that both are right: what counts is that all of its tasks are there or none.
    """

    do: Callable[[Visit], Awaitable[Any]]
    ends: Ends = "done"
    reasons: tuple[str, ...] = ()
    batchable: bool = True
    weight: int = 1


def tell_leak(context: JobContext, what: str) -> None:
    """In the log, where the checker looks for it."""
    log.error("chaos.leak", job_id=context.origin.job_id, what=what)


# --- to the transaction -------------------------------------------------------------------------------


async def _by_connection(session: AsyncSession, call: str) -> None:
    await getattr(await session.connection(), call)()


async def _by_driver(session: AsyncSession, statement: str) -> None:
    connection = await (await session.connection()).get_raw_connection()
    driver: Any = connection.driver_connection
    await driver.execute(statement)


ENDINGS: dict[str, Callable[[AsyncSession], Awaitable[Any]]] = {
    "session.rollback": lambda s: s.rollback(),
    "session.commit": lambda s: s.commit(),
    "session.close": lambda s: s.close(),
    "async with session": lambda s: s.__aenter__(),
    "sync commit": lambda s: s.run_sync(lambda sync: sync.commit()),
    "connection.commit": lambda s: _by_connection(s, "commit"),
    "connection.rollback": lambda s: _by_connection(s, "rollback"),
    "COMMIT": lambda s: s.execute(text("COMMIT")),
    "ROLLBACK": lambda s: s.execute(text("/* all of it */ rollback")),
    "the driver's COMMIT": lambda s: _by_driver(s, "COMMIT"),
    "the driver's ROLLBACK": lambda s: _by_driver(s, "SELECT 1; ROLLBACK; BEGIN"),
}


def _ending(call: Callable[[AsyncSession], Awaitable[Any]]) -> Habit:
    async def do(visit: Visit) -> None:
        await call(visit.session)

    return Habit(do, "dead", ("not_allowed_in_job",))


def _ending_swallowed(call: Callable[[AsyncSession], Awaitable[Any]]) -> Habit:
    async def do(visit: Visit) -> None:
        with suppress(LedgerqError, SQLAlchemyError):  # as half the world does
            await call(visit.session)

    return Habit(do, "either", ("not_allowed_in_job", "failed"))


async def _error_swallowed(visit: Visit) -> None:
    with suppress(SQLAlchemyError):
        await visit.session.execute(text("SELECT 1 / 0"))


async def _savepoint(visit: Visit) -> None:
    with suppress(SQLAlchemyError):
        async with visit.session.begin_nested():
            await visit.session.execute(text("SELECT 1 / 0"))


def _statement(sql: str) -> Habit:
    async def do(visit: Visit) -> None:
        await visit.session.execute(text(sql))

    return Habit(do)


# --- with the event loop ------------------------------------------------------------------------------


async def _blocks(visit: Visit) -> None:
    time.sleep(BLOCKED)  # noqa: ASYNC251 - the fault


async def _leaves_task(visit: Visit) -> None:
    """The task uses the session when its job has ended."""
    session = visit.session

    async def later() -> None:
        await visit.over.wait()
        try:
            await session.execute(text("SELECT 1"))
        except JobEnded:
            return
        tell_leak(visit.context, "a session that outlives its job")

    _keep(asyncio.create_task(later()))


async def _leaves_statement(visit: Visit) -> None:
    """The task is in the middle of a statement when the handler goes on."""
    session = visit.session

    async def now() -> None:
        with suppress(LedgerqError, SQLAlchemyError):
            await session.execute(text("SELECT pg_sleep(2)"))

    _keep(asyncio.create_task(now()))
    await asyncio.sleep(0.05)


async def _cancels_itself(visit: Visit) -> None:
    task = asyncio.current_task()
    assert task
    task.cancel()
    await asyncio.sleep(0.05)


async def _cancels_itself_and_goes_on(visit: Visit) -> None:
    with suppress(asyncio.CancelledError):
        await _cancels_itself(visit)


def _keep(task: asyncio.Task[None]) -> None:
    _background.add(task)
    task.add_done_callback(_background.discard)


# --- what is raised, what is answered -----------------------------------------------------------------


class Mute(Exception):
    """Can't be looked at."""

    def __str__(self) -> Never:
        raise RuntimeError("this error does not say what it is")

    __repr__ = __str__


def _raises(make: Callable[[], BaseException], *reasons: str) -> Habit:
    async def do(visit: Visit) -> None:
        raise make()

    return Habit(do, "dead", reasons or ("failed",))


def _group() -> BaseException:
    return ExceptionGroup("several", [ValueError("one"), ExceptionGroup("more", [KeyError("two")])])


def _group_with_exit() -> BaseException:
    return BaseExceptionGroup("several", [ValueError("one"), SystemExit(3), Mute()])


def _group_with_verdict() -> BaseException:
    return ExceptionGroup("several", [ValueError("one"), Permanent("no use")])


def _answers(make: Callable[[], Any], reason: str) -> Habit:
    async def do(visit: Visit) -> Any:
        return make()

    return Habit(do, "dead", (reason,))


async def _loses_second_database(visit: Visit) -> None:
    """A connection of its own that breaks is its own affair."""
    own = create_async_engine(visit.session.get_bind().engine.url)
    try:
        async with own.connect() as connection:
            await connection.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
    finally:
        await own.dispose()


async def _nothing(visit: Visit) -> None:
    """A good neighbour."""


HABITS: dict[str, Habit] = {
    "nothing": Habit(_nothing),
    **{name: _ending(call) for name, call in ENDINGS.items()},
    **{f"{name}, swallowed": _ending_swallowed(call) for name, call in ENDINGS.items()},
    "an error of the database, swallowed": Habit(_error_swallowed, "dead", ("refused", "failed")),
    "an error in a savepoint": Habit(_savepoint),
    "SET": _statement("SET work_mem = '7MB'"),
    "SET LOCAL": _statement("SET LOCAL work_mem = '7MB'"),
    "set_config": _statement("SELECT set_config('work_mem', '7MB', true)"),
    "a lock by name": _statement("SELECT pg_try_advisory_lock(1), pg_try_advisory_xact_lock(2)"),
    "blocks": Habit(_blocks, batchable=False, weight=4),
    "leaves a task": Habit(_leaves_task, weight=3),
    "leaves a statement": Habit(_leaves_statement, "either", ("failed",), batchable=False),
    "cancels itself": Habit(_cancels_itself, "either", ("failed",)),
    "cancels itself and goes on": Habit(_cancels_itself_and_goes_on),
    "a mute error": _raises(Mute),
    "GeneratorExit": _raises(GeneratorExit),
    "SystemExit": _raises(lambda: SystemExit("bye")),
    "KeyboardInterrupt": _raises(KeyboardInterrupt),
    "an error of 1 MB": _raises(lambda: ValueError("x" * MEGABYTE)),
    "a group": _raises(_group),
    "a group with an exit": _raises(_group_with_exit),
    "a group with a verdict": _raises(_group_with_verdict, "permanent"),
    "answers 1 MB": _answers(lambda: "x" * MEGABYTE, "result_too_large"),
    "answers no number": _answers(lambda: float("nan"), "invalid_result"),
    "loses its second database": Habit(
        _loses_second_database, "dead", ("failed", "unavailable"), batchable=False
    ),
    **{
        name: Habit(lambda visit, do=do: do(), weight=2)  # type: ignore[misc]
        for name, do in children.WAYS.items()
    },
}
SETTINGS = ("nothing", "SET", "SET LOCAL", "set_config", "a lock by name")
