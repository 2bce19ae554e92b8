"""The schedule as arq cron jobs.

Every worker puts each tick on the queue under one id made of kind and time, so Redis keeps one of
them, and the inbox settles what a slow worker puts there again: a tick runs once.
"""

from collections.abc import Iterable

from arq.cron import CronJob, cron

from jobs.envelope import CRON_PREFIX
from jobs.schedule import Recurring
from worker.dispatch import dispatcher


def cron_jobs(schedule: Iterable[Recurring], *, max_tries: int) -> list[CronJob]:
    """One arq cron job for each entry of the schedule."""
    return [_cron_job(entry, max_tries) for entry in schedule]


def _cron_job(entry: Recurring, max_tries: int) -> CronJob:
    name = f"{CRON_PREFIX}{entry.payload.kind}"
    return cron(
        dispatcher(name),
        name=name,
        hour=_times(entry.hour),
        minute=_times(entry.minute),
        second=_times(entry.second),
        max_tries=max_tries,
    )


def _times(times: frozenset[int] | None) -> set[int] | None:
    return None if times is None else set(times)
