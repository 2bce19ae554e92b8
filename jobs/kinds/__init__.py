"""The catalogue of all kinds of job. A new kind needs a payload and a handler in a file here, a line below, a test."""

from jobs.kinds.projects import CreateProject, create_project
from jobs.kinds.tasks import (
    AssignTask,
    BulkCreateTasks,
    ChangeTaskStatus,
    CreateTask,
    DeleteTask,
    PurgeDeletedTasks,
    RestoreTask,
    UpdateTask,
    assign_task,
    bulk_create_tasks,
    change_task_status,
    create_task,
    delete_task,
    purge_deleted_tasks,
    restore_task,
    update_task,
)
from jobs.kinds.workers import CreateWorker, create_worker
from jobs.notify import NotifyAssignee, notify_assignee

CATALOGUE = (
    create_project,
    create_worker,
    create_task,
    bulk_create_tasks,
    update_task,
    assign_task,
    change_task_status,
    delete_task,
    restore_task,
    purge_deleted_tasks,
    notify_assignee,
)

__all__ = [
    "CATALOGUE",
    "AssignTask",
    "BulkCreateTasks",
    "ChangeTaskStatus",
    "CreateProject",
    "CreateTask",
    "CreateWorker",
    "DeleteTask",
    "NotifyAssignee",
    "PurgeDeletedTasks",
    "RestoreTask",
    "UpdateTask",
    "assign_task",
    "bulk_create_tasks",
    "change_task_status",
    "create_project",
    "create_task",
    "create_worker",
    "delete_task",
    "notify_assignee",
    "purge_deleted_tasks",
    "restore_task",
    "update_task",
]
