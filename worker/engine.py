"""Our engine: a worker with arq's face that nothing from outside ends, and that loses and doubles nothing.

main    start, then claim and run until told to stop
beside  leases are renewed, endings are sent, staged jobs are relayed
stop    claim nothing more, let jobs end, hand back the rest, run the shutdown hook whatever happened
"""

import asyncio
import logging
import signal
import time
from contextlib import suppress
from datetime import datetime
from enum import Enum, auto
from typing import Any

import structlog
from arq.connections import create_pool
from arq.worker import Worker
from redis.exceptions import ReadOnlyError, RedisError

from db.errors import LedgerqError
from worker.beside import Beside
from worker.broker import Broker, Claim, Ending, Terms
from worker.config import process_name
from worker.connection import require_redis
from worker.dispatch import RESOURCES, Resources
from worker.finisher import Finisher
from worker.health import ALIVE
from worker.leases import Leases
from worker.patience import Patience
from worker.runner import Runner

log = structlog.stdlib.get_logger("ledgerq.worker")

GRACE = (
    10.0  # seconds for jobs that are rolled back, and for what Redis must still hear, at the end
)


class Why(Enum):
    """Why a running job is cancelled."""

    ABORTED = auto()  # arq's Job.abort: it is over
    CANCELLED = auto()  # `ledgerq cancel` waits for it to be rolled back, and then ends it for good
    TAKEN = auto()  # its lease ran out, somebody else has it
    STOPPING = auto()  # the worker stops; the job runs elsewhere, and no attempt is spent


class JobWorker(Worker):
    """Takes the arguments of `arq.Worker`, runs the same jobs, and keeps arq's public behaviour.

    Args:
        terms: for how long a claim holds; after that, another worker takes the job of a dead one.
    """

    def __init__(self, *args: Any, terms: Terms | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.name = process_name()
        self._terms = terms or Terms()
        self._runner = Runner(self)
        self._reasons: dict[str, Why] = {}
        self._beside = Beside()
        self._draining: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()
        self._news = asyncio.Event()  # a slot is free, or it is time to stop
        self._alone = False  # the job that runs is one that may take its worker along
        self._database_in_doubt = False
        self._patience = Patience()

    async def main(self) -> None:
        """Run until stopped, or in burst mode until nothing is left to do.

        Raises:
            Unreachable: Redis or the database does not answer at the start; later both may come and go.
            SchemaBehind, SchemaAhead: the schema is not the one this code was written for.
        """
        if self._pool is None:
            self._pool = await create_pool(
                self.redis_settings,
                job_deserializer=self.job_deserializer,
                job_serializer=self.job_serializer,
                default_queue_name=self.queue_name,
                expires_extra_ms=self.expires_extra_ms,
            )
        await require_redis(self.pool)
        self.ctx["redis"] = self.pool
        self.ctx[ALIVE] = time.monotonic()
        broker = Broker.beside(self.pool, self.queue_name, self.name, self._terms)
        self._leases = Leases(
            broker, self.tasks.keys, lambda job_id: self._cancel(job_id, Why.TAKEN)
        )
        self._finisher = Finisher(broker, self._leases.doubt)
        names = ", ".join(self.functions)
        logging.getLogger("arq.worker").info(
            "Starting worker for %d functions: %s", len(self.functions), names
        )
        if self.on_startup:
            await self.on_startup(self.ctx)
        self._beside.start(self._leases.keep)
        self._beside.start(self._finisher.run)
        await self._work()

    async def _work(self) -> None:
        while not self._stopping.is_set():
            if not await self._database_answers():
                await self._pause(self._patience.next())
                continue
            try:
                saturated = await self._look()
                if self.burst and await self._burst_is_over():
                    return
            except (RedisError, OSError, TimeoutError) as error:
                await self._wait_for_redis(error)
            except Exception:
                log.exception("worker.round_failed")
                await self._pause(self._patience.next())
            else:
                if self._patience.failures:
                    log.info("worker.goes_on", failures=self._patience.failures)
                    self._patience.reset()
                await self._pause(self.poll_delay_s, for_slot=saturated)

    async def _look(self) -> bool:
        """Look at the queue once and start what is there; True if there may be more than we can take."""
        self.ctx[ALIVE] = time.monotonic()
        wanted = self._wanted()
        claimed = await self._leases.claim(wanted, busy=len(self.tasks))
        for claim in claimed.jobs:
            if claim.job_id not in self.tasks:
                self._start(claim)
        if self.allow_abort_jobs:
            self._cancel_all(claimed.aborted, Why.ABORTED)
        self._cancel_all(claimed.cancelled, Why.CANCELLED)
        if claimed.room and self.tasks:
            await asyncio.wait(self.tasks.values(), timeout=self._terms.lease / 3)
            return False
        await self.heart_beat()
        return len(claimed.jobs) == wanted

    def _wanted(self) -> int:
        if not self.allow_pick_jobs or self._alone:
            return 0
        free = self.max_jobs - len(self.tasks)
        if self.burst and self.max_burst_jobs >= 0:
            free = min(free, self.max_burst_jobs - self._jobs_started())
        return max(0, free)

    def _start(self, claim: Claim) -> None:
        self._alone = self._terms.lone_crashes <= claim.crashes < self._terms.max_crashes
        task = self.loop.create_task(self._take_to_its_end(claim))
        self.tasks[claim.job_id] = task
        task.add_done_callback(lambda _: self._ended(claim.job_id))

    def _ended(self, job_id: str) -> None:
        del self.tasks[job_id]
        self._alone = False
        self._news.set()

    async def _take_to_its_end(self, claim: Claim) -> None:
        """Run a job, and see to it that Redis hears how it ended. Raises nothing."""
        job = self.job_tasks[claim.job_id] = self.loop.create_task(self._runner.run(claim))
        try:
            await asyncio.wait({job})
        finally:
            del self.job_tasks[claim.job_id]
            why = self._reasons.pop(claim.job_id, Why.STOPPING)
        if job.cancelled():
            ending = await self._after_cancelling(claim, why)
        elif (error := job.exception()) is not None:
            log.error("worker.job_broke_the_runner", job_id=claim.job_id, exc_info=error)
            ending = Ending(claim.job_id, "retry", int(self._terms.lease_ms))
        else:
            ending = job.result()
        if not await self._finisher.finish(ending):
            log.warning("worker.finished_too_late", job_id=claim.job_id)
        await self._runner.after(claim)

    async def _after_cancelling(self, claim: Claim, why: Why) -> Ending:
        if why is Why.ABORTED:
            return self._runner.aborted(claim)
        self.jobs_retried += 1
        return Ending(claim.job_id, "release", 1000 if why is Why.CANCELLED else 0)

    def _cancel(self, job_id: str, why: Why) -> None:
        job = self.job_tasks.get(job_id)
        if job and job_id not in self._reasons:
            self._reasons[job_id] = why
            job.cancel()

    def _cancel_all(self, job_ids: Any, why: Why) -> None:
        for job_id in job_ids:
            self._cancel(job_id, why)

    def doubt_database(self) -> None:
        """A job lost its connection: claim nothing more until the database answers."""
        self._database_in_doubt = True

    async def _database_answers(self) -> bool:
        resources: Resources | None = self.ctx.get(RESOURCES)
        if not self._database_in_doubt or resources is None:
            return True
        self.ctx[ALIVE] = time.monotonic()
        try:
            await resources.database.ping()
        except (LedgerqError, OSError, TimeoutError) as error:
            if self._patience.failures == 0:
                log.warning("worker.paused", error=str(error))
            return False
        self._database_in_doubt = False
        return True

    async def _wait_for_redis(self, error: BaseException) -> None:
        if self._patience.failures == 0:
            log.warning("worker.waits_for_redis", error=str(error) or type(error).__name__)
        if isinstance(error, ReadOnlyError):  # still connected to what was the primary
            await self._leases.broker.disconnect()
            await self.pool.connection_pool.disconnect()
        await self._pause(self._patience.next())

    async def _pause(self, seconds: float, *, for_slot: bool = False) -> None:
        """Wait until the time is over, a slot is free if one is waited for, or it is time to stop."""
        self._news.clear()
        if for_slot and len(self.tasks) < self.max_jobs and not self._alone:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not self._stopping.is_set():
                    await self._news.wait()
                    self._news.clear()
                    if for_slot or self.burst:
                        return

    async def _burst_is_over(self) -> bool:
        if 0 <= self.max_burst_jobs <= self._jobs_started():
            await asyncio.gather(*self.tasks.values())
            return True
        if self.tasks or await self.pool.zcard(self.queue_name):
            return False
        resources: Resources | None = self.ctx.get(RESOURCES)
        return resources is None or await resources.relay.step() == 0

    async def run_cron(self, n: datetime, delay: float, num_windows: int = 2) -> None:
        """arq's: put the cron jobs on the queue that are due; if Redis fails, they stay due."""
        due = [(job, job.next_run) for job in self.cron_jobs]
        try:
            await super().run_cron(n, delay, num_windows)
        except BaseException:
            for job, next_run in due:
                job.next_run = next_run
            raise

    def handle_sig(self, signum: signal.Signals) -> None:
        """Stop now: running jobs are rolled back and handed back to the queue."""
        self._stop(signum, 0)

    def handle_sig_wait_for_completion(self, signum: signal.Signals) -> None:
        """SIGTERM or SIGINT: claim nothing more, drain, stop. Asking twice is the same as once."""
        self._stop(signum, self._job_completion_wait)

    def _stop(self, signum: signal.Signals, patience: float) -> None:
        if self._draining is None:
            self.allow_pick_jobs = False
            log.info("worker.stopping", signal=signum.name, running=len(self.tasks))
            self._draining = self.loop.create_task(self._drain(patience))
            if self.on_stop:
                self.on_stop(signum)

    async def _drain(self, patience: float) -> None:
        """Wait for the running jobs, at most so long; roll the rest back; end the main loop."""
        if patience and self.tasks:
            await asyncio.wait(self.tasks.values(), timeout=patience)
        deadline = self.loop.time() + GRACE
        while self.tasks and self.loop.time() < deadline:
            for job in self.job_tasks.values():
                job.cancel()  # again and again: some code swallows one
            await asyncio.wait(self.tasks.values(), timeout=1)
        self._stopping.set()
        self._news.set()
        main, deadline = self.main_task, self.loop.time() + GRACE
        while main and not main.done() and main is not asyncio.current_task():
            await asyncio.wait({main}, timeout=1)
            if self.loop.time() > deadline:
                main.cancel()

    async def close(self) -> None:
        """Let the running jobs end, run the shutdown hook whatever they did, and let go of Redis."""
        if not self._handle_signals or self.tasks:
            self._stop(signal.SIGUSR1, 0)
        try:
            if self._draining:
                await self._draining
        finally:
            await self._beside.end()
            try:
                if self.on_shutdown and self._pool:
                    await self.on_shutdown(self.ctx)
            finally:
                await self._disconnect()

    async def _disconnect(self) -> None:
        if not self._pool:
            return
        with suppress(RedisError, OSError):  # Redis forgets the key by itself
            await self._pool.delete(self.health_check_key)
        if hasattr(self, "_leases"):
            await self._leases.broker.close()
        await self._pool.aclose(close_connection_pool=True)
        self._pool = None
