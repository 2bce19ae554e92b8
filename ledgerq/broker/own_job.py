"""arq's `Job` and the results of jobs, restricted to one queue: all queues of one Redis share the job ids."""

from asyncio import CancelledError
from collections.abc import Collection
from contextlib import suppress
from typing import Any

from arq.connections import ArqRedis
from arq.jobs import Job, JobDef, JobResult, JobStatus, ResultNotFound

from ledgerq.broker.keys import job_key, result_key
from ledgerq.errors import JobFailed, ResultExpired
from ledgerq.wire.arq_json import from_wire
from ledgerq.wire.envelope import queue_of


class OwnJob(Job):
    """arq's `Job` for a job of this queue. If another queue's job has the id, the methods answer as for a free id."""

    __slots__ = ()

    async def result(self, timeout: float | None = None, **options: Any) -> Any:  # noqa: ASYNC109 - as in arq
        """Wait for the job's result and answer with it, as arq's `Job.result` does.

        Raises:
            ResultNotFound: this queue has no job with the id, or the job's result is not kept.
        """
        if await self._is_of_another():
            raise ResultNotFound(f"the id {self.job_id} is of another queue's job")
        return await super().result(timeout, **options)

    async def info(self) -> JobDef | None:
        """What arq's `Job.info` answers about the job; None if another queue's job has the id."""
        return None if await self._is_of_another() else await super().info()

    async def result_info(self) -> JobResult | None:
        """What arq's `Job.result_info` answers about the result; None if another queue's job has the id."""
        return None if await self._is_of_another() else await super().result_info()

    async def status(self) -> JobStatus:
        """The job's status, as arq's `Job.status` has it; `not_found` if another queue's job has the id."""
        return JobStatus.not_found if await self._is_of_another() else await super().status()

    async def abort(self, *, timeout: float | None = None, poll_delay: float = 0.5) -> bool:  # noqa: ASYNC109 - as in arq
        """Abort the job, as arq's `Job.abort` does. If another queue's job has the id, do nothing and answer False."""
        if await self._is_of_another():
            return False
        return await super().abort(timeout=timeout, poll_delay=poll_delay)

    async def _is_of_another(self) -> bool:
        body, kept = await self._redis.mget(job_key(self.job_id), result_key(self.job_id))
        named = {queue_of(body) if body else None, _queue_of_result(kept) if kept else None}
        return bool(named - {None, self._queue_name})


def _queue_of_result(kept: bytes) -> str | None:
    """The queue that a kept result names; '' if no worker of ledgerq wrote the result, None if it names no queue."""
    with suppress(ValueError):
        result = from_wire(kept)
        return result.get("q") if isinstance(result, dict) else ""
    return ""


async def answers(
    redis: ArqRedis, wanted: Collection[tuple[str, str]]
) -> dict[tuple[str, str], Any]:
    """The results of those jobs that have ended, in one round trip.

    Args:
        redis: the client.
        wanted: for each job its id and the key of its queue.

    Raises:
        JobFailed: a job has ended without a result: it was buried or cancelled. The error is for the first such job.
        ResultExpired: a job is not queued, and its result is not kept.
    """
    values = await redis.mget(
        [key for job_id, _ in wanted for key in (job_key(job_id), result_key(job_id))]
    )
    ended = {}
    for (job_id, queue), body, kept in zip(wanted, values[::2], values[1::2], strict=True):
        result = _own_result(kept, queue) if kept else None
        if result or not body or queue_of(body) not in {None, queue}:
            ended[job_id, queue] = _answer(job_id, result)
    return ended


def _own_result(kept: bytes, queue: str) -> dict[str, Any] | None:
    """The kept result; None if it can't be read, or names another queue."""
    try:
        result = from_wire(kept)
    except ValueError:
        return None
    if not isinstance(result, dict) or result.get("q", queue) != queue:
        return None
    return result


def _answer(job_id: str, result: dict[str, Any] | None) -> Any:
    if result is None:
        raise ResultExpired(job_id)
    if not result["s"]:
        reason = result["r"]
        if isinstance(reason, CancelledError):
            raise JobFailed(job_id, "it was aborted")
        raise JobFailed(job_id, reason["message"] if isinstance(reason, dict) else str(reason))
    return result["r"]
