"""The outbox: jobs staged in their producer's transaction, kept until the transaction that ends the job deletes them.

A message is never "sent". It is due, is put on Redis, and falls due again later and later, until the
job has ended. So nothing has to notice that Redis lost it; a second put under the same id is harmless.
"""

import asyncio
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from pydantic_core import to_json
from sqlalchemy import ColumnElement, delete, exists, func, select, text, true, update
from sqlalchemy.dialects import sqlite
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import aliased
from sqlalchemy.sql.functions import FunctionElement
from sqlmodel import col

from ledgerq.bounds import (
    DEFAULT_QUEUE,
    MAX_IN_A_LIST,
    chunks,
    is_storable,
    require_limit,
    storable,
)
from ledgerq.columns import UtcDateTime, clock, utc_now
from ledgerq.database.engine import Database
from ledgerq.database.own_schema import OurSql, channel_of
from ledgerq.database.sqlstate import connecting
from ledgerq.store.tables import OutboxMessage

_COLUMNS = ("job_id", "kind", "payload", "actor", "trace_id", "ordering_key", "queue", "delay")
_ADD = OurSql(  # as in ledgerq.database.bulk_insert; rows draw their numbers in the order given
    "INSERT INTO ledgerq.outbox_message "
    "(job_id, kind, payload, actor, trace_id, ordering_key, queue, next_dispatch_at) "
    "SELECT job_id, kind, payload::jsonb, actor, trace_id, ordering_key, queue, "
    "CASE WHEN delay > 0 THEN clock_timestamp() + make_interval(secs => delay) ELSE now() END "
    "FROM unnest(CAST(:job_id AS text[]), CAST(:kind AS text[]), CAST(:payload AS text[]), "
    "CAST(:actor AS text[]), CAST(:trace_id AS text[]), CAST(:ordering_key AS text[]), "
    "CAST(:queue AS text[]), CAST(:delay AS double precision[])) WITH ORDINALITY "
    "AS v(job_id, kind, payload, actor, trace_id, ordering_key, queue, delay, place) ORDER BY place "
    "ON CONFLICT (job_id) DO NOTHING RETURNING job_id"
)
FIRST_PAUSE = 10  # seconds from a dispatch to the next of the same message; doubled each time …
MAX_PAUSE = 1800  # … up to here
LEFT_TO_OTHERS = timedelta(minutes=10)
_AT_ONCE = MAX_IN_A_LIST // 4  # messages of eight columns each


@dataclass(frozen=True, slots=True)
class Message:
    """A job to be staged. `delay` holds it back; those of one `ordering_key` run one after another.

    A `queue` of None is for the workers' application to say.
    """

    job_id: str
    kind: str
    payload: dict[str, Any]
    actor: str
    trace_id: str | None = None
    ordering_key: str | None = None
    delay: timedelta = timedelta(0)
    queue: str | None = None


class next_dispatch(FunctionElement[datetime]):  # noqa: N801 - reads as the SQL function that it is
    """When a message that is dispatched now falls due again, with jitter where the database has it."""

    type = UtcDateTime()
    inherit_cache = True


@compiles(next_dispatch)
def _next_dispatch(element: next_dispatch, compiler: Any, **options: Any) -> str:
    return (
        f"now() + make_interval(secs => least({FIRST_PAUSE} * 2 ^ least(outbox_message.dispatches, 8), "
        f"{MAX_PAUSE}) * (0.8 + 0.4 * random()))"
    )


@compiles(next_dispatch, "sqlite")
def _next_dispatch_on_sqlite(element: next_dispatch, compiler: Any, **options: Any) -> str:
    return (
        "strftime('%Y-%m-%d %H:%M:%f000', 'now', '+' || "
        f"min({FIRST_PAUSE} * (1 << min(outbox_message.dispatches, 8)), {MAX_PAUSE}) || ' seconds')"
    )


async def add(session: AsyncSession, messages: Sequence[Message]) -> set[str]:
    """Stage jobs in the caller's transaction; the ids of those that were not staged before.

    Messages with an ordering key keep the order given. Producers of one key take turns, until
    each commits: otherwise the order in which numbers are drawn is not that of the commits.
    """
    keys = sorted({each.ordering_key for each in messages if each.ordering_key is not None})
    on_sqlite = session.get_bind().dialect.name == "sqlite"
    if keys and not on_sqlite:
        await session.execute(
            text(
                "SELECT pg_advisory_xact_lock(hashtextextended(k, 0)) FROM unnest(CAST(:keys AS text[])) AS k"
            ),
            {"keys": keys},
        )
    # sorted, because two transactions that insert the same ids in another order deadlock
    free = sorted((m for m in messages if m.ordering_key is None), key=lambda m: m.job_id)
    ordered = [m for m in messages if m.ordering_key is not None]
    write = _add_on_sqlite if on_sqlite else _add
    added: set[str] = set()
    messages = [*free, *ordered]
    for start in range(0, len(messages), _AT_ONCE):
        added |= set(await write(session, messages[start : start + _AT_ONCE]))
    return added


async def _add(session: AsyncSession, messages: Sequence[Message]) -> Iterable[str]:
    columns = {name: [getattr(each, name) for each in messages] for name in _COLUMNS}
    columns["payload"] = [to_json(payload).decode() for payload in columns["payload"]]
    columns["delay"] = [delay.total_seconds() for delay in columns["delay"]]
    return await session.scalars(_ADD.on(session), columns)


async def _add_on_sqlite(session: AsyncSession, messages: Sequence[Message]) -> Iterable[str]:
    rows = [{name: getattr(each, name) for name in _COLUMNS} for each in messages]
    for row in rows:
        delay = row.pop("delay")
        row["next_dispatch_at"] = clock(delay) if delay else utc_now()
    fresh = sqlite.insert(OutboxMessage).on_conflict_do_nothing(index_elements=["job_id"])
    return await session.scalars(fresh.values(rows).returning(col(OutboxMessage.job_id)))


async def take_due(
    session: AsyncSession, limit: int, kinds: Collection[str] | None = None
) -> Sequence[OutboxMessage]:
    """The messages to be put on Redis now, oldest first; each falls due again later.

    Those that another relay holds are skipped. Of one ordering key only the oldest is ever due. A message that names
    no queue is left, if `kinds` are given and its own is not among them, to the workers of an application that knows
    it: until nobody has taken it for ten minutes.
    """
    require_limit(limit, MAX_IN_A_LIST)
    earlier = aliased(OutboxMessage)
    must_wait = exists().where(
        col(earlier.ordering_key) == col(OutboxMessage.ordering_key),
        col(earlier.seq) < col(OutboxMessage.seq),
    )
    due = (
        select(col(OutboxMessage.seq))
        .where(
            col(OutboxMessage.next_dispatch_at) <= utc_now(),
            col(OutboxMessage.ordering_key).is_(None) | ~must_wait,
            true() if kinds is None else _is_for(kinds),
        )
        .order_by(col(OutboxMessage.next_dispatch_at), col(OutboxMessage.seq))
        .limit(limit)
        .with_for_update(skip_locked=True)
        .cte("due")
    )
    dispatched = await session.scalars(
        update(OutboxMessage)
        .where(col(OutboxMessage.seq).in_(select(due.c.seq)))
        .values(dispatches=col(OutboxMessage.dispatches) + 1, next_dispatch_at=next_dispatch())
        .returning(OutboxMessage),
        execution_options={"synchronize_session": False},
    )
    return sorted(dispatched, key=lambda message: message.seq)


def _is_for(kinds: Collection[str]) -> ColumnElement[bool]:
    queue, due_at = col(OutboxMessage.queue), col(OutboxMessage.next_dispatch_at)
    names_one = queue.is_not(None) & (queue != DEFAULT_QUEUE)
    return names_one | col(OutboxMessage.kind).in_(kinds) | (due_at <= clock(-LEFT_TO_OTHERS))


async def all_due(session: AsyncSession) -> int:
    """Redis has lost its data: whatever was put there is due again. Answers with how many."""
    lost = update(OutboxMessage).where(
        col(OutboxMessage.dispatches) > 0, col(OutboxMessage.next_dispatch_at) > utc_now()
    )
    made_due = await session.execute(
        lost.values(next_dispatch_at=utc_now(), dispatches=0),
        execution_options={"synchronize_session": False},
    )
    return int(made_due.rowcount)  # type: ignore[attr-defined]


async def due_now(session: AsyncSession, job_ids: Iterable[str]) -> set[str]:
    """Make these jobs due now, as if never sent, because Redis lost them; answers with those that are staged."""
    found: set[str] = set()
    for some in chunks(storable(job_ids)):
        found |= set(
            await session.scalars(
                update(OutboxMessage)
                .where(col(OutboxMessage.job_id).in_(some))
                .values(next_dispatch_at=utc_now(), dispatches=0)
                .returning(col(OutboxMessage.job_id)),
                execution_options={"synchronize_session": False},
            )
        )
    return found


async def remove(session: AsyncSession, job_ids: Iterable[str]) -> None:
    """These jobs end in this transaction: their messages go with it."""
    for some in chunks(storable(job_ids)):
        await session.execute(
            delete(OutboxMessage).where(col(OutboxMessage.job_id).in_(some)),
            execution_options={"synchronize_session": False},
        )


async def find(session: AsyncSession, job_id: str) -> OutboxMessage | None:
    """The message of a job that is staged and has not ended."""
    if not is_storable(job_id):
        return None
    staged = select(OutboxMessage).where(col(OutboxMessage.job_id) == job_id)
    return (await session.scalars(staged)).one_or_none()


async def find_many(session: AsyncSession, job_ids: Iterable[str]) -> Sequence[OutboxMessage]:
    """The messages of those jobs that are staged and have not ended."""
    found: list[OutboxMessage] = []
    for some in chunks(storable(job_ids)):
        staged = select(OutboxMessage).where(col(OutboxMessage.job_id).in_(some))
        found += (await session.scalars(staged)).all()
    return found


async def count(session: AsyncSession) -> int:
    """How many staged jobs have not ended."""
    return await session.scalar(select(func.count()).select_from(OutboxMessage)) or 0


async def count_by_queue(session: AsyncSession) -> list[tuple[str | None, str, int]]:
    """How many staged jobs have not ended, for each name of a queue that they were staged with, and each kind."""
    parts = col(OutboxMessage.queue), col(OutboxMessage.kind)
    counted = await session.execute(select(*parts, func.count()).group_by(*parts))
    return [(queue, kind, number) for queue, kind, number in counted]


async def oldest(session: AsyncSession) -> datetime | None:
    """When the job was staged that was staged first, of those that have not ended."""
    first = select(col(OutboxMessage.created_at)).order_by(col(OutboxMessage.seq)).limit(1)
    return await session.scalar(first)


async def listen(database: Database, on_notice: Callable[[], None]) -> None:
    """Call `on_notice` at once and each time that jobs are staged, until the connection is lost.

    On SQLite, and through pgbouncer, there are no notices: then this only waits.

    Raises:
        Transient: there is no connection to be had.
    """
    lost = asyncio.Event()
    if database.config.is_sqlite or database.config.target.pgbouncer:
        await lost.wait()
    with connecting():
        async with database.engine.connect() as connection:
            driver = (await connection.get_raw_connection()).driver_connection
            assert driver  # noqa: S101 - it is connected
            driver.add_termination_listener(lambda _: lost.set())
            await driver.add_listener(channel_of(database.tables.schema), lambda *_: on_notice())
            on_notice()
            try:
                await lost.wait()
            finally:
                await connection.invalidate()  # nobody else must get a connection that listens
