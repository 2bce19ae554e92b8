"""What the task manager runs by the clock."""

from jobs.kinds import PurgeDeletedTasks
from ledgerq import Recurring

SCHEDULE = (
    Recurring(PurgeDeletedTasks, minute=17),  # hourly; many other jobs start at :00
)
