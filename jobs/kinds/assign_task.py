"""assign_task: give a task to a worker, or to nobody. Answers with the task's id."""

from typing import ClassVar

from db import tasks
from db.inputs import Id, TaskChanges
from ledgerq import JobContext, Kind, Payload


class AssignTask(Payload):
    """The task and who is to do it; null takes it back."""

    kind: ClassVar[str] = "assign_task"

    task_id: Id
    assignee_id: Id | None


async def handle(context: JobContext, assignment: AssignTask) -> int:
    changes = TaskChanges(assignee_id=assignment.assignee_id)
    task = await tasks.update(context.session, context.origin, assignment.task_id, changes)
    return task.id


KIND = Kind(AssignTask, handle, batchable=True)
