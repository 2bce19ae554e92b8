"""purge_deleted_tasks: remove for good what was deleted long ago. Answers with how many tasks went.

If there are more, another job goes on at once.
"""

from datetime import timedelta
from typing import Annotated, ClassVar

from pydantic import Field

from db import tasks
from ledgerq import JobContext, Kind, Payload, go_on


class PurgeDeletedTasks(Payload):
    """How long a deleted task is kept, and how many go in one run at most."""

    kind: ClassVar[str] = "purge_deleted_tasks"

    older_than_days: Annotated[float, Field(ge=0, le=36_500)] = 30
    limit: Annotated[int, Field(ge=1, le=10_000)] = 1_000


async def handle(context: JobContext, purge: PurgeDeletedTasks) -> int:
    gone = await tasks.purge(
        context.session,
        context.origin,
        deleted_before=context.now - timedelta(days=purge.older_than_days),
        limit=purge.limit,
    )
    await go_on(context, purge, more=gone == purge.limit)
    return gone


KIND = Kind(PurgeDeletedTasks, handle)
