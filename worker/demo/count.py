"""Counts rows in the database, to check that every job has left exactly its rows and its audit entries."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import TypeAdapter
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import SQLModel

from db.models import Project, Task, Worker
from db.models.soft_delete import INCLUDE_DELETED
from ledgerq.tables import AuditLog, DeadLetter, ProcessedJob

_EVERYTHING = {INCLUDE_DELETED: True}


@dataclass(frozen=True, slots=True)
class Sent:
    """A job that the producer says it has enqueued."""

    job_id: str
    kind: str
    payload: dict[str, Any]


SENT = TypeAdapter(Sent)


@dataclass(slots=True)
class Tally:
    """How many rows each table has, and in `wrong` a line for each job whose rows are not as expected."""

    jobs: int
    projects: int = 0
    workers: int = 0
    tasks: int = 0
    audit_entries: int = 0
    processed: int = 0
    dead_letters: int = 0
    wrong: list[str] = field(default_factory=list)

    @property
    def agrees(self) -> bool:
        """True if every job has exactly its rows and its audit entries, and there are no others."""
        return not self.wrong


async def tally(session: AsyncSession, sent: Sequence[Sent]) -> Tally:
    """Count the rows, and compare each job's rows with the job's payload."""
    entries = (await session.scalars(select(AuditLog))).all()
    counted = Tally(
        jobs=len(sent),
        projects=await _count(session, Project),
        workers=await _count(session, Worker),
        tasks=await _count(session, Task),
        audit_entries=len(entries),
        processed=await _count(session, ProcessedJob),
        dead_letters=await _count(session, DeadLetter),
    )
    per_job = Counter(entry.job_id for entry in entries)
    counted.wrong = [
        *_disagreements(counted, sent),
        *(
            f"job {job.job_id} has {per_job[job.job_id]} audit entries"
            for job in sent
            if per_job[job.job_id] != 1
        ),
        *await _wrong_rows(session, sent, entries),
    ]
    return counted


async def _count(session: AsyncSession, table: type[SQLModel]) -> int:
    counted = select(func.count()).select_from(table)
    return await session.scalar(counted, execution_options=_EVERYTHING) or 0


def _disagreements(counted: Tally, sent: Sequence[Sent]) -> list[str]:
    kinds = Counter(job.kind for job in sent)
    expected = {
        "projects": kinds["create_project"],
        "workers": kinds["create_worker"],
        "tasks": kinds["create_task"],
        "audit_entries": len(sent),
        "processed": len(sent),
        "dead_letters": 0,
    }
    return [
        f"{getattr(counted, name)} {name}, expected {number}"
        for name, number in expected.items()
        if getattr(counted, name) != number
    ]


async def _wrong_rows(
    session: AsyncSession, sent: Sequence[Sent], entries: Sequence[AuditLog]
) -> list[str]:
    """The jobs whose row, found by the audit entry, does not hold the values of the job's payload."""
    rows = {
        (table.__tablename__, str(row["id"])): row
        for table in (Project, Worker, Task)
        for row in await _dumped(session, table)
    }
    by_job = {entry.job_id: entry for entry in entries}
    return [
        f"job {job.job_id}: its row does not hold what the job carried"
        for job in sent
        if not _holds(rows, by_job.get(job.job_id), job)
    ]


async def _dumped(session: AsyncSession, table: type[SQLModel]) -> list[dict[str, Any]]:
    return [
        row.model_dump(mode="json")
        for row in await session.scalars(select(table), execution_options=_EVERYTHING)
    ]


def _holds(rows: dict[tuple[Any, str], Any], entry: AuditLog | None, job: Sent) -> bool:
    row = rows.get((entry.entity_type, entry.entity_id)) if entry else None
    if row is None:
        return False
    if job.kind == "delete_task":
        return bool(row["id"] == job.payload["task_id"] and row["deleted_at"])
    if job.kind == "change_task_status":
        return bool(row["id"] == job.payload["task_id"] and row["status"] == job.payload["status"])
    moved_since = {"status"}  # another job may have changed it
    return all(row[name] == job.payload[name] for name in job.payload.keys() - moved_since)
