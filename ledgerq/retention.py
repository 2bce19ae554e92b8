"""prune_processed_jobs: forget jobs that ended long ago, and unique keys whose window is over.

Answers with how many of each went, and when there are more, which job goes on at once: at 10,000 jobs a
second as many go as come. A forgotten job that is delivered once more runs once more, so none is
forgotten within a week: that is longer than any queue or outbox holds on to a job that has ended.
"""

from datetime import timedelta
from typing import Annotated

from pydantic import Field

from ledgerq.job import JobContext, job
from ledgerq.schedule import Recurring
from ledgerq.store import inbox, unique_keys
from ledgerq.wire.payload import Payload


class PruneProcessedJobs(Payload[dict[str, int | str]], kind="prune_processed_jobs"):
    """How long it is known that a job has ended, and how many go in one run at most."""

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
