"""bulk_create_tasks: many tasks in one job, all or none. Answers with their ids, in order."""

from typing import Annotated, ClassVar

from pydantic import Field

from db import task_bulk
from db.inputs import NewTask
from ledgerq import JobContext, Kind, Payload


class BulkCreateTasks(Payload):
    """The tasks to create."""

    kind: ClassVar[str] = "bulk_create_tasks"

    tasks: Annotated[list[NewTask], Field(min_length=1, max_length=1_000)]


async def handle(context: JobContext, bulk: BulkCreateTasks) -> list[int]:
    return await task_bulk.create_many(context.session, context.origin, bulk.tasks)


KIND = Kind(BulkCreateTasks, handle)
