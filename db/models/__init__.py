"""The tables, and the triggers that come with them."""

from db.models import triggers as _triggers  # noqa: F401 - it adds them to the tables
from db.models.audit import Action, AuditLog
from db.models.base import Base
from db.models.delivery import DeadLetter, JobState, OutboxMessage, ProcessedJob, UniqueKey
from db.models.project import Project
from db.models.task import LEGAL_MOVES, Task, TaskPriority, TaskStatus
from db.models.worker import Worker, WorkerType

__all__ = [
    "LEGAL_MOVES",
    "Action",
    "AuditLog",
    "Base",
    "DeadLetter",
    "JobState",
    "OutboxMessage",
    "ProcessedJob",
    "Project",
    "Task",
    "TaskPriority",
    "TaskStatus",
    "UniqueKey",
    "Worker",
    "WorkerType",
]
