"""The job prune_processed_jobs: deletes receipts of jobs that ended long ago, and unique keys whose window is over.

It returns how many receipts and keys it deleted. If more are left, it stages its next part at once and returns that
job's id too; so it keeps up with 10,000 jobs a second. A job that is delivered after its receipt was deleted runs
once more. So receipts are kept for a week at least: no queue or outbox holds an ended job for as long.
"""

from datetime import timedelta
from typing import Annotated

from pydantic import Field

from ledgerq.job import JobContext, job
from ledgerq.schedule import Recurring
from ledgerq.store import inbox, unique_keys
from ledgerq.wire.payload import Payload


class PruneProcessedJobs(Payload[dict[str, int | str]], kind="prune_processed_jobs"):
    """When receipts are deleted, in days after their jobs ended, and how many of them, and of unique keys, one run may delete."""

    older_than_days: Annotated[float, Field(ge=7, le=36_500)] = 90
    limit: Annotated[int, Field(ge=1, le=1_000_000)] = 50_000


@job
async def prune_processed_jobs(
    context: JobContext, prune: PruneProcessedJobs
) -> dict[str, int | str]:
    ended_before = context.now - timedelta(days=prune.older_than_days)
    jobs = await inbox.prune(context.session, ended_before=ended_before, limit=prune.limit)
    keys = await unique_keys.forget_expired(context.session, limit=prune.limit)
    gone: dict[str, int | str] = {"jobs": jobs, "unique_keys": keys}
    next_job = await context.go_on(prune, more=prune.limit in {jobs, keys})
    return {**gone, "next_job": next_job} if next_job else gone


EVERY_HOUR = Recurring(PruneProcessedJobs, minute=41)
