"""Builds a worker from an application and settings: ledgerq's worker, or the settings class for arq's command line.

The schedule becomes arq cron jobs. Every worker enqueues each tick under an id made of kind and time, so Redis keeps
one job for each tick. If a slow worker enqueues a tick again, its receipt makes the job a duplicate: a tick runs once.
"""

import gc
import signal
from collections.abc import Iterable
from datetime import UTC
from typing import Any

from arq.cron import CronJob, cron
from arq.worker import Function, func, get_kwargs

from ledgerq.app import App
from ledgerq.broker.claims import LeaseSettings
from ledgerq.broker.connection import connect, settings_for_arq_check
from ledgerq.config import Config, WorkerConfig
from ledgerq.job import Kind
from ledgerq.runtime.ending import LastResort, leave_in
from ledgerq.schedule import Recurring
from ledgerq.wire.arq_formats import ArqFormats
from ledgerq.wire.arq_json import UNROUTABLE
from ledgerq.wire.names import CRON_PREFIX
from ledgerq.wire.queue_name import queue_key
from ledgerq.worker.arq_jobs import arq_cron_jobs, arq_functions
from ledgerq.worker.lifecycle import LIFE, Lifecycle, shutdown, startup
from ledgerq.worker.processor import arq_coroutine
from ledgerq.worker.worker import JobWorker

_OURS_FIRST = 10  # seconds by which arq's timeout exceeds ledgerq's, so that ledgerq's comes first
_OURS_TO_DECIDE = 1_000_000  # arq's limit of tries, never reached: ledgerq.execution.retry decides


def build_worker(app: App, config: Config, **overrides: Any) -> JobWorker:
    """A worker, ready to run. `overrides` are arguments of `JobWorker` or of arq's worker, for example `burst=True`."""
    settings = worker_settings(app, config)
    ours = {
        "lease_settings": _lease_settings(config.worker),
        "queues": config.worker.served,
        "batch": config.worker.batch,
        "grace": config.worker.stop_grace,
        "blocked_after": config.worker.blocked_after,
        "max_outside": config.worker.max_outside,
        "hand_back_after": settings.job_timeout - _OURS_FIRST + config.worker.blocked_after,
    }
    # the hooks find the `Lifecycle` in ctx
    overrides["ctx"] = {**(overrides.get("ctx") or {}), **settings.ctx}
    return JobWorker(**{**ours, **get_kwargs(settings), **overrides})


def run_to_the_end(worker: JobWorker) -> None:
    """Run a worker until it stops, as the last thing that a process does.

    After a stop signal, the process ends within about the drain timeout plus three times the grace, even if jobs still
    run. The exit status is 0, also after a second signal; it is 1 if the event loop does not end by itself in time.
    """
    # imported objects stay, so the collector need not scan them; and a batch makes thousands of objects
    # that need no collector: a collection at every 700th of them would cost a tenth of the throughput
    gc.freeze()
    gc.set_threshold(10_000, 20, 50)
    worker.take_process()
    last_resort = LastResort(
        worker.longest_stop, lambda: worker.heartbeat.hand_back_now() if worker.heartbeat else None
    )
    last_resort.listen(signal.SIGTERM, signal.SIGINT)
    worker.run()
    last_resort.ended()
    # the interpreter resets the signal handlers before it ends: a late signal would kill the process
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    leave_in(worker.grace / 5)


def worker_settings(app: App, config: Config) -> Any:
    """The settings class for arq's command line. It has no base class, because arq ignores settings in base classes."""
    config = config.for_worker()
    scheduled = cron_jobs(app.schedule, max_tries=_OURS_TO_DECIDE)
    functions = [*map(_function, app.jobs), func(arq_coroutine(UNROUTABLE), name=UNROUTABLE)]
    arqs, arqs_by_the_clock = arq_functions(app), arq_cron_jobs(app)
    formats = ArqFormats(
        {each.name for each in functions} | {each.name for each in scheduled},
        {each.name for each in arqs} | {each.name for each in arqs_by_the_clock},
        app.arq_serializer,
        app.arq_deserializer,
    )
    worker = config.worker
    redis = connect(worker, _queues_of_schedule(app, worker))
    redis.job_serializer, redis.job_deserializer = formats.write, formats.read

    return type(
        "WorkerSettings",
        (),
        {
            "functions": [*functions, *arqs],
            "cron_jobs": [*scheduled, *arqs_by_the_clock],
            "timezone": UTC,
            "queue_name": worker.queue,
            "redis_pool": redis,
            "redis_settings": settings_for_arq_check(worker),
            "ctx": {LIFE: Lifecycle(app, config)},
            "on_startup": app.on_startup or startup,
            "on_shutdown": app.on_shutdown or shutdown,
            "max_jobs": worker.max_jobs,
            "max_tries": _OURS_TO_DECIDE,
            "job_timeout": _longest_timeout(worker, app, *arqs, *arqs_by_the_clock) + _OURS_FIRST,
            "job_completion_wait": worker.drain_timeout,
            "keep_result": worker.keep_result,
            "poll_delay": worker.poll_delay,
            "job_serializer": formats.write,
            "job_deserializer": formats.read_job,
            "log_results": False,
            "allow_abort_jobs": True,  # for arq.jobs.Job.abort()
        },
    )


def _queues_of_schedule(app: App, worker: WorkerConfig) -> dict[str, str]:
    """The queues of the kinds in the schedule: name of the arq cron job → key of the queue."""
    of_kinds = app.registry().queues
    payloads = [entry.payload for entry in app.schedule]
    queues = {each.kind: of_kinds.get(each.kind, each.queue) for each in payloads}
    return {f"{CRON_PREFIX}{kind}": queue_key(name, worker.queue) for kind, name in queues.items()}


def _lease_settings(worker: WorkerConfig) -> LeaseSettings:
    policy = worker.policy
    return LeaseSettings(
        worker.lease, policy.isolate_after_crashes, policy.max_crashes, policy.outside_factor
    )


def _function(kind: Kind[Any, Any]) -> Function:
    return func(arq_coroutine(kind.name), name=kind.name, keep_result=kind.payload.keep_result)


def _longest_timeout(worker: WorkerConfig, app: App, *arqs: Function | CronJob) -> float:
    ours = [kind.timeout or worker.job_timeout for kind in app.jobs]
    return max([*ours, *(each.timeout_s or 0 for each in arqs)], default=worker.job_timeout)


def cron_jobs(schedule: Iterable[Recurring], *, max_tries: int) -> list[CronJob]:
    """One arq cron job for each entry of the schedule."""
    return [_cron_job(entry, max_tries) for entry in schedule]


def _cron_job(entry: Recurring, max_tries: int) -> CronJob:
    name = f"{CRON_PREFIX}{entry.payload.kind}"
    return cron(
        arq_coroutine(name),
        name=name,
        hour=_times(entry.hour),
        minute=_times(entry.minute),
        second=_times(entry.second),
        max_tries=max_tries,
    )


def _times(times: frozenset[int] | None) -> set[int] | None:
    return None if times is None else set(times)
