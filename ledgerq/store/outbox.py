"""The outbox: jobs staged in their producer's transaction, kept until the transaction that ends the job deletes them.

No message is marked as sent. When a message is due, a relay puts it on Redis and sets a later time at which it is due
again, with growing pauses, until the job has ended. So a message that Redis loses is put there again without anyone
noticing the loss. A second put under the same id changes nothing.
"""

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from pydantic_core import to_json
from sqlalchemy import ColumnElement, Result, delete, exists, func, select, text, true, update
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
    require_limit,
    storable,
)
from ledgerq.columns import UtcDateTime, clock, utc_now
from ledgerq.database.engine import Database
from ledgerq.database.own_schema import OurSql, channel_of
from ledgerq.database.round_trips import at_commit
from ledgerq.database.sqlstate import connecting
from ledgerq.errors import NotStaged
from ledgerq.store.tables import OutboxMessage

_COLUMNS = ("job_id", "kind", "payload", "actor", "trace_id", "ordering_key", "queue", "delay")
_REMOVE = OurSql("DELETE FROM ledgerq.outbox_message WHERE job_id = :job_id")
_ADD = OurSql(  # as in ledgerq.database.bulk_insert; rows get their `seq` in the order of the arrays
    "INSERT INTO ledgerq.outbox_message "
    "(job_id, kind, payload, actor, trace_id, ordering_key, queue, next_dispatch_at) "
    "SELECT job_id, kind, payload::jsonb, actor, trace_id, ordering_key, queue, "
    "CASE WHEN delay > 0 THEN clock_timestamp() + make_interval(secs => delay) ELSE now() END "
    "FROM unnest(CAST(:job_id AS text[]), CAST(:kind AS text[]), CAST(:payload AS text[]), "
    "CAST(:actor AS text[]), CAST(:trace_id AS text[]), CAST(:ordering_key AS text[]), "
    "CAST(:queue AS text[]), CAST(:delay AS double precision[])) WITH ORDINALITY "
    "AS v(job_id, kind, payload, actor, trace_id, ordering_key, queue, delay, place) ORDER BY place "
    "ON CONFLICT (job_id) DO NOTHING RETURNING job_id, seq"
)
_ID_AND_SEQ = col(OutboxMessage.job_id), col(OutboxMessage.seq)
FIRST_PAUSE = 10  # seconds from a message's first dispatch to the next; doubled after each
MAX_PAUSE = 1800  # seconds between two dispatches of a message at most
LEFT_TO_OTHERS = timedelta(minutes=10)  # for a message of a kind that the relay does not know
_AT_ONCE = MAX_IN_A_LIST // 4  # messages of eight columns each


@dataclass(frozen=True, slots=True)
class Message:
    """A job to stage. `delay` is how long it waits; jobs of one `ordering_key` run one after another.

    If `queue` is None, the relay's application chooses the queue by the kind.
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
    """SQL for the time at which a message that is dispatched now is due again; on PostgreSQL with jitter."""

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


async def add(session: AsyncSession, messages: Sequence[Message]) -> dict[str, int]:
    """Stage jobs in the caller's transaction; returns the `seq` of each that was not staged before, by its id.

    Messages with an ordering key keep the order given. Producers with the same key wait for each other's commit:
    otherwise their messages' numbers (`seq`) would not be in the order of the commits.
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
    added: dict[str, int] = {}
    messages = [*free, *ordered]
    for start in range(0, len(messages), _AT_ONCE):
        rows = await write(session, messages[start : start + _AT_ONCE])
        added.update((row.job_id, row.seq) for row in rows)
    return added


async def _add(session: AsyncSession, messages: Sequence[Message]) -> Result[Any]:
    columns = {name: [getattr(each, name) for each in messages] for name in _COLUMNS}
    columns["payload"] = [to_json(payload).decode() for payload in columns["payload"]]
    columns["delay"] = [delay.total_seconds() for delay in columns["delay"]]
    return await session.execute(_ADD.on(session), columns)


async def _add_on_sqlite(session: AsyncSession, messages: Sequence[Message]) -> Result[Any]:
    rows = [{name: getattr(each, name) for name in _COLUMNS} for each in messages]
    for row in rows:
        delay = row.pop("delay")
        row["next_dispatch_at"] = clock(delay) if delay else utc_now()
    fresh = sqlite.insert(OutboxMessage).on_conflict_do_nothing(index_elements=["job_id"])
    return await session.execute(fresh.values(rows).returning(*_ID_AND_SEQ))


async def take_due(
    session: AsyncSession, limit: int, kinds: Collection[str] | None = None
) -> Sequence[OutboxMessage]:
    """Take at most `limit` messages that are due, to put them on Redis; sets when each is due again.

    Returns the messages in the order staged. Messages that another relay has locked are skipped. Of one ordering key,
    only the oldest message is ever due.

    Args:
        session: the relay's session.
        limit: the most messages to take.
        kinds: the kinds of the relay's application. A message that names no queue, and whose kind is not among them, is
            left to the relays of another application, until it has been due for ten minutes. None takes all kinds.
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
    """Make all messages due that relays have put on Redis, for when Redis has lost its data. Returns how many."""
    lost = update(OutboxMessage).where(
        col(OutboxMessage.dispatches) > 0, col(OutboxMessage.next_dispatch_at) > utc_now()
    )
    made_due = await session.execute(
        lost.values(next_dispatch_at=utc_now(), dispatches=0),
        execution_options={"synchronize_session": False},
    )
    return int(made_due.rowcount)  # type: ignore[attr-defined]


async def due_now(session: AsyncSession, job_ids: Iterable[str]) -> set[str]:
    """Make these jobs' messages due now, because Redis lost the jobs; returns the ids that are in the outbox."""
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
    """Delete the messages of these jobs, in the transaction that ends the jobs."""
    for some in chunks(storable(job_ids)):
        await session.execute(
            delete(OutboxMessage).where(col(OutboxMessage.job_id).in_(some)),
            execution_options={"synchronize_session": False},
        )


async def remove_last(session: AsyncSession, job_id: str) -> None:
    """Delete the job's message, together with the session's COMMIT. Until then, the caller must not stage this job again."""
    await at_commit(session, _REMOVE.on(session), {"job_id": job_id})


async def require_rows(session: AsyncSession, rows: Mapping[str, int]) -> None:
    """Require the outbox rows of jobs that their producers put on Redis directly. `rows`: job id → `seq` of the job's row.

    Raises:
        NotStaged: a job's row is missing, or has another `seq`; names the jobs. If such a job has no receipt, its producer
            has rolled back the transaction that staged it, or has not committed it yet.
    """
    found: dict[str, int] = {}
    for some in chunks(storable(rows)):
        there = select(*_ID_AND_SEQ).where(col(OutboxMessage.job_id).in_(some))
        found.update((row.job_id, row.seq) for row in await session.execute(there))
    if missing := [job_id for job_id, seq in rows.items() if found.get(job_id) != seq]:
        raise NotStaged(missing)


async def find(session: AsyncSession, job_id: str) -> OutboxMessage | None:
    """The message of a job that is staged and has not ended; None if there is none."""
    return next(iter(await find_many(session, [job_id])), None)


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
    """How many staged jobs have not ended, for each pair of queue and kind: (queue or None, kind, number)."""
    parts = col(OutboxMessage.queue), col(OutboxMessage.kind)
    counted = await session.execute(select(*parts, func.count()).group_by(*parts))
    return [(queue, kind, number) for queue, kind, number in counted]


async def oldest(session: AsyncSession) -> datetime | None:
    """When the oldest staged job that has not ended was staged; None if there is none."""
    first = select(col(OutboxMessage.created_at)).order_by(col(OutboxMessage.seq)).limit(1)
    return await session.scalar(first)


async def listen(database: Database, on_notice: Callable[[], None]) -> None:
    """Call `on_notice` as soon as it listens, then after each commit that staged jobs; returns when the connection is lost.

    On SQLite, and through pgbouncer, nothing can be listened to: then this calls nothing, and waits until it is cancelled.

    Raises:
        Transient: the database can't be reached.
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
