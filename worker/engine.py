"""Our engine: arq's worker, with what arq lets slip on its way in and on its way out put right."""

import asyncio
import signal
from contextlib import suppress
from typing import Any

from arq.worker import Worker
from redis.exceptions import RedisError

from jobs.burial import bury
from jobs.envelope import Delivery
from jobs.errors import JobError, Problem, Undecodable
from jobs.outcome import Buried
from worker.connection import require_redis
from worker.dispatch import RESOURCES, Resources, report
from worker.keys import job_key
from worker.wire import UNROUTABLE


class Expired(JobError):
    """The job's body is no longer on Redis, or is empty."""

    def __init__(self) -> None:
        super().__init__([Problem("body", "is gone from Redis, or empty")])


class JobWorker(Worker):
    """Takes the arguments of `arq.Worker` and runs the same jobs.

    Where arq would delete a job without a trace, this one buries it; where arq would leave the
    engine undisposed, this one disposes it.
    """

    _draining: asyncio.Task[None] | None = None

    async def main(self) -> None:
        """Run until stopped.

        Raises:
            Unreachable: Redis or the database does not answer at the start.
            SchemaBehind, SchemaAhead: the schema is not the one this code was written for.
        """
        await require_redis(self.pool)
        await super().main()

    async def start_jobs(self, job_ids: list[bytes]) -> None:
        """Start what can be started; claim nothing once a signal has come, even in mid-batch."""
        for job_id in job_ids:
            if not self.allow_pick_jobs or self.job_counter >= self.max_jobs:
                return
            try:
                job_id.decode()
            except UnicodeDecodeError:
                await self._bury_unreadable(job_id)
            else:
                await super().start_jobs([job_id])

    async def finish_failed_job(self, job_id: str, result_data: bytes | None) -> None:
        """arq ends a job here that has no body: bury it before arq forgets it."""
        has_body = await self.pool.get(job_key(job_id))  # then it was aborted: by request
        if has_body or await self._bury(Delivery(job_id, 1, b""), Buried("expired", Expired())):
            await super().finish_failed_job(job_id, result_data)

    def handle_sig_wait_for_completion(self, signum: signal.Signals) -> None:
        """SIGTERM or SIGINT: claim nothing more, drain, stop. Asking twice is the same as once."""
        if self.allow_pick_jobs:
            self.allow_pick_jobs = False
            self._draining = self.loop.create_task(self._drain())

    async def _drain(self) -> None:
        """Wait for the running jobs, at most the drain time; roll the rest back; end the main loop."""
        deadline = self.loop.time() + self._job_completion_wait
        while (running := self._running()) and (left := deadline - self.loop.time()) > 0:
            await asyncio.wait(running, timeout=left)
        for job in self._running():
            job.cancel()
        while self.main_task and not self.main_task.done():
            self.main_task.cancel()  # again: wait_for, inside redis-py, swallows one on Python 3.11
            await asyncio.wait({self.main_task}, timeout=1)

    def _running(self) -> list[asyncio.Task[Any]]:
        return [job for job in self.tasks.values() if not job.done()]

    async def close(self) -> None:
        """Let the running jobs end, run the shutdown hook whatever they did, and let go of Redis."""
        if not self._handle_signals:
            self.handle_sig(signal.SIGUSR1)
        await asyncio.gather(*self.tasks.values(), return_exceptions=True)
        try:
            if self.on_shutdown:
                await self.on_shutdown(self.ctx)
        finally:
            await self._disconnect()

    async def _disconnect(self) -> None:
        if self._pool:
            with suppress(RedisError, OSError):  # Redis forgets the key by itself
                await self._pool.delete(self.health_check_key)
            await self._pool.aclose(close_connection_pool=True)
            self._pool = None

    async def _bury_unreadable(self, raw_id: bytes) -> None:
        """An id that is no text could never be named again: bury the job and take it off the queue."""
        job_id = raw_id.decode(errors="backslashreplace")
        body_key = job_key("").encode() + raw_id
        body = await self.pool.get(body_key) or b""
        error = Undecodable("job_id", "must be UTF-8")
        burial = Buried("undecodable", error, error.problems)
        if await self._bury(Delivery(job_id, 1, body), burial):
            await self.pool.zrem(self.queue_name, raw_id)
            await self.pool.delete(body_key)

    async def _bury(self, delivery: Delivery, burial: Buried) -> bool:
        """False if the dead letters can't be reached: then the job must stay where it is."""
        resources: Resources = self.ctx[RESOURCES]
        outcome = await bury(delivery, burial, resources.database.sessions, resources.policy)
        report(delivery, UNROUTABLE, outcome, 0)
        return isinstance(outcome, Buried)
