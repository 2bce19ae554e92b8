"""The arguments of `arq.Worker`, which `JobWorker` takes too: by name and type, for editors, mypy and `inspect`."""

import inspect
from collections.abc import Callable, Sequence
from datetime import timezone as Timezone  # noqa: N812 - an argument has its name
from typing import Any, TypedDict, get_type_hints

from arq.connections import ArqRedis, RedisSettings
from arq.cron import CronJob
from arq.jobs import Deserializer, Serializer
from arq.typing import SecondsTimedelta, StartupShutdown
from arq.worker import Worker


class ArqOptions(TypedDict, total=False):
    """The keyword arguments of `arq.Worker`, which arq documents. An argument that is left out has arq's default."""

    queue_name: str | None
    cron_jobs: Sequence[CronJob] | None
    redis_settings: RedisSettings | None
    redis_pool: ArqRedis | None
    burst: bool
    on_startup: StartupShutdown | None
    on_shutdown: StartupShutdown | None
    on_job_start: StartupShutdown | None
    on_job_end: StartupShutdown | None
    after_job_end: StartupShutdown | None
    handle_signals: bool
    job_completion_wait: int
    max_jobs: int
    job_timeout: SecondsTimedelta
    keep_result: SecondsTimedelta
    keep_result_forever: bool
    poll_delay: SecondsTimedelta
    queue_read_limit: int | None
    max_tries: int
    health_check_interval: SecondsTimedelta
    health_check_key: str | None
    ctx: dict[Any, Any] | None
    retry_jobs: bool
    allow_abort_jobs: bool
    max_burst_jobs: int
    job_serializer: Serializer | None
    job_deserializer: Deserializer | None
    expires_extra_ms: int
    timezone: Timezone | None
    log_results: bool


def signature_like_arqs(own: Callable[..., None]) -> inspect.Signature:
    """The signature of a worker for `inspect.signature`: arq's arguments with their defaults, then the worker's own."""
    types, arqs = get_type_hints(ArqOptions), inspect.signature(Worker).parameters
    ours = inspect.signature(own).parameters.values()
    first = [each for each in ours if each.kind is each.POSITIONAL_OR_KEYWORD]
    named = [arqs[name].replace(annotation=types[name]) for name in types if name in arqs]
    last = [each for each in ours if each.kind is each.KEYWORD_ONLY]
    return inspect.Signature([*first[1:], *named, *last])
