"""Jobs: where each one stands."""

from typing import Annotated

from arq.jobs import JobStatus
from fastapi import APIRouter, Depends, HTTPException
from sqlalchemy.ext.asyncio import AsyncSession

from examples.api.tasks import Reading, get_client
from examples.api.views import JobView
from ledgerq.client import JobClient
from ledgerq.tables import JobState, find_dead_letter, find_receipt

router = APIRouter(prefix="/jobs")


@router.get("/{job_id}")
async def show_job(
    job_id: str, session: Reading, client: Annotated[JobClient, Depends(get_client)]
) -> JobView:
    """The database knows how it ended, Redis whether it waits or runs."""
    if not job_id.isprintable():
        raise HTTPException(404, "there is no such job")
    if ended := await _ended(session, job_id):
        return ended
    match await client.job(job_id).as_arq_job.status():
        case JobStatus.queued:
            return JobView(job_id=job_id, status="queued")
        case JobStatus.deferred:
            return JobView(job_id=job_id, status="deferred")
        case JobStatus.in_progress:
            return JobView(job_id=job_id, status="in_progress")
    if ended := await _ended(session, job_id):  # between the two looks
        return ended
    raise HTTPException(404, f"there is no job {job_id}")


async def _ended(session: AsyncSession, job_id: str) -> JobView | None:
    ended = await find_receipt(session, job_id)
    if ended and ended.state is not JobState.DEAD:
        return JobView(job_id=job_id, status=ended.state.value, result=ended.result)
    if dead := await find_dead_letter(session, job_id):
        return JobView(job_id=job_id, status="dead", error=dead.error, problems=dead.problems)
    return None
