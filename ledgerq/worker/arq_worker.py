"""Parts of arq's interface that ledgerq's worker keeps, some with a fix: counters, cron, pool, log line at a stop."""

import logging
import signal
from datetime import datetime

from arq.connections import create_pool
from arq.worker import Worker

from ledgerq.worker.arq_functions import Counted

log = logging.getLogger("arq.worker")  # the logger in which arq's users look


class ArqWorker(Worker):
    """arq's worker as a base class. `JobWorker` derives from it, and has its own loop to claim and run jobs."""

    jobs_complete, jobs_failed, jobs_retried = map(Counted, ("complete", "failed", "retried"))

    async def open_pool(self) -> None:
        """Connect to Redis as arq does, unless the worker was given a pool."""
        if self._pool is None:
            self._pool = await create_pool(
                self.redis_settings,
                job_deserializer=self.job_deserializer,
                job_serializer=self.job_serializer,
                default_queue_name=self.queue_name,
                expires_extra_ms=self.expires_extra_ms,
            )

    async def run_cron(self, n: datetime, delay: float, num_windows: int = 2) -> None:
        """Put the due cron jobs on the queue, as arq does. If that raises, the cron jobs stay due, and the error goes on."""
        due = [(job, job.next_run) for job in self.cron_jobs]
        try:
            await super().run_cron(n, delay, num_windows)
        except BaseException:
            for job, next_run in due:
                job.next_run = next_run
            raise

    def log_stop(self, signum: signal.Signals, waited: str, fate: str) -> None:
        """Log arq's line about a shutdown: how many jobs have ended, how many run, and what happens to the latter."""
        log.info(
            "shutdown on %s%s ◆ %d jobs complete ◆ %d failed ◆ %d retries ◆ %d %s",
            signum.name, waited, self.jobs_complete, self.jobs_failed, self.jobs_retried,
            sum(not task.done() for task in self.tasks.values()), fate,
        )  # fmt: skip
