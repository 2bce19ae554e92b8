"""change_task_status: move a task along `LEGAL_MOVES`. Answers with the task's id."""

from typing import ClassVar

from db import tasks
from db.inputs import Id, Status
from ledgerq import JobContext, Kind, Payload


class ChangeTaskStatus(Payload):
    """The task and the status it should have."""

    kind: ClassVar[str] = "change_task_status"

    task_id: Id
    status: Status


async def handle(context: JobContext, change: ChangeTaskStatus) -> int:
    task = await tasks.change_status(context.session, context.origin, change.task_id, change.status)
    return task.id


KIND = Kind(ChangeTaskStatus, handle, batchable=True)
