"""Tasks: read directly, created by a job."""

from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Response
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.requests import HTTPConnection

from db import task_reads
from db.errors import NotFound
from db.inputs import Id, NewTask
from examples.api.views import AuditView, JobView, PageView, SingleTaskView, TaskQuery, TaskView
from jobs.kinds import CreateTask
from ledgerq import audit
from ledgerq.bounds import MAX_ID
from ledgerq.client import JobClient
from ledgerq.errors import PayloadMismatch, Refused
from ledgerq.fastapi import get_session

router = APIRouter(prefix="/tasks")

Reading = Annotated[AsyncSession, Depends(get_session)]


class KeyReused(Refused):
    """The client used one key for two different requests."""

    def __init__(self) -> None:
        problem = "stands for another request already; use a new key for new work"
        super().__init__("idempotency_key", problem)


async def get_client(connection: HTTPConnection) -> JobClient:
    """The producer that the lifespan opened."""
    client: JobClient = connection.app.state.client
    return client


@router.post("", status_code=202)
async def enqueue_task(
    new: NewTask,
    response: Response,
    client: Annotated[JobClient, Depends(get_client)],
    idempotency_key: Annotated[str | None, Query(pattern=r"^[A-Za-z0-9._~-]{1,100}$")] = None,
) -> JobView:
    """Enqueue the creation; the answer says where to look. The same key again is the same job."""
    payload = CreateTask.model_validate(new.model_dump(exclude_unset=True))
    job_id = f"api:create_task:{idempotency_key}" if idempotency_key else None
    try:
        job = await client.enqueue(payload, job_id=job_id, actor="service:api")
    except PayloadMismatch:
        raise KeyReused from None
    response.headers["Location"] = f"/jobs/{job.job_id}"
    return JobView(job_id=job.job_id, status="queued")


@router.get("")
async def list_tasks(which: Annotated[TaskQuery, Query()], session: Reading) -> PageView:
    """A page of tasks; `next` is the `after` of the page that follows."""
    page = await task_reads.page(
        session,
        which.as_filter(),
        order=which.order,
        limit=which.limit,
        after=which.after,
        with_total=which.with_total,
    )
    items = [TaskView.model_validate(task) for task in page.items]
    return PageView(items=items, next=page.next, total=page.total)


@router.get("/{task_id}")
async def show_task(task_id: Id, session: Reading) -> SingleTaskView:
    """A task with its project, its people and its direct subtasks."""
    return SingleTaskView.model_validate(await task_reads.get(session, task_id))


@router.get("/{task_id}/history")
async def show_history(
    task_id: Id,
    session: Reading,
    after_id: Annotated[int, Query(ge=0, le=MAX_ID)] = 0,
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
) -> Sequence[AuditView]:
    """Who changed what in which job, oldest first; of deleted and purged tasks too."""
    entries = await audit.history(session, "task", task_id, after_id=after_id, limit=limit)
    if not entries and not after_id:
        raise NotFound("task", task_id)
    return [AuditView.model_validate(entry) for entry in entries]
