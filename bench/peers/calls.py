"""The call that a job makes to the service, by the same client for everybody: httpx, without a limit of connections."""

import os
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import httpx

SERVICE = os.environ.get("BENCH_SERVICE", "")  # its URL, if the jobs call it


@cache
def _client() -> "httpx.AsyncClient":
    """One for each process, made in its event loop."""
    import httpx  # noqa: PLC0415 - the other jobs do not pay for it

    unlimited = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    return httpx.AsyncClient(limits=unlimited, timeout=60)


async def call() -> str:
    """What the service answers."""
    answer = await _client().get(SERVICE)
    answer.raise_for_status()
    return answer.text
