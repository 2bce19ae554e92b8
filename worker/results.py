"""What Redis is told of a job that is over, and keeps for who waits for it."""

from typing import Any

from arq.constants import keep_cronjob_progress
from arq.cron import CronJob
from arq.jobs import serialize_result
from arq.utils import timestamp_ms, to_ms
from arq.worker import Worker

from jobs.text import storable
from worker.broker import Ack
from worker.call import Call


def done(worker: Worker, call: Call, result: Any, *, success: bool) -> Ack:
    """The job is over; its result is kept for as long as the function or the worker says."""
    function = worker.functions.get(call.function)
    for_ever, keep = worker.keep_result_forever, worker.keep_result_s
    if function is not None:
        own = function.keep_result_forever
        for_ever = for_ever if own is None else own
        keep = keep if function.keep_result_s is None else function.keep_result_s
    return Ack(
        call.claim.job_id,
        "done",
        result=_told(worker, call, result, success) if for_ever or keep > 0 else b"",
        keep=0 if for_ever else max(1, to_ms(keep) or 1),
        outlive=to_ms(keep_cronjob_progress) or 0 if isinstance(function, CronJob) else 0,
    )


def _told(worker: Worker, call: Call, result: Any, success: bool) -> bytes:
    told = serialize_result(
        call.function, call.args, call.kwargs, call.attempt, call.enqueued_ms, success,
        result, call.started_ms, timestamp_ms(), call.name,
        worker.queue_name, storable(call.claim.job_id), serializer=worker.job_serializer,
    )  # fmt: skip
    return told or b""
