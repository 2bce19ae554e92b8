"""The service that jobs call: a process of its own on loopback, which answers each HTTP request after 100 ms.

`python -m bench.service` prints its port. It reads no more of a request than its end, and answers all with the same bytes,
so that it is never what is measured; `capacity` says how much of it there is.
"""

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

from bench.servers import ROOT
from ledgerq.embedded.process import stop

DELAY = 0.1  # seconds
_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok"
_REQUEST = b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n"
_END = b"\r\n\r\n"
_CLIENTS = 1_000


class _Service(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._loop = asyncio.get_running_loop()

    def data_received(self, data: bytes) -> None:
        for _ in range(data.count(_END)):
            self._loop.call_later(DELAY, self._transport.write, _ANSWER)


class _Client(asyncio.Protocol):
    """Asks again as soon as it is answered."""

    answered = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(_REQUEST)

    def data_received(self, data: bytes) -> None:
        self.answered += data.count(_END)
        self._transport.write(_REQUEST)


async def capacity(url: str, seconds: float = 2) -> float:
    """Calls a second that the service answers to a thousand bare clients, which share one process."""
    host, _, port = url.removeprefix("http://").strip("/").rpartition(":")
    loop = asyncio.get_running_loop()
    opened = [await loop.create_connection(_Client, host, int(port)) for _ in range(_CLIENTS)]
    clients = [client for _, client in opened]
    started, before = time.monotonic(), sum(each.answered for each in clients)
    await asyncio.sleep(seconds)
    answered = sum(each.answered for each in clients) - before
    rate = answered / (time.monotonic() - started)
    for transport, _ in opened:
        transport.abort()
    return rate


@contextmanager
def service() -> Iterator[str]:
    """Run the service for the length of the block; its URL."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.service"], cwd=ROOT, stdout=subprocess.PIPE
    )
    try:
        assert process.stdout
        yield f"http://127.0.0.1:{int(process.stdout.readline())}/"
    finally:
        stop(process, seconds=10)


async def _serve() -> None:
    server = await asyncio.get_running_loop().create_server(
        _Service, "127.0.0.1", 0, backlog=_CLIENTS
    )
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve())
