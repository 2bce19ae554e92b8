"""The catalogue: every kind of job there is. A new one is a file here, a line below and a test."""

from jobs.kinds import (
    change_task_status,
    create_project,
    create_task,
    create_worker,
    delete_task,
    purge_deleted_tasks,
)
from jobs.kinds.change_task_status import ChangeTaskStatus
from jobs.kinds.create_project import CreateProject
from jobs.kinds.create_task import CreateTask
from jobs.kinds.create_worker import CreateWorker
from jobs.kinds.delete_task import DeleteTask
from jobs.kinds.purge_deleted_tasks import PurgeDeletedTasks
from jobs.registry import Registry

CATALOGUE = (
    create_project.KIND,
    create_worker.KIND,
    create_task.KIND,
    change_task_status.KIND,
    delete_task.KIND,
    purge_deleted_tasks.KIND,
)


def registry() -> Registry:
    """All kinds, ready for a worker."""
    return Registry(CATALOGUE)


__all__ = [
    "CATALOGUE",
    "ChangeTaskStatus",
    "CreateProject",
    "CreateTask",
    "CreateWorker",
    "DeleteTask",
    "PurgeDeletedTasks",
    "registry",
]
