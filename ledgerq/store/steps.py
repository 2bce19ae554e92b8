"""The steps that jobs do outside of the database: what each answered, so that no later attempt does it again."""

from collections.abc import Collection, Mapping
from typing import Any

from sqlalchemy import String, bindparam, delete, exists, literal, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from ledgerq.bounds import chunks, is_storable, storable
from ledgerq.columns import utc_now
from ledgerq.database.own_schema import reach_our_tables
from ledgerq.errors import NotReplayable
from ledgerq.store import audit
from ledgerq.store.audit import Change, Origin
from ledgerq.store.tables import AuditLog, JobProgress, JobStep, ProcessedJob, StepState

_ROWS = JobStep.__table__  # type: ignore[attr-defined]
_SILENT = {"synchronize_session": False}


def _goes_on(job_id: Any) -> Any:
    return ~exists().where(col(ProcessedJob.job_id) == job_id)


_ID = bindparam("id", type_=String)
# made once: each step runs them
_OF_RUNNING = (
    select(exists().where(col(ProcessedJob.job_id) == _ID), JobStep)
    .select_from(select(literal(1)).subquery().outerjoin(JobStep, col(JobStep.job_id) == _ID))
    .order_by(col(JobStep.begun_at), col(JobStep.name))
)
_GIVEN = [each for each in _ROWS.c if each.name != "changed_at"]
_ROW = select(*(bindparam(each.name, type_=each.type) for each in _GIVEN)).where(
    _goes_on(bindparam("job_id", type_=String))
)
_ADD = {
    name: insert(_ROWS).from_select(_GIVEN, _ROW).on_conflict_do_nothing().returning(_ROWS.c.name)
    for name, insert in (("postgresql", postgresql.insert), ("sqlite", sqlite.insert))
}
_LOG = AuditLog.__table__  # type: ignore[attr-defined]
_TOLD = [each for each in _LOG.c if each.name not in {"id", "at"}]
_ADDED = _ADD["postgresql"].cte("added")
_ENTRY = select(*(bindparam(f"told_{each.name}", type_=each.type) for each in _TOLD))
_ADD_AND_TELL = (  # one trip for both
    postgresql.insert(_LOG).from_select(_TOLD, _ENTRY.select_from(_ADDED)).returning(_LOG.c.id)
)


async def of_job(session: AsyncSession, job_id: str) -> Mapping[str, JobStep]:
    """The steps of a job by name, in the order in which they began."""
    if not is_storable(job_id):
        return {}
    await reach_our_tables(session)
    found = select(JobStep).where(col(JobStep.job_id) == job_id)
    rows = await session.scalars(found.order_by(col(JobStep.begun_at), col(JobStep.name)))
    return {row.name: row for row in rows}


async def find(
    session: AsyncSession, job_id: str, name: str, *, lock: bool = False
) -> JobStep | None:
    """The job's step of this name, read anew from the database; None if there is no such step.

    `lock`: no other transaction changes or locks the row until this one is over (on SQLite, no other writes anyway).
    """
    return await session.get(
        JobStep, (job_id, name), populate_existing=True, with_for_update=lock or None
    )


async def of_running_job(session: AsyncSession, job_id: str) -> Mapping[str, JobStep] | None:
    """The recorded steps of a job by name, in one round trip, also for an unknown job; None if the job has a receipt."""
    await reach_our_tables(session)
    rows = (await session.execute(_OF_RUNNING, {"id": job_id})).all()
    if rows[0][0]:
        return None
    found: list[JobStep | None] = [step for _, step in rows]
    return {step.name: step for step in found if step is not None}


async def add(session: AsyncSession, values: Mapping[str, Any]) -> bool:
    """Add a step of a job that has not ended. False if the job has a step of this name already, or has ended.

    Args:
        session: the caller's.
        values: all columns of the row but `changed_at`.
    """
    statement = _ADD[session.get_bind().dialect.name]
    return (await session.execute(statement, dict(values))).first() is not None


async def add_and_tell(
    session: AsyncSession, values: Mapping[str, Any], origin: Origin, change: Change
) -> bool:
    """Add a step as `add` does; only if it was added, write `change` to the audit log too. True if the step was added."""
    if session.get_bind().dialect.name == "sqlite":
        if added := await add(session, values):
            await audit.record(session, origin, change)
        return added
    told = {f"told_{name}": value for name, value in audit.checked_entry(origin, change).items()}
    return (await session.execute(_ADD_AND_TELL, {**values, **told})).first() is not None


async def change(
    session: AsyncSession, job_id: str, name: str, since: Any, values: Mapping[str, Any]
) -> bool:
    """Change a step's row. False, and no change, if the job has ended, the step is done, or its result is not `since`.

    Args:
        session: the caller's session.
        job_id: the job.
        name: the name of the step.
        since: the result that the row must still have, as no other delivery has changed it; None: the row has no result.
        values: the columns to change, with their new values.
    """
    result = col(JobStep.result)
    as_it_was = result.is_(None) if since is None else result == literal(since, _ROWS.c.result.type)
    changed = (
        update(JobStep)
        .where(col(JobStep.job_id) == job_id, col(JobStep.name) == name, as_it_was)
        .where(col(JobStep.state) != StepState.DONE, _goes_on(job_id))
        .values(changed_at=utc_now(), **values)
        .returning(col(JobStep.name))
    )
    return (await session.execute(changed, execution_options=_SILENT)).first() is not None


async def keep_answer(session: AsyncSession, job_id: str, name: str, result: Any) -> None:
    """Mark a step as done, with its answer: one that this transaction has added, or one that a person decides on."""
    await session.execute(
        update(JobStep)
        .where(col(JobStep.job_id) == job_id, col(JobStep.name) == name)
        .values(state=StepState.DONE, result=result, error=None, changed_at=utc_now()),
        execution_options=_SILENT,
    )


def missing(name: str, known: Collection[str]) -> str:
    """What is wrong with the name of a step that a job does not have."""
    there = f"the job has: {', '.join(known)}" if known else "the job has none"
    return f"there is no step {name!r}; {there}"


async def remove(session: AsyncSession, job_id: str, names: Collection[str]) -> None:
    """Remove steps of a job: the next attempt does them again."""
    await session.execute(
        delete(JobStep).where(col(JobStep.job_id) == job_id, col(JobStep.name).in_(names)),
        execution_options=_SILENT,
    )


async def require_none_in_doubt(session: AsyncSession, job_ids: Collection[str]) -> None:
    """Refuse to run jobs with other fields, or under another id, while nobody knows whether a step has happened.

    Raises:
        NotReplayable: a step of one of them is in doubt.
    """
    for some in chunks(storable(job_ids)):
        doubtful = select(JobStep).where(
            col(JobStep.job_id).in_(some), col(JobStep.state) == StepState.BEGUN
        )
        for step in await session.scalars(doubtful):
            problem = f"step {step.name} is in doubt; say first what happened: ledgerq dead resolve"
            raise NotReplayable(step.job_id, "steps", problem)


async def forget(session: AsyncSession, job_ids: Collection[str]) -> None:
    """Remove the steps of these jobs, and how far they were: if they run again, they do all of it again."""
    for some in chunks(storable(job_ids)):
        for table in (JobStep, JobProgress):
            of_these = delete(table).where(col(table.job_id).in_(some))
            await session.execute(of_these, execution_options=_SILENT)


async def tell_progress(
    session: AsyncSession, job_id: str, done: int, total: int | None, note: str | None
) -> None:
    """Write down how far a job is."""
    insert = sqlite.insert if session.get_bind().dialect.name == "sqlite" else postgresql.insert
    told = {"done": done, "total": total, "note": note}
    made = insert(JobProgress).values(job_id=job_id, **told)
    await session.execute(
        made.on_conflict_do_update(index_elements=["job_id"], set_={**told, "at": utc_now()})
    )


async def progress_of(session: AsyncSession, job_id: str) -> JobProgress | None:
    """How far the job was when it last told."""
    return await session.get(JobProgress, job_id) if is_storable(job_id) else None
