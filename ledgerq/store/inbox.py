"""The inbox: which jobs have ended. The row commits with what ended the job, so a second end finds it."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

from pydantic_core import to_json
from sqlalchemy import bindparam, delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from ledgerq.bounds import MAX_PRUNED, chunks, is_storable, require_limit, require_moment, storable
from ledgerq.columns import UtcDateTime
from ledgerq.database.own_schema import OurSql, reach_our_tables
from ledgerq.errors import NotAllowedInJob
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
_ROWS = ProcessedJob.__table__  # type: ignore[attr-defined]
_KEEP_RESULT = (
    update(_ROWS)
    .where(_ROWS.c.job_id == bindparam("id"))
    .values(result=bindparam("value", type_=_ROWS.c.result.type))
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
# by their place in the table: by their ids, PostgreSQL would read all of it to find them again
_PRUNE = OurSql(
    "DELETE FROM ledgerq.processed_job WHERE ctid = ANY "  # noqa: S608 - words of ours
    f"(ARRAY(SELECT old.ctid {_OLD} FOR UPDATE SKIP LOCKED))",
    _BEFORE,
)
_PRUNE_ON_SQLITE = OurSql(
    f"DELETE FROM ledgerq.processed_job WHERE rowid IN (SELECT old.rowid {_OLD})",  # noqa: S608 - as above
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
    """Note that this transaction ends the job; False if one that committed ended it already.

    Must be the first statement of the transaction: two deliveries of one job meet here, and the
    second waits until the first one has committed or rolled back.
    """
    note = {
        "job_id": job_id,
        "kind": kind,
        "payload_hash": payload_hash,
        "state": state.value,
        "attempt": attempt,
    }
    return (await session.execute(_INSERT_RECEIPT.on(session), note)).first() is not None


async def insert_receipts(
    session: AsyncSession, jobs: Sequence[tuple[str, str, bytes, int]]
) -> set[str]:
    """The same for many jobs (id, kind, payload hash, attempt); the ids of those that had not ended.

    Ids are inserted in their order, so that two batches that meet wait for each other and don't deadlock.
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
    """Keep what many jobs answered."""
    results = {job_id: result for job_id, result in results.items() if result is not None}
    if not results:
        return
    if len(results) == 1 or session.get_bind().dialect.name != "postgresql":
        for job_id, result in results.items():
            await keep_result(session, job_id, result)
        return
    ids = sorted(results)
    values = [to_json(results[i]).decode() for i in ids]
    kept: Any = await session.execute(_KEEP_RESULTS.on(session), {"ids": ids, "results": values})
    _require_marks(kept.rowcount, len(ids))


async def keep_result(session: AsyncSession, job_id: str, result: Any) -> None:
    """Keep what the job answered, so that a duplicate can answer the same. Nothing is there already."""
    if result is None:
        return
    kept: Any = await session.execute(_KEEP_RESULT, {"id": job_id, "value": result})
    _require_marks(kept.rowcount, 1)


def _require_marks(found: int, expected: int) -> None:
    """The marks of this transaction's jobs must still be there: or else it is not the one that wrote them."""
    if found != expected:
        raise NotAllowedInJob("undoing the mark of a job")


async def get_receipt(session: AsyncSession, job_id: str) -> ProcessedJob:
    """The row of a job that is known to have ended."""
    return await session.get_one(ProcessedJob, job_id)


async def find(session: AsyncSession, job_id: str) -> ProcessedJob | None:
    """The row of a job if it has ended."""
    if not is_storable(job_id):
        return None
    await reach_our_tables(session)
    return await session.get(ProcessedJob, job_id)


async def hashes(session: AsyncSession, job_ids: Collection[str]) -> dict[str, bytes]:
    """Of these jobs, those that have ended, each with the hash of its payload."""
    found: dict[str, bytes] = {}
    for some in chunks(storable(job_ids)):
        ended = select(col(ProcessedJob.job_id), col(ProcessedJob.payload_hash)).where(
            col(ProcessedJob.job_id).in_(some)
        )
        found |= dict((await session.execute(ended)).all())
    return found


async def delete_receipts(session: AsyncSession, job_ids: Collection[str]) -> None:
    """These jobs are dead no more: they may run again."""
    for some in chunks(storable(job_ids)):
        await session.execute(
            delete(ProcessedJob).where(
                col(ProcessedJob.job_id).in_(some), col(ProcessedJob.state) == JobState.DEAD
            ),
            execution_options={"synchronize_session": False},
        )


async def prune(session: AsyncSession, *, ended_before: datetime, limit: int) -> int:
    """Forget jobs that ended long ago, so many at most; a job with a dead letter is kept.

    A forgotten job that is delivered once more runs once more.

    Raises:
        Refused: the limit is out of range, or `ended_before` is no time that a database can hold.
    """
    require_limit(limit, MAX_PRUNED)
    require_moment("ended_before", ended_before)
    prune = _PRUNE if session.get_bind().dialect.name == "postgresql" else _PRUNE_ON_SQLITE
    gone = await session.execute(prune.on(session), {"ended_before": ended_before, "limit": limit})
    return int(gone.rowcount)  # type: ignore[attr-defined]


async def count(session: AsyncSession) -> dict[JobState, int]:
    """How many jobs have ended, by how."""
    by_state = select(col(ProcessedJob.state), func.count()).group_by(col(ProcessedJob.state))
    return dict((await session.execute(by_state)).all())
