"""The dead letters: jobs that will not be tried again, with the reason and all that a replay needs."""

from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import asdict, dataclass

from sqlalchemy import ColumnElement, delete, false, func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import defer
from sqlmodel import col

from ledgerq.bounds import MAX_IN_A_LIST, chunks, cursor, is_storable, require_limit, storable
from ledgerq.database.engine import Sessions
from ledgerq.database.own_schema import reach_our_tables
from ledgerq.store.tables import DeadLetter


@dataclass(frozen=True, slots=True)
class DeadLetterFilter:
    """Selects the dead letters that have this kind, reason and fingerprint; a field that is None is not looked at."""

    kind: str | None = None
    reason: str | None = None
    fingerprint: str | None = None

    @property
    def conditions(self) -> list[ColumnElement[bool]]:
        """The filter as conditions of a WHERE clause, all of which must hold; none for a filter of no field."""
        named = {name: value for name, value in asdict(self).items() if value is not None}
        if not all(map(is_storable, named.values())):
            return [false()]
        return [col(getattr(DeadLetter, name)) == value for name, value in named.items()]


ALL = DeadLetterFilter()
PAGE = 500  # letters in one page
_BRIEF = [
    defer(getattr(DeadLetter, name), raiseload=True)
    for name in ("payload", "raw", "traceback", "attempts")
]


async def bury(session: AsyncSession, letter: DeadLetter) -> None:
    """Write the letter. A job has one letter at most: a letter that the job has already is replaced."""
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
    """The letter of a job; None if the job is not buried."""
    if not is_storable(job_id):
        return None
    await reach_our_tables(session)
    letter = select(DeadLetter).where(col(DeadLetter.job_id) == job_id)
    return (await session.scalars(letter)).one_or_none()


async def lock(session: AsyncSession, job_ids: Collection[str]) -> dict[str, str | None]:
    """Lock the letters of these jobs; answers with the ids of those found, each with the queue that the job came from."""
    found: dict[str, str | None] = {}
    for some in chunks(storable(job_ids)):
        letters = select(col(DeadLetter.job_id), col(DeadLetter.queue))
        of_these = letters.where(col(DeadLetter.job_id).in_(some)).order_by(col(DeadLetter.job_id))
        rows = await session.execute(of_these.with_for_update())
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
    """A page of letters, the newest first. For the next page, pass this page's last id as `before_id`.

    With `brief`, the columns that may be long are not loaded: payload, raw bytes, traceback, attempts.

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
    """For each fingerprint, how many letters have it, and the newest of them, brief; the largest group first.

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
    """Delete the letters of these jobs in the caller's transaction; returns the letters that were found."""
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
    """The number of jobs that are buried at this moment."""
    return await session.scalar(select(func.count()).select_from(DeadLetter)) or 0


async def pages(
    sessions: Sessions, which: DeadLetterFilter = ALL, *, size: int = PAGE
) -> AsyncIterator[Sequence[DeadLetter]]:
    """The dead letters that `which` selects, newest first, in pages; letters written meanwhile are left out."""
    before_id: int | None = None
    while True:
        async with sessions() as session:
            page = await newest(session, which, before_id=before_id, limit=size)
        if not page:
            return
        yield page
        before_id = page[-1].id
