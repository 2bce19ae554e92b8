"""create_task: a task, or with `parent_task_id` a subtask. Answers with its id."""

from collections.abc import Sequence
from typing import ClassVar

from db import task_bulk, tasks
from db.inputs import NewTask
from ledgerq import JobContext, Kind, Payload


class CreateTask(NewTask, Payload):
    """A task to create."""

    kind: ClassVar[str] = "create_task"


async def handle(context: JobContext, new: CreateTask) -> int:
    task = await tasks.create(context.session, context.origin, new)
    return task.id


async def handle_many(contexts: Sequence[JobContext], news: Sequence[CreateTask]) -> list[int]:
    origins = [context.origin for context in contexts]
    return await task_bulk.create_of_many(
        contexts[0].session, list(zip(origins, news, strict=True))
    )


KIND = Kind(CreateTask, handle, handle_many=handle_many)
