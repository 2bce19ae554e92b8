"""The composition root: settings in, a worker out. `arq worker.app.WorkerSettings` starts here too."""

import gc
import signal
import sys
from collections.abc import Iterable
from datetime import UTC
from typing import Any

from arq.worker import Function, func, get_kwargs

from db.errors import LedgerqError
from jobs import kinds
from jobs.registry import Registry
from jobs.schedule import SCHEDULE, Recurring
from worker.broker import LeaseSettings
from worker.config import Config, WorkerConfig, load_config
from worker.connection import connect, settings_for_arq_check
from worker.cron import cron_jobs
from worker.dispatch import dispatcher
from worker.ending import LastResort, leave_in
from worker.engine import JobWorker
from worker.lifecycle import Lifecycle
from worker.wire import UNROUTABLE, to_wire, unpacker

_OURS_TO_DECIDE = 1_000_000  # tries, to arq; in truth jobs.retry decides


def build_worker(
    config: Config,
    *,
    registry: Registry | None = None,
    schedule: Iterable[Recurring] = SCHEDULE,
    **overrides: Any,
) -> JobWorker:
    """Our engine, ready to run. `overrides` are arq's own arguments, such as `burst=True`."""
    registry = registry or kinds.registry()
    settings = worker_settings(config, registry, schedule)
    ours = {
        "lease_settings": _lease_settings(config.worker),
        "batch": config.worker.batch,
        "grace": config.worker.stop_grace,
        "blocked_after": config.worker.blocked_after,
        "hand_back_after": _longest_timeout(config.worker, registry) + config.worker.blocked_after,
    }
    return JobWorker(**{**ours, **get_kwargs(settings), **overrides})


def run_to_the_end(worker: JobWorker) -> None:
    """Run a worker as the last act of a process: asked to stop once more, it still ends with status 0.

    It ends within the drain time and three times the grace, whatever jobs have left running.
    """
    # what has been imported stays, so it need not be looked through; and a batch makes thousands of
    # objects that go by themselves: looked for at every 700th, they cost a tenth of the throughput
    gc.freeze()
    gc.set_threshold(10_000, 20, 50)
    worker.owns_process = True
    last_resort = LastResort(
        worker.longest_stop, lambda: worker.heartbeat.hand_back_now() if worker.heartbeat else None
    )
    last_resort.listen(signal.SIGTERM, signal.SIGINT)
    worker.run()
    last_resort.ended()
    # the interpreter gives signals their default meaning back before it ends: a late one would kill
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    leave_in(worker.grace / 5)


def worker_settings(
    config: Config, registry: Registry, schedule: Iterable[Recurring] = SCHEDULE
) -> Any:
    """The class that arq's command line wants. It is flat: arq does not look at base classes."""
    config = config.for_worker()
    lifecycle = Lifecycle(config, registry)
    scheduled = cron_jobs(schedule, max_tries=_OURS_TO_DECIDE)
    functions = [*(_function(kind.name) for kind in registry), _function(UNROUTABLE)]
    names = {function.name for function in functions} | {job.name for job in scheduled}
    worker = config.worker

    return type(
        "WorkerSettings",
        (),
        {
            "functions": functions,
            "cron_jobs": scheduled,
            "timezone": UTC,
            "queue_name": worker.queue,
            "redis_pool": connect(worker),
            "redis_settings": settings_for_arq_check(worker),
            "on_startup": lifecycle.startup,
            "on_shutdown": lifecycle.shutdown,
            "max_jobs": worker.max_jobs,
            "max_tries": _OURS_TO_DECIDE,
            "job_timeout": _longest_timeout(worker, registry) + 10,  # ours comes first
            "job_completion_wait": worker.drain_timeout,
            "keep_result": worker.keep_result,
            "poll_delay": worker.poll_delay,
            "job_serializer": to_wire,
            "job_deserializer": unpacker(names),
            "log_results": False,
            "allow_abort_jobs": True,  # for arq.jobs.Job.abort()
        },
    )


def _lease_settings(worker: WorkerConfig) -> LeaseSettings:
    policy = worker.policy
    return LeaseSettings(worker.lease, policy.isolate_after_crashes, policy.max_crashes)


def _function(name: str) -> Function:
    return func(dispatcher(name), name=name)


def _longest_timeout(worker: WorkerConfig, registry: Registry) -> float:
    return max(kind.timeout or worker.job_timeout for kind in registry)


def __getattr__(name: str) -> Any:
    """`WorkerSettings` reads the environment when it is asked for, not when this module is imported."""
    if name != "WorkerSettings":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return worker_settings(load_config(), kinds.registry())
    except LedgerqError as error:
        sys.exit(f"ledgerq: {error}")
