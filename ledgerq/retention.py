"""prune_processed_jobs: forget jobs that ended long ago, and unique keys whose window is over.

Answers with how many of each went, and when there are more, which job goes on at once: at 10,000 jobs a
second as many go as come. A forgotten job that is delivered once more runs once more, so none is
forgotten within a week: that is longer than any queue or outbox holds on to a job that has ended.
"""

from datetime import timedelta
from typing import Annotated, ClassVar

from pydantic import Field

from ledgerq.job import JobContext, Kind
from ledgerq.schedule import Recurring
from ledgerq.staging import go_on
from ledgerq.store import inbox, unique_keys
from ledgerq.wire.payload import Payload


class PruneProcessedJobs(Payload):
    """How long it is known that a job has ended, and how many go in one run at most."""

    kind: ClassVar[str] = "prune_processed_jobs"

    older_than_days: Annotated[float, Field(ge=7, le=36_500)] = 90
    limit: Annotated[int, Field(ge=1, le=1_000_000)] = 50_000


async def handle(context: JobContext, prune: PruneProcessedJobs) -> dict[str, int | str]:
    ended_before = context.now - timedelta(days=prune.older_than_days)
    jobs = await inbox.prune(context.session, ended_before=ended_before, limit=prune.limit)
    keys = await unique_keys.forget_expired(context.session, limit=prune.limit)
    gone: dict[str, int | str] = {"jobs": jobs, "unique_keys": keys}
    next_job = await go_on(context, prune, more=prune.limit in {jobs, keys})
    return {**gone, "next_job": next_job} if next_job else gone


KIND = Kind(PruneProcessedJobs, handle)
EVERY_HOUR = Recurring(PruneProcessedJobs, minute=frozenset({41}))
