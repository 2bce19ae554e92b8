"""The dead letters: jobs that will not be tried again, with the reason and what it takes to replay them."""

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass

from sqlalchemy import ColumnElement, delete, false, func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import defer
from sqlmodel import col

from ledgerq.bounds import MAX_IN_A_LIST, chunks, cursor, is_storable, require_limit, storable
from ledgerq.database.own_schema import reach_our_tables
from ledgerq.store.tables import DeadLetter


@dataclass(frozen=True, slots=True)
class DeadLetterFilter:
    """Which letters are meant: those that have all of what is named here."""

    kind: str | None = None
    reason: str | None = None
    fingerprint: str | None = None

    @property
    def conditions(self) -> list[ColumnElement[bool]]:
        """As SQL has it."""
        named = {name: value for name, value in asdict(self).items() if value is not None}
        if not all(map(is_storable, named.values())):
            return [false()]
        return [col(getattr(DeadLetter, name)) == value for name, value in named.items()]


ALL = DeadLetterFilter()
_BRIEF = [
    defer(getattr(DeadLetter, name), raiseload=True)
    for name in ("payload", "raw", "traceback", "attempts")
]


async def bury(session: AsyncSession, letter: DeadLetter) -> None:
    """Keep the letter. A job has one: a replayed job that fails again has a new one by then."""
    dialect = session.get_bind().dialect.name
    insert = sqlite.insert if dialect == "sqlite" else postgresql.insert
    values = letter.model_dump(exclude={"id", "buried_at"})
    changes = {**values, "buried_at": func.now()}
    await session.execute(
        insert(DeadLetter)
        .values(values)
        .on_conflict_do_update(index_elements=["job_id"], set_=changes)
    )


async def find(session: AsyncSession, job_id: str) -> DeadLetter | None:
    """The letter of a job if it is buried."""
    if not is_storable(job_id):
        return None
    await reach_our_tables(session)
    letter = select(DeadLetter).where(col(DeadLetter.job_id) == job_id)
    return (await session.scalars(letter)).one_or_none()


async def buried(session: AsyncSession, job_ids: Collection[str]) -> dict[str, str | None]:
    """Of these jobs, those that have a letter, and the queue that each came from."""
    found: dict[str, str | None] = {}
    for some in chunks(storable(job_ids)):
        letters = select(col(DeadLetter.job_id), col(DeadLetter.queue))
        rows = await session.execute(letters.where(col(DeadLetter.job_id).in_(some)))
        found |= {row.job_id: row.queue for row in rows}
    return found


async def newest(
    session: AsyncSession,
    which: DeadLetterFilter = ALL,
    *,
    before_id: int | None = None,
    limit: int = 50,
    brief: bool = False,
) -> Sequence[DeadLetter]:
    """Letters, the newest first; the next page begins before this one's last id.

    Brief ones come without what may be long: payload, raw bytes, traceback, attempts.

    Raises:
        Refused: the limit is out of range.
    """
    require_limit(limit, MAX_IN_A_LIST)
    letters = select(DeadLetter).where(*which.conditions).order_by(col(DeadLetter.id).desc())
    if before_id is not None:
        letters = letters.where(col(DeadLetter.id) < cursor(before_id))
    options = _BRIEF if brief else ()
    return (await session.scalars(letters.limit(limit).options(*options))).all()


async def groups(
    session: AsyncSession, which: DeadLetterFilter = ALL, *, limit: int = 50
) -> Sequence[tuple[int, DeadLetter]]:
    """Letters of one fingerprint counted, each group with its newest one, brief; the largest first.

    Raises:
        Refused: the limit is out of range.
    """
    require_limit(limit, MAX_IN_A_LIST)
    counted = (
        select(func.count().label("letters"), func.max(col(DeadLetter.id)).label("newest"))
        .where(*which.conditions)
        .group_by(col(DeadLetter.fingerprint))
        .subquery()
    )
    found = (
        select(counted.c.letters, DeadLetter)
        .join(counted, col(DeadLetter.id) == counted.c.newest)
        .order_by(counted.c.letters.desc(), col(DeadLetter.id).desc())
        .limit(limit)
        .options(*_BRIEF)
    )
    return [(letters, newest) for letters, newest in await session.execute(found)]


async def take(session: AsyncSession, job_ids: Collection[str]) -> Sequence[DeadLetter]:
    """Take these jobs' letters out, for good, in the caller's transaction; those that are there."""
    letters: list[DeadLetter] = []
    for some in chunks(storable(job_ids)):
        held = select(DeadLetter).where(col(DeadLetter.job_id).in_(some))
        in_order = held.order_by(col(DeadLetter.job_id)).with_for_update()
        found = (await session.scalars(in_order)).all()
        await session.execute(
            delete(DeadLetter).where(col(DeadLetter.id).in_([letter.id for letter in found])),
            execution_options={"synchronize_session": False},
        )
        letters += found
    return letters


async def count(session: AsyncSession) -> int:
    """How many jobs are buried."""
    return await session.scalar(select(func.count()).select_from(DeadLetter)) or 0
