"""update_task: change the fields that are named, and no others. Answers with the task's id."""

from typing import ClassVar

from pydantic import PositiveInt

from db import tasks
from db.inputs import Id, TaskChanges
from ledgerq import JobContext, Kind, Payload


class UpdateTask(Payload):
    """The task, what to change, and the version at which the producer saw it, if that matters."""

    kind: ClassVar[str] = "update_task"

    task_id: Id
    changes: TaskChanges
    expected_version: PositiveInt | None = None


async def handle(context: JobContext, update: UpdateTask) -> int:
    task = await tasks.update(
        context.session,
        context.origin,
        update.task_id,
        update.changes,
        expected_version=update.expected_version,
    )
    return task.id


KIND = Kind(UpdateTask, handle, batchable=True)
