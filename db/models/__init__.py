"""The tables, their triggers, and the filter that hides deleted tasks from reads."""

from db.models import soft_delete as _soft_delete  # noqa: F401 - it registers a listener
from db.models import triggers as _triggers  # noqa: F401 - it adds them to the tables
from db.models.base import Base
from db.models.project import Project
from db.models.task import LEGAL_MOVES, Task, TaskPriority, TaskStatus
from db.models.worker import Worker, WorkerType
from ledgerq.sessions import know

Entity = Project | Worker | Task

know([Base.metadata])

__all__ = [
    "LEGAL_MOVES",
    "Base",
    "Entity",
    "Project",
    "Task",
    "TaskPriority",
    "TaskStatus",
    "Worker",
    "WorkerType",
]
