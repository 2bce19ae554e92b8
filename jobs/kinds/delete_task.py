"""delete_task: mark a task and all its subtasks as deleted. Answers with the ids it marked."""

from typing import ClassVar

from db import tasks
from db.inputs import Id
from ledgerq import JobContext, Kind, Payload


class DeleteTask(Payload):
    """The task to delete."""

    kind: ClassVar[str] = "delete_task"

    task_id: Id


async def handle(context: JobContext, deletion: DeleteTask) -> list[int]:
    deleted = await tasks.delete(context.session, context.origin, deletion.task_id, now=context.now)
    return [task.id for task in deleted]


KIND = Kind(DeleteTask, handle, batchable=True)
