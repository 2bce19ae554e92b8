"""What the task manager runs by the clock."""

from jobs.kinds import PurgeDeletedTasks
from ledgerq import Recurring

SCHEDULE = (
    Recurring(PurgeDeletedTasks, minute=17),  # hourly, off the full hour's crowd
)
