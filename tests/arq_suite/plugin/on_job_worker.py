"""Loaded by pytest before arq's tests: they meet our worker under arq's name, and a Redis without docker."""

import os
import sys
from types import ModuleType, TracebackType
from typing import Self
from urllib.parse import urlsplit

import arq
import arq.worker

from ledgerq.workers import JobWorker

if not os.environ.get("ARQ_SUITE_STOCK"):
    arq.Worker = arq.worker.Worker = JobWorker  # type: ignore[misc]


class RedisContainer:
    """What arq's tests ask testcontainers for; the server is there already, at ARQ_SUITE_REDIS."""

    def __init__(self, image: str) -> None:
        self._where = urlsplit(os.environ["ARQ_SUITE_REDIS"])
        self.port = 6379

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        pass

    def get_container_host_ip(self) -> str:
        return self._where.hostname or "localhost"

    def get_exposed_port(self, port: int) -> int:
        return self._where.port or port


_stand_in = ModuleType("testcontainers.redis")
_stand_in.RedisContainer = RedisContainer  # type: ignore[attr-defined]
sys.modules["testcontainers"] = ModuleType("testcontainers")
sys.modules["testcontainers.redis"] = _stand_in
