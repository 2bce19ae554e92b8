"""The worker: has arq's interface, and goes on after failures of Redis, of the database and of jobs.

main    start, then claim and run jobs until told to stop
beside  renew leases, send acks, relay staged jobs
stop    claim nothing more, let jobs end, hand back the rest, run the shutdown hook in any case
"""

import asyncio
import logging
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Unpack

import structlog
from arq.typing import WorkerCoroutine
from arq.worker import Function
from redis.exceptions import RedisError

from ledgerq.broker.claims import FetchResult, LeaseSettings
from ledgerq.broker.connection import require_redis
from ledgerq.broker.keys import watched_keys
from ledgerq.broker.many_queues import ServedQueues, served
from ledgerq.broker.notifier import QueueNotifier
from ledgerq.broker.presence import LAST_POLL
from ledgerq.broker.room import NO_ROOM, Room
from ledgerq.runtime.background_tasks import BackgroundTasks
from ledgerq.runtime.ending import in_time, run_until_done
from ledgerq.runtime.forks import end_in_children
from ledgerq.runtime.process_name import process_name
from ledgerq.worker.acker import Acker
from ledgerq.worker.active_jobs import ActiveJobs, CancelReason
from ledgerq.worker.arq_functions import Counters, Options
from ledgerq.worker.arq_options import ArqOptions, signature_like_arqs
from ledgerq.worker.arq_worker import ArqWorker
from ledgerq.worker.claimer import Claimer
from ledgerq.worker.draining import let_end, release_rest, roll_back
from ledgerq.worker.executor import Executor
from ledgerq.worker.heartbeat import Heartbeat, QueueAndReason, heartbeat_of
from ledgerq.worker.left_jobs import LeftJobs
from ledgerq.worker.outage import Outage
from ledgerq.worker.poller import MAX_WAIT, Poller
from ledgerq.worker.processor import PROCESSOR, NotBegun, Processor, is_ours
from ledgerq.worker.sharing import BatchSize

log = structlog.stdlib.get_logger("ledgerq.worker")
arq_log = logging.getLogger("arq.worker")  # the logger in which arq's users look


class JobWorker(ArqWorker):
    """Takes the arguments of `arq.Worker`, and keeps its public behaviour. `build_worker` gives it the settings of an `App`.

    Args:
        queues: keys of the queues to serve; if there are none, the queue `queue_name` is served.
        lease_settings: how long a claim holds without renewal; then another worker takes the job of a dead one.
        batch: the most jobs that are claimed together to share transactions, for kinds that allow it; 1 gives each job its own.
        grace: seconds at the end for jobs to be rolled back, and again for the shutdown hook.
        blocked_after: seconds for which a job may block the event loop before the log names the job.
        hand_back_after: the most seconds of blocking after which all jobs are handed back; None: the longest job timeout + 10.
        max_outside: the most jobs that work outside of the database at once, beside `max_jobs` others.
    """

    def __init__(
        self,
        functions: Sequence[Function | WorkerCoroutine] = (),
        *,
        queues: Sequence[str] = (),
        lease_settings: LeaseSettings | None = None,
        batch: int = 1,
        grace: float = 10,
        blocked_after: float = 2,
        hand_back_after: float | None = None,
        max_outside: int = 100,
        **arqs: Unpack[ArqOptions],
    ) -> None:
        self.counters = Counters()  # arq begins to count at once
        super().__init__(functions, **arqs)
        self.queues = tuple(dict.fromkeys(queues)) or (self.queue_name,)
        self.grace, self.blocked_after, self._max_outside = grace, blocked_after, max_outside
        self.hand_back_after = hand_back_after or self.in_progress_timeout_s
        self.heartbeat: Heartbeat | None = None
        self._batches, self.waits = BatchSize(batch), dict[QueueAndReason, str]()
        self.name, self.lease_settings = process_name(), lease_settings or LeaseSettings()
        self._background_tasks, self.owns_process = BackgroundTasks(), False
        self._broker: ServedQueues | None = None
        self._active: ActiveJobs | None = None
        self._processor: Processor | None = None  # for ledgerq's kinds
        self._draining: asyncio.Task[None] | None = None
        self._left = LeftJobs(self.burst, self.waits.__setitem__)
        self._poller = Poller(self.poll_delay_s)
        self._outage = Outage(self._poller)

    __signature__ = signature_like_arqs(__init__)

    async def main(self) -> None:
        """Run jobs until stopped; in burst mode, until no job is queued or deferred, but for those this worker can't read.

        Raises:
            Unreachable, RedisRefuses: Redis or the database is away or unfit at the start. A later outage raises nothing.
            SchemaBehind, SchemaAhead, NotBegun: the schema is not this code's, or the startup hook began no lifecycle.
        """
        await self.open_pool()
        await require_redis(self.pool, queues=self.queues)
        self.ctx |= {"redis": self.pool, LAST_POLL: time.monotonic()}
        names = ", ".join(self.functions)
        arq_log.info("Starting worker for %d functions: %s", len(self.functions), names)
        if self.on_startup:
            await self.on_startup(self.ctx)
        self._processor = self.ctx.get(PROCESSOR)
        if not self._processor and any(map(is_ours, self.functions.values())):
            raise NotBegun
        broker = served(self.pool, self.queues, self.name, self.lease_settings)
        claimer = Claimer(broker, lambda: self.tasks, lambda: self.allow_pick_jobs)
        acker = Acker(broker, claimer.expect_orphans)
        active = self._active_jobs(acker)
        self._broker, self._active = broker, active
        self.tasks, self.job_tasks = active.tasks, active.jobs
        self.heartbeat = heartbeat_of(self, broker, active)
        self.heartbeat.start()
        end_in_children(self.loop)
        for part in (claimer, acker, self._notifier(broker)):
            self._background_tasks.start(part.run())
        await self._work(claimer, active)

    def take_process(self) -> None:
        """Let the worker own its process: the process ends when a job blocks the event loop for too long."""
        self.owns_process = True

    def run(self) -> None:
        """Run until a signal stops the worker, then close it."""
        self.main_task = self.loop.create_task(self.main())
        try:
            with suppress(asyncio.CancelledError):
                run_until_done(self.loop, self.main_task)
        finally:
            run_until_done(self.loop, self.loop.create_task(self.close()))

    def _active_jobs(self, acker: Acker) -> ActiveJobs:
        executor = Executor(
            self.name, self.ctx, Options.of(self), self._processor, self.counters, self._left,
            self._outage.suspect_database, self.waits.__setitem__, self.lease_settings.max_crashes,
        )  # fmt: skip
        return ActiveJobs(executor, acker, self._poller.job_ended, self._batches, self._max_outside)

    def _notifier(self, broker: ServedQueues) -> QueueNotifier:
        relay, poller = self._processor.relay if self._processor else None, self._poller
        return QueueNotifier(
            broker.redis.connection_pool, watched_keys(self.queues), on_listening=poller.listening,
            on_change=poller.queue_changed, interested=poller.waiting,
            on_emptied=relay.wake if relay else poller.queue_changed,
        )  # fmt: skip

    async def _work(self, claimer: Claimer, active: ActiveJobs) -> None:
        while not self._poller.stopping:
            database = self._processor.database if self._processor else None
            if database and not await self._outage.for_database(database):
                self.ctx[LAST_POLL] = time.monotonic()
                continue
            try:
                claimed = await self._poll(claimer, active)
                if self.burst and await self._burst_is_over():
                    return
            except (RedisError, OSError, TimeoutError) as error:
                await self._outage.after(error, "redis.unavailable")
            except Exception as error:
                log.exception("poll.failed")
                await self._outage.after(error, "worker.paused")
            else:
                self._outage.is_over()
                await self._wait_for_more(claimed, active)

    async def _wait_for_more(self, claimed: FetchResult, active: ActiveJobs) -> None:
        wanted, room = self._wanted(active), self._room(active)
        if claimed.drain_first and (inside := active.inside):  # the next job must run alone
            await asyncio.wait(inside, timeout=min(MAX_WAIT, self.lease_settings.lease / 3))
        elif not (wanted or room.outside) or (claimed.more and not claimed.jobs):
            await self._poller.until_free(active.slots_taken)  # no room, or the due job must wait
        elif not claimed.more:  # all that is due was claimed, or was passed over
            await self._poller.until_change(
                claimed.due_in, busy=bool(self.tasks), or_free=self.burst or claimed.passed_over
            )
        elif not (active.outside or room.batch):  # this claim was full
            await self._poller.until_free(active.slots_taken)

    async def _poll(self, claimer: Claimer, active: ActiveJobs) -> FetchResult:
        """Poll the queues once: start the claimed jobs, cancel running jobs that somebody wants stopped."""
        self._poller.start()
        self.ctx[LAST_POLL] = time.monotonic()
        claimed = await claimer.claim(
            self._wanted(active), busy=len(self.tasks) - active.outside, room=self._room(active)
        )
        self._poller.record_result(len(claimed.jobs))
        aborted = claimed.aborted if self.allow_abort_jobs else frozenset()
        active.start_all(claimed.jobs, aborted)
        for job_id in aborted:
            active.cancel(job_id, CancelReason.ABORTED)
        for job_id in claimed.cancelled:
            active.cancel(job_id, CancelReason.CANCELLED)
        await self.heart_beat()  # arq's: cron jobs, and the record for `arq --check`; no lease
        return claimed

    def _wanted(self, active: ActiveJobs) -> int:
        """How many more jobs there is room for, not counting jobs in batches and jobs that work outside."""
        if not self.allow_pick_jobs or active.isolated:
            return 0
        free = self.max_jobs - active.slots_taken
        if self.burst and self.max_burst_jobs >= 0:
            free = min(free, self.max_burst_jobs - self._jobs_started())
        return max(0, free)

    def _room(self, active: ActiveJobs) -> Room:
        """How many more jobs there is room for in a batch, unless each needs its job hooks, and outside of the database."""
        if not self._processor or self.max_burst_jobs >= 0 or not self.allow_pick_jobs:
            return NO_ROOM
        hooks = self.on_job_start or self.on_job_end or self.after_job_end
        return active.room(self._processor.registry, shared=not hooks and self._wanted(active) > 0)

    def _jobs_started(self) -> int:  # arq counts a job twice if its ack was lost
        return self._active.started if self._active else 0

    async def _burst_is_over(self) -> bool:
        if 0 <= self.max_burst_jobs <= self._jobs_started():
            await asyncio.gather(*self.tasks.values())
            return True
        if self.tasks or not await self._left.are_all(self.pool, self.queues):
            return False
        if self._processor and await self._processor.dispatch():
            return False
        # the background relay may have put more jobs there
        return await self._left.are_all(self.pool, self.queues)

    @property
    def longest_stop(self) -> float:
        """Seconds from a stop signal to the end of the process, at most."""
        return self._job_completion_wait + 3 * self.grace

    def handle_sig(self, signum: signal.Signals) -> None:
        """Handle SIGINT or SIGTERM if `job_completion_wait` is 0: stop, roll back the running jobs and requeue them."""
        self._stop(signum, 0)

    def handle_sig_wait_for_completion(self, signum: signal.Signals) -> None:
        """Handle the first SIGTERM or SIGINT: claim no job, let jobs end for `job_completion_wait` seconds, and stop."""
        self._stop(signum, self._job_completion_wait)

    def _stop(self, signum: signal.Signals, drain_for: float) -> None:
        if self._draining is None:
            self.allow_pick_jobs = False
            log.info("worker.stopping", signal=signum.name, active=len(self.tasks))
            self.log_stop(signum, "", "to be completed" if drain_for else "ongoing to cancel")
            self._draining = self.loop.create_task(self._drain(signum, drain_for))
            if self.on_stop:
                self.on_stop(signum)

    async def _drain(self, signum: signal.Signals, drain_for: float) -> None:
        """Wait for the running jobs, at most `drain_for` seconds; roll back or release the rest; end the main loop."""
        active, broker = self._active, self._broker
        if active and drain_for:
            await let_end(active, drain_for)
        if drain_for:
            self.log_stop(signum, ", wait complete", "ongoing to cancel")
        if active and broker:
            await roll_back(active, self.grace)
            await release_rest(active, broker, self.grace / 5, due_in=self.grace)
        self._poller.stop()
        main, deadline = self.main_task, self.loop.time() + self.grace
        while main and not main.done() and main is not asyncio.current_task():
            await asyncio.wait({main}, timeout=1)
            if self.loop.time() > deadline:
                main.cancel()

    async def close(self) -> None:
        """Cancel the running jobs, run the shutdown hook in any case, and close the connections to Redis."""
        if not self._handle_signals or self.tasks:
            self._stop(signal.SIGUSR1, 0)  # no signal has come: arq's log line then names this one
        try:
            if self._draining:
                await self._draining
        finally:
            await self._background_tasks.end()
            try:
                if self.on_shutdown and self._pool:
                    await in_time(self.on_shutdown(self.ctx), self.grace, "the shutdown hook")
            finally:
                if self.heartbeat:
                    self.heartbeat.stop()
                await in_time(self._disconnect(), self.grace, "the connection to Redis")

    async def _disconnect(self) -> None:
        if not self._pool:
            return
        with suppress(RedisError, OSError):  # Redis forgets the key by itself
            await self._pool.delete(self.health_check_key)
        if self._broker:
            await self._broker.close()
        await self._pool.aclose(close_connection_pool=True)
        self._pool = None
