"""Jobs on tasks. A job that creates or changes one task returns its id."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Annotated

from pydantic import Field, PositiveInt

from db import task_bulk, tasks
from db.inputs import Id, NewTask, Status, TaskChanges
from ledgerq import JobContext, Payload, job


class CreateTask(NewTask, Payload[int], kind="create_task"):
    """A task to create; a subtask if `parent_task_id` is given."""


@job
async def create_task(context: JobContext, new: CreateTask) -> int:
    """Create a task or a subtask."""
    task = await tasks.create(context.session, context.origin, new)
    return task.id


@create_task.many
async def create_tasks(contexts: Sequence[JobContext], news: Sequence[CreateTask]) -> list[int]:
    """Create the tasks of many jobs, in few statements."""
    origins = [context.origin for context in contexts]
    return await task_bulk.create_of_many(
        contexts[0].session, list(zip(origins, news, strict=True))
    )


class BulkCreateTasks(Payload[list[int]], kind="bulk_create_tasks"):
    """Many tasks to create in one job: all of them, or none."""

    tasks: Annotated[list[NewTask], Field(min_length=1, max_length=1_000)]


@job
async def bulk_create_tasks(context: JobContext, bulk: BulkCreateTasks) -> list[int]:
    """Create many tasks. Returns their ids, in the order given."""
    return await task_bulk.create_many(context.session, context.origin, bulk.tasks)


class UpdateTask(Payload[int], kind="update_task"):
    """A task, its changes, and the version that the task must have; None: any version."""

    task_id: Id
    changes: TaskChanges
    expected_version: PositiveInt | None = None


@job
async def update_task(context: JobContext, update: UpdateTask) -> int:
    """Change the fields that are set in `changes`, and no others."""
    task = await tasks.update(
        context.session,
        context.origin,
        update.task_id,
        update.changes,
        expected_version=update.expected_version,
    )
    return task.id


@update_task.many
async def update_tasks(contexts: Sequence[JobContext], updates: Sequence[UpdateTask]) -> list[int]:
    """Make the updates of many jobs, in few statements."""
    await task_bulk.update_of_many(
        contexts[0].session,
        [
            (context.origin, update.task_id, update.changes, update.expected_version)
            for context, update in zip(contexts, updates, strict=True)
        ],
    )
    return [update.task_id for update in updates]


class AssignTask(Payload[int], kind="assign_task"):
    """A task and its new assignee; null assigns the task to nobody."""

    task_id: Id
    assignee_id: Id | None


@job
async def assign_task(context: JobContext, assignment: AssignTask) -> int:
    """Assign a task to a worker, or to nobody."""
    changes = TaskChanges(assignee_id=assignment.assignee_id)
    task = await tasks.update(context.session, context.origin, assignment.task_id, changes)
    return task.id


@assign_task.many
async def assign_tasks(
    contexts: Sequence[JobContext], assignments: Sequence[AssignTask]
) -> list[int]:
    """Assign the tasks of many jobs, in few statements."""
    await task_bulk.update_of_many(
        contexts[0].session,
        [
            (context.origin, each.task_id, TaskChanges(assignee_id=each.assignee_id), None)
            for context, each in zip(contexts, assignments, strict=True)
        ],
    )
    return [each.task_id for each in assignments]


class ChangeTaskStatus(Payload[int], kind="change_task_status"):
    """A task and its new status."""

    task_id: Id
    status: Status


@job
async def change_task_status(context: JobContext, change: ChangeTaskStatus) -> int:
    """Change a task's status, as `LEGAL_MOVES` allows."""
    task = await tasks.change_status(context.session, context.origin, change.task_id, change.status)
    return task.id


@change_task_status.many
async def change_task_statuses(
    contexts: Sequence[JobContext], changes: Sequence[ChangeTaskStatus]
) -> list[int]:
    """Change the status of the tasks of many jobs, in few statements."""
    await task_bulk.change_status_of_many(
        contexts[0].session,
        [(c.origin, each.task_id, each.status) for c, each in zip(contexts, changes, strict=True)],
    )
    return [each.task_id for each in changes]


class DeleteTask(Payload[list[int]], kind="delete_task"):
    """The task to delete."""

    task_id: Id


@job(shares_commit=True)
async def delete_task(context: JobContext, deletion: DeleteTask) -> list[int]:
    """Mark a task and all its subtasks as deleted. Returns the ids of the marked tasks."""
    deleted = await tasks.delete(context.session, context.origin, deletion.task_id, now=context.now)
    return [task.id for task in deleted]


class RestoreTask(Payload[list[int]], kind="restore_task"):
    """The deleted task to restore."""

    task_id: Id


@job(shares_commit=True)
async def restore_task(context: JobContext, restoration: RestoreTask) -> list[int]:
    """Restore a deleted task and the subtasks that were deleted with it. Returns the ids of all of them."""
    restored = await tasks.restore(context.session, context.origin, restoration.task_id)
    return [task.id for task in restored]


class PurgeDeletedTasks(Payload[int], kind="purge_deleted_tasks"):
    """The days for which deleted tasks are kept, and the most tasks that one run purges."""

    older_than_days: Annotated[float, Field(ge=0, le=36_500)] = 30
    limit: Annotated[int, Field(ge=1, le=10_000)] = 1_000


@job
async def purge_deleted_tasks(context: JobContext, purge: PurgeDeletedTasks) -> int:
    """Delete the rows of tasks that were deleted long ago. Returns how many.

    If one run can't delete all of them, it stages a job that goes on at once.
    """
    gone = await tasks.purge(
        context.session,
        context.origin,
        deleted_before=context.now - timedelta(days=purge.older_than_days),
        limit=purge.limit,
    )
    await context.go_on(purge, more=gone == purge.limit)
    return gone
