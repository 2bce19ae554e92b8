"""The jobs that the task manager starts at fixed times."""

from jobs.kinds import PurgeDeletedTasks
from ledgerq import Recurring

SCHEDULE = (
    Recurring(PurgeDeletedTasks, minute=frozenset({17})),  # hourly; many other jobs start at :00
)
