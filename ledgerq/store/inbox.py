"""The inbox: receipts of the jobs that have ended. A receipt commits with the job's work, so a second run finds it."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from pydantic_core import to_json
from sqlalchemy import bindparam, delete, func, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from ledgerq.bounds import MAX_PRUNED, chunks, is_storable, require_limit, require_moment, storable
from ledgerq.columns import UtcDateTime
from ledgerq.database.own_schema import OurSql, reach_our_tables
from ledgerq.database.round_trips import at_commit, begin_with
from ledgerq.errors import NotAllowedInJob
from ledgerq.store import steps
from ledgerq.store.tables import JobState, ProcessedJob

# made once: each job runs them, and an expression would be built and keyed anew each time
_INSERT_RECEIPT = OurSql(
    "INSERT INTO ledgerq.processed_job (job_id, kind, payload_hash, state, attempt) "
    "VALUES (:job_id, :kind, :payload_hash, :state, :attempt) "
    "ON CONFLICT (job_id) DO NOTHING RETURNING job_id"
)
_INSERT_RECEIPTS = OurSql(
    "INSERT INTO ledgerq.processed_job (job_id, kind, payload_hash, attempt) "
    "SELECT * FROM unnest(CAST(:ids AS text[]), CAST(:kinds AS text[]), "
    "CAST(:hashes AS bytea[]), CAST(:attempts AS int[])) "
    "ON CONFLICT (job_id) DO NOTHING RETURNING job_id"
)
_RESULT = bindparam("result", type_=ProcessedJob.__table__.c.result.type)  # type: ignore[attr-defined]
_KEEP_RESULT = OurSql(
    "UPDATE ledgerq.processed_job SET result = :result WHERE job_id = :job_id", _RESULT
)
# goes with COMMIT, and nobody sees how many rows it changed: it fails by itself if it changed none
_UNDONE = "the receipt of the job is gone"
_KEEP_INT_AT_COMMIT = OurSql(
    "WITH kept AS (UPDATE ledgerq.processed_job SET result = CAST(:result AS jsonb) "  # noqa: S608 - words of ours
    "WHERE job_id = :job_id RETURNING job_id) "
    f"SELECT CAST(CASE count(*) WHEN 1 THEN 'true' ELSE '{_UNDONE}' END AS boolean) FROM kept"
)
_KEEP_RESULTS = OurSql(
    "UPDATE ledgerq.processed_job AS kept SET result = v.result::jsonb "
    "FROM unnest(CAST(:ids AS text[]), CAST(:results AS text[])) AS v(job_id, result) "
    "WHERE kept.job_id = v.job_id"
)
_OLD = (
    "FROM ledgerq.processed_job AS old WHERE old.processed_at < :ended_before "
    "AND NOT EXISTS (SELECT 1 FROM ledgerq.dead_letter AS letter WHERE letter.job_id = old.job_id) LIMIT :limit"
)
_BEFORE = bindparam("ended_before", type_=UtcDateTime)
# by ctid: by job_id, PostgreSQL would read the whole table to find the rows again
_PRUNE = OurSql(
    "WITH gone AS (DELETE FROM ledgerq.processed_job WHERE ctid = ANY "  # noqa: S608 - words of ours
    f"(ARRAY(SELECT old.ctid {_OLD} FOR UPDATE SKIP LOCKED)) RETURNING job_id), "
    "steps AS (DELETE FROM ledgerq.job_step USING gone WHERE job_step.job_id = gone.job_id), "
    "progress AS (DELETE FROM ledgerq.job_progress USING gone WHERE job_progress.job_id = gone.job_id) "
    "SELECT count(*) FROM gone",
    _BEFORE,
)
_PRUNE_ON_SQLITE = OurSql(
    f"DELETE FROM ledgerq.processed_job WHERE rowid IN (SELECT old.rowid {_OLD}) RETURNING job_id",  # noqa: S608 - as above
    _BEFORE,
)


async def insert_receipt(
    session: AsyncSession,
    job_id: str,
    kind: str,
    payload_hash: bytes,
    *,
    state: JobState = JobState.DONE,
    attempt: int | None = None,
) -> bool:
    """Write the receipt: this transaction ends the job. False if the job has a receipt already.

    This must be the first statement of the transaction. If two deliveries of one job run at once, the second one waits
    here until the first has committed or rolled back.
    """
    note = {
        "job_id": job_id,
        "kind": kind,
        "payload_hash": payload_hash,
        "state": state.value,
        "attempt": attempt,
    }
    statement = _INSERT_RECEIPT.on(session)
    if (written := await begin_with(session, statement, note)) is not None:
        return written == 1
    return (await session.execute(statement, note)).first() is not None


async def insert_receipts(
    session: AsyncSession, jobs: Sequence[tuple[str, str, bytes, int]]
) -> set[str]:
    """Write receipts of many jobs (id, kind, payload hash, attempt); returns the ids that had no receipt yet.

    The ids are inserted in sorted order, so that two groups with the same jobs wait for each other and don't deadlock.
    """
    rows = sorted(jobs)
    if len(rows) == 1 or session.get_bind().dialect.name != "postgresql":
        return {row[0] for row in rows if await insert_receipt(session, *row[:3], attempt=row[3])}
    ids, kinds, payload_hashes, attempts = map(list, zip(*rows, strict=True))
    added = await session.scalars(
        _INSERT_RECEIPTS.on(session),
        {"ids": ids, "kinds": kinds, "hashes": payload_hashes, "attempts": attempts},
    )
    return set(added)


async def keep_results(session: AsyncSession, results: Mapping[str, Any]) -> None:
    """Write the results of many jobs, by their ids, into their receipts; a result of None is passed over."""
    results = {job_id: result for job_id, result in results.items() if result is not None}
    if len(results) <= 1 or session.get_bind().dialect.name != "postgresql":
        for job_id, result in results.items():
            await keep_result(session, job_id, result)
        return
    ids = sorted(results)
    values = [to_json(results[i]).decode() for i in ids]
    kept: Any = await session.execute(_KEEP_RESULTS.on(session), {"ids": ids, "results": values})
    _require_receipts(kept.rowcount, len(ids))


async def keep_result(session: AsyncSession, job_id: str, result: Any) -> None:
    """Write a job's result into its receipt, so that a duplicate of the job gets the same result. None is not written.

    On PostgreSQL, an int or a bool is sent together with the session's COMMIT (see `requiring_receipts`). Any other result
    is written now: a server logs the text of a COMMIT that fails, and a result may be secret.
    """
    if result is None:
        return
    if isinstance(result, int) and session.get_bind().dialect.name == "postgresql":
        last = {"job_id": job_id, "result": to_json(result).decode()}
        await at_commit(session, _KEEP_INT_AT_COMMIT.on(session), last)
        return
    kept: Any = await session.execute(
        _KEEP_RESULT.on(session), {"job_id": job_id, "result": result}
    )
    _require_receipts(kept.rowcount, 1)


@contextmanager
def requiring_receipts() -> Iterator[None]:
    """Around a transaction that ends jobs: raise `NotAllowedInJob` if its COMMIT fails because a job's receipt is gone."""
    try:
        yield
    except DBAPIError as error:
        if _UNDONE in str(error.orig):
            _require_receipts(0, 1)
        raise


def _require_receipts(found: int, expected: int) -> None:
    """Refuse to go on if receipts are missing: then a handler has ended or undone the transaction that wrote them."""
    if found != expected:
        raise NotAllowedInJob("undoing the receipt of a job")


async def get_receipt(session: AsyncSession, job_id: str) -> ProcessedJob:
    """The receipt of a job that is done, buried or cancelled; raises `NoResultFound` if the job has no receipt."""
    return await session.get_one(ProcessedJob, job_id)


async def find(session: AsyncSession, job_id: str) -> ProcessedJob | None:
    """The receipt of a job that is done, buried or cancelled; None if the database has none of this id."""
    if not is_storable(job_id):
        return None
    await reach_our_tables(session)
    return await session.get(ProcessedJob, job_id)


async def hashes(session: AsyncSession, job_ids: Collection[str]) -> dict[str, bytes]:
    """Which of these jobs have ended: their ids, each with the hash of the job's payload."""
    found: dict[str, bytes] = {}
    for some in chunks(storable(job_ids)):
        ended = select(col(ProcessedJob.job_id), col(ProcessedJob.payload_hash)).where(
            col(ProcessedJob.job_id).in_(some)
        )
        found |= dict((await session.execute(ended)).all())
    return found


async def withdraw_receipt(session: AsyncSession, job_id: str) -> None:
    """Delete the receipt that this transaction inserted. Until the transaction ends, others that would end the job wait."""
    gone = delete(ProcessedJob).where(col(ProcessedJob.job_id).in_(storable([job_id])))
    await session.execute(gone, execution_options={"synchronize_session": False})


async def delete_receipts(session: AsyncSession, job_ids: Collection[str]) -> None:
    """Delete the receipts of those of these jobs that were buried, so that they may run again. Others keep their receipts."""
    for some in chunks(storable(job_ids)):
        await session.execute(
            delete(ProcessedJob).where(
                col(ProcessedJob.job_id).in_(some), col(ProcessedJob.state) == JobState.DEAD
            ),
            execution_options={"synchronize_session": False},
        )


async def prune(session: AsyncSession, *, ended_before: datetime, limit: int) -> int:
    """Delete at most `limit` receipts of jobs that ended before a time, and their steps and progress; returns the number.

    A job with a dead letter keeps its receipt. If a job is delivered after its receipt was deleted, it runs once more.

    Raises:
        Refused: the limit is out of range, or `ended_before` is no time that a database can hold.
    """
    require_limit(limit, MAX_PRUNED)
    require_moment("ended_before", ended_before)
    which = {"ended_before": ended_before, "limit": limit}
    if session.get_bind().dialect.name == "postgresql":
        return int(await session.scalar(_PRUNE.on(session), which) or 0)
    gone = (await session.scalars(_PRUNE_ON_SQLITE.on(session), which)).all()
    await steps.forget(session, gone)
    return len(gone)


async def count(session: AsyncSession) -> dict[JobState, int]:
    """The number of receipts in each state that at least one has."""
    by_state = select(col(ProcessedJob.state), func.count()).group_by(col(ProcessedJob.state))
    return dict((await session.execute(by_state)).all())
