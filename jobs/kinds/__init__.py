"""The catalogue: every kind of job there is. A new one is a file here, a line below and a test."""

from jobs.kinds import (
    assign_task,
    bulk_create_tasks,
    change_task_status,
    create_project,
    create_task,
    create_worker,
    delete_task,
    purge_deleted_tasks,
    restore_task,
    update_task,
)
from jobs.kinds.assign_task import AssignTask
from jobs.kinds.bulk_create_tasks import BulkCreateTasks
from jobs.kinds.change_task_status import ChangeTaskStatus
from jobs.kinds.create_project import CreateProject
from jobs.kinds.create_task import CreateTask
from jobs.kinds.create_worker import CreateWorker
from jobs.kinds.delete_task import DeleteTask
from jobs.kinds.purge_deleted_tasks import PurgeDeletedTasks
from jobs.kinds.restore_task import RestoreTask
from jobs.kinds.update_task import UpdateTask

CATALOGUE = (
    create_project.KIND,
    create_worker.KIND,
    create_task.KIND,
    bulk_create_tasks.KIND,
    update_task.KIND,
    assign_task.KIND,
    change_task_status.KIND,
    delete_task.KIND,
    restore_task.KIND,
    purge_deleted_tasks.KIND,
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
    "PurgeDeletedTasks",
    "RestoreTask",
    "UpdateTask",
]
