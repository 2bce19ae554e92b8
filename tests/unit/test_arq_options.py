"""JobWorker takes arq.Worker's arguments, and says so: a new one of arq's is noticed here."""

import inspect
from typing import get_type_hints

import arq
import arq.worker
from arq.connections import ArqRedis, RedisSettings
from arq.cron import CronJob
from arq.jobs import Deserializer, Serializer
from arq.typing import SecondsTimedelta, StartupShutdown, WorkerCoroutine

from ledgerq.worker.arq_options import ArqOptions
from ledgerq.workers import JobWorker

OWN = {
    "queues",
    "lease_settings",
    "batch",
    "grace",
    "blocked_after",
    "hand_back_after",
    "max_outside",
}
NAMES = {
    "StartupShutdown": StartupShutdown, "SecondsTimedelta": SecondsTimedelta, "WorkerCoroutine": WorkerCoroutine,
    "ArqRedis": ArqRedis, "RedisSettings": RedisSettings, "CronJob": CronJob,
    "Serializer": Serializer, "Deserializer": Deserializer,
}  # fmt: skip


def test_the_signature_is_arqs_and_ours() -> None:
    """Names, order, kinds and defaults of all that arq takes; then our own."""
    arqs = inspect.signature(arq.Worker).parameters
    shown = inspect.signature(JobWorker).parameters
    assert list(shown)[: len(arqs)] == list(arqs)
    for name, parameter in arqs.items():
        assert (shown[name].kind, shown[name].default) == (parameter.kind, parameter.default), name
    assert set(shown) - set(arqs) == OWN


def test_the_types_are_arqs() -> None:
    """Of each argument that is given by name."""
    types = get_type_hints(arq.worker.Worker.__init__, {**vars(arq.worker), **NAMES})
    wanted = {name: each for name, each in types.items() if name not in {"functions", "return"}}
    assert get_type_hints(ArqOptions) == wanted
