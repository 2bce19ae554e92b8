"""Jobs of one queue: arq's handle on one, and what those that have ended answered. All queues of one Redis share the ids."""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from arq.connections import ArqRedis
from arq.jobs import Job, JobDef, JobResult, JobStatus, ResultNotFound

from ledgerq.broker.keys import job_key, result_key
from ledgerq.errors import JobFailed, ResultExpired
from ledgerq.wire.arq_json import from_wire
from ledgerq.wire.envelope import queue_of


class OwnJob(Job):
    """A job of this queue. What another queue holds under the id is as good as none."""

    __slots__ = ()

    async def result(self, timeout: float | None = None, **options: Any) -> Any:  # noqa: ASYNC109 - as in arq
        """As in arq.

        Raises:
            ResultNotFound: there is no such job of this queue, or its result is not kept.
        """
        if await self._is_of_another():
            raise ResultNotFound(f"the id {self.job_id} is of another queue's job")
        return await super().result(timeout, **options)

    async def info(self) -> JobDef | None:
        """As in arq."""
        return None if await self._is_of_another() else await super().info()

    async def result_info(self) -> JobResult | None:
        """As in arq."""
        return None if await self._is_of_another() else await super().result_info()

    async def status(self) -> JobStatus:
        """As in arq."""
        return JobStatus.not_found if await self._is_of_another() else await super().status()

    async def abort(self, *, timeout: float | None = None, poll_delay: float = 0.5) -> bool:  # noqa: ASYNC109 - as in arq
        """As in arq; False, and nothing is asked, if there is no such job of this queue."""
        if await self._is_of_another():
            return False
        return await super().abort(timeout=timeout, poll_delay=poll_delay)

    async def _is_of_another(self) -> bool:
        body, kept = await self._redis.mget(job_key(self.job_id), result_key(self.job_id))
        named = {queue_of(body) if body else None, _queue_of_result(kept) if kept else None}
        return bool(named - {None, self._queue_name})


def _queue_of_result(kept: bytes) -> str | None:
    """The queue that a kept result names: '' if it is not from our workers, None if it does not say."""
    with suppress(ValueError):
        result = from_wire(kept)
        return result.get("q") if isinstance(result, dict) else ""
    return ""


async def answers(redis: ArqRedis, wanted: Mapping[str, str]) -> dict[str, Any]:
    """The answers of those that have ended, in one round trip, by id.

    Args:
        redis: where they are.
        wanted: the key of the queue of each, by its id.

    Raises:
        JobFailed: the first of them that was buried.
        ResultExpired: one is neither queued nor is its result kept.
    """
    values = await redis.mget(
        [key for job_id in wanted for key in (job_key(job_id), result_key(job_id))]
    )
    ended = {}
    for (job_id, queue), body, kept in zip(wanted.items(), values[::2], values[1::2], strict=True):
        result = _own_result(kept, queue) if kept else None
        if result or not body or queue_of(body) not in {None, queue}:
            ended[job_id] = _answer(job_id, result)
    return ended


def _own_result(kept: bytes, queue: str) -> dict[str, Any] | None:
    """What is kept under the id, if it is of this queue."""
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
        raise JobFailed(job_id, reason["message"] if isinstance(reason, dict) else str(reason))
    return result["r"]
