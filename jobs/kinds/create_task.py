"""create_task: a task, or with `parent_task_id` a subtask. Answers with its id."""

from typing import ClassVar

from db import tasks
from db.inputs import NewTask
from jobs.context import JobContext
from jobs.registry import Kind, Payload


class CreateTask(NewTask, Payload):
    """A task to create."""

    kind: ClassVar[str] = "create_task"


async def handle(context: JobContext, new: CreateTask) -> int:
    task = await tasks.create(context.session, context.origin, new)
    return task.id


KIND = Kind(CreateTask, handle)
