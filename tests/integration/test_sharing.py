"""Whatever handlers do, sharing a commit leaves what one commit for each job leaves."""

import os
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from itertools import count
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import ForeignKey, Text, func, select, text, update
from sqlalchemy.engine import URL
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlmodel import col

from ledgerq import App, JobContext, Kind, Payload, Permanent, RetryLater, Snooze
from ledgerq.audit import Change
from ledgerq.database.engine import Database, Sessions, build_database
from ledgerq.database.settings import DatabaseConfig
from ledgerq.database.transaction import savepoint
from ledgerq.errors import ConstraintError
from ledgerq.execution.outcome import Outcome
from ledgerq.execution.process import process
from ledgerq.execution.registry import Registry
from ledgerq.execution.retry import Policy
from ledgerq.store.tables import AuditLog, DeadLetter, OutboxMessage, ProcessedJob
from tests.support import delivery

POLICY = Policy(timeout=20)
RUN = count()


class Base(DeclarativeBase):
    """The parent of a service's tables."""


class Account(Base):
    __tablename__ = "sharing_account"
    name: Mapped[str] = mapped_column(Text, primary_key=True)
    run: Mapped[str] = mapped_column(Text)
    balance: Mapped[int] = mapped_column(default=0)


class Booking(Base):
    """Not audited; of an account that is there."""

    __tablename__ = "sharing_booking"
    id: Mapped[int] = mapped_column(primary_key=True)
    account: Mapped[str] = mapped_column(ForeignKey("sharing_account.name"))
    amount: Mapped[int] = mapped_column(default=0)


class Act(Payload[list[Any]], kind="act"):
    """What the handler does, one thing after another."""

    steps: list[tuple[str, str, int]]


class Told(Payload[None], kind="told"):
    """Is staged."""

    name: str
    number: int


async def act(context: JobContext, payload: Act) -> list[Any]:
    """Do what the payload says; answer with what was seen."""
    run, seen = str(context.origin.job_id).partition(":")[0], list[Any]()
    for what, name, number in payload.steps:
        await _DOES[what](context, run, f"{run}:{name}", number, seen)
    return seen


async def _add(context: JobContext, run: str, name: str, number: int, seen: list[Any]) -> None:
    context.session.add(Account(name=name, run=run, balance=number))


async def _try_to_add(*args: Any) -> None:
    with suppress(ConstraintError):
        async with savepoint(args[0].session):
            await _add(*args)


async def _undo(context: JobContext, run: str, name: str, number: int, seen: list[Any]) -> None:
    with suppress(ZeroDivisionError):
        async with savepoint(context.session):
            await _pay(context, run, name, number, seen)
            await context.session.flush()
            raise ZeroDivisionError


async def _pay(context: JobContext, run: str, name: str, number: int, seen: list[Any]) -> None:
    account = await context.session.get(Account, name)
    if account is not None:
        account.balance += number
    seen.append(account is not None)


async def _delete(context: JobContext, run: str, name: str, number: int, seen: list[Any]) -> None:
    if account := await context.session.get(Account, name):
        await context.session.delete(account)


async def _book(context: JobContext, run: str, name: str, number: int, seen: list[Any]) -> None:
    context.session.add(Booking(account=name, amount=number))


async def _by_sql(context: JobContext, run: str, name: str, number: int, seen: list[Any]) -> None:
    await context.session.execute(
        update(Booking).where(Booking.account == name).values(amount=Booking.amount + number)
    )


async def _read(context: JobContext, run: str, name: str, number: int, seen: list[Any]) -> None:
    of_run = select(func.count(), func.coalesce(func.sum(Account.balance), 0)).where(
        Account.run == run
    )
    seen.append([*map(int, (await context.session.execute(of_run)).one())])


async def _read_rows(context: JobContext, run: str, *_: Any) -> None:
    found = await context.session.scalars(
        select(Account).where(Account.run == run).order_by(Account.name)
    )
    _[-1].append([(row.name.partition(":")[2], row.balance) for row in found])


async def _stage(context: JobContext, run: str, name: str, number: int, seen: list[Any]) -> None:
    await context.stage(Told(name=name.partition(":")[2], number=number))


async def _record(context: JobContext, run: str, name: str, number: int, seen: list[Any]) -> None:
    await context.record(Change("thing", name, "noted", {}, {"number": number}))


async def _flush(context: JobContext, *_: Any) -> None:
    await context.session.flush()


async def _keep(context: JobContext, run: str, name: str, number: int, seen: list[Any]) -> None:
    seen.append(context.session.info.get("kept"))
    context.session.info["kept"] = number


async def _set(context: JobContext, run: str, name: str, number: int, seen: list[Any]) -> None:
    of_transaction = "SELECT set_config('my.kept', :number, true)"
    if number > 2:
        await context.session.execute(text(of_transaction), {"number": str(number)})
    now = await context.session.scalar(text("SELECT current_setting('my.kept', true)"))
    seen.append(now or None)


async def _lock(context: JobContext, run: str, name: str, number: int, seen: list[Any]) -> None:
    await context.session.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": number})


async def _fail(context: JobContext, run: str, name: str, number: int, seen: list[Any]) -> None:
    raise (ValueError("no"), Permanent("never"), RetryLater(3), Snooze(4))[number % 4]


_DOES = {
    "add": _add, "try_to_add": _try_to_add, "undo": _undo, "pay": _pay, "delete": _delete, "book": _book,
    "by_sql": _by_sql, "read": _read, "read_rows": _read_rows, "stage": _stage, "record": _record, "flush": _flush,
    "keep": _keep, "set": _set, "lock": _lock, "fail": _fail,
}  # fmt: skip
_RARE = {"set", "lock", "fail"}
STEPS = st.lists(
    st.tuples(
        st.sampled_from([each for each in _DOES for _ in range(1 if each in _RARE else 4)]),
        st.sampled_from("abc"),
        st.integers(0, 5),
    ),
    max_size=6,
)


@pytest.fixture
async def service(postgresql_url: URL) -> AsyncIterator[Database]:
    app = App(jobs=[], metadata=[Base.metadata], audited=[Account], forget_ended_jobs=False)
    database = build_database(DatabaseConfig(url=postgresql_url), app.tables)
    async with database.engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    yield database
    await database.dispose()


@settings(
    max_examples=int(os.environ.get("SHARING_EXAMPLES", "25")),
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
@given(jobs=st.lists(STEPS, min_size=2, max_size=7))
async def test_sharing_a_commit_leaves_what_one_commit_each_leaves(
    service: Database, jobs: Sequence[Any]
) -> None:
    """Rows, entries, receipts, staged jobs, letters and outcomes, of jobs that fail, conflict, undo, lock and look around."""
    together, alone = [f"{n}-{next(RUN)}" for n in ("together", "alone")]
    shared = await _run(service.sessions, together, jobs, shared=True)
    left = await _left(service.sessions, together)
    assert shared == await _run(service.sessions, alone, jobs, shared=False)
    assert left == await _left(service.sessions, alone)


async def _run(
    sessions: Sessions, run: str, jobs: Sequence[Any], *, shared: bool
) -> list[tuple[Any, ...]]:
    registry = Registry([Kind(Act, act, shares_commit=shared)])
    arrived = [delivery(Act(steps=steps), f"{run}:{n}") for n, steps in enumerate(jobs)]
    if shared:
        outcomes = await process(arrived, registry, sessions, POLICY)
    else:
        outcomes = [(await process([each], registry, sessions, POLICY))[0] for each in arrived]
    return [_told(outcome, run) for outcome in outcomes]


def _told(outcome: Outcome, run: str) -> tuple[Any, ...]:
    error = getattr(outcome, "error", None)
    said = re.sub(" at 0x[0-9a-f]+", "", str(error).replace(run, "RUN"))
    more = [getattr(outcome, name, None) for name in ("result", "reason", "counts_as_attempt")]
    return type(outcome).__name__, type(error).__name__, said, *more


async def _left(sessions: Sessions, run: str) -> dict[str, list[Any]]:
    """What a run has left, without what differs from run to run."""
    async with sessions() as session:
        found: dict[str, list[Any]] = {
            "accounts": [*await session.scalars(select(Account).where(Account.run == run))],
            "bookings": [
                *await session.scalars(select(Booking).where(Booking.account.startswith(f"{run}:")))
            ],
        }
        for table in (AuditLog, ProcessedJob, DeadLetter):
            of_run = select(table).where(col(table.job_id).startswith(f"{run}:"))
            found[table.__name__] = [*await session.scalars(of_run)]
        jobs = [each.job_id for each in found["ProcessedJob"]]
        staged = select(OutboxMessage).where(col(OutboxMessage.kind) == "told")
        found["staged"] = [*await session.scalars(staged)]
        by_job: dict[str, list[Any]] = {
            name: sorted(_plain(each, run) for each in rows if name != "staged")
            for name, rows in found.items()
        }
        by_job["jobs"] = sorted(each.partition(":")[2] for each in jobs)
        by_job["staged"] = sorted(
            (each.payload["name"], each.payload["number"]) for each in found["staged"]
        )
        for each in found["staged"]:
            await session.delete(each)
        await session.commit()
    return by_job


_DIFFERS = {"id", "at", "processed_at", "buried_at", "traceback", "attempts", "fingerprint"}


def _plain(row: Any, run: str) -> str:
    values = {
        each.key: getattr(row, each.key)
        for each in row.__table__.columns
        if each.key not in _DIFFERS
    }
    order = row.id if isinstance(row, AuditLog) else 0
    return f"{getattr(row, 'job_id', '')} {order:012d} {values}".replace(run, "RUN").replace(
        f"{order:012d}", ""
    )
