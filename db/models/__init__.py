"""The tables, and what comes with them: triggers, and that deleted tasks stay out of sight."""

from db.models import soft_delete as _soft_delete  # noqa: F401 - it listens
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
