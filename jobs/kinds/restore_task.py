"""restore_task: bring back a deleted task and what was deleted with it. Answers with the ids."""

from typing import ClassVar

from db import tasks
from db.inputs import Id
from ledgerq import JobContext, Kind, Payload


class RestoreTask(Payload):
    """The task to bring back."""

    kind: ClassVar[str] = "restore_task"

    task_id: Id


async def handle(context: JobContext, restoration: RestoreTask) -> list[int]:
    restored = await tasks.restore(context.session, context.origin, restoration.task_id)
    return [task.id for task in restored]


KIND = Kind(RestoreTask, handle, batchable=True)
