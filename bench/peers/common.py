"""What all contenders share: the verbs of their command line, and what their jobs carry.

Every one is called alike, in its own virtual environment:
`python -m bench.peers.<peer> prepare | worker | fill … | single … | drip …`.
"""

import asyncio
import inspect
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

REDIS_URL = os.environ.get("REDIS_URL", "redis://localhost")
CONCURRENCY = int(os.environ.get("BENCH_CONCURRENCY", "10"))
CHUNK = 200  # enqueued at once, where a peer has no bulk call of its own
_TICK = os.environ.get("BENCH_TICK")  # the file to which a no-op adds one byte


_ticks: list[int] = []


def tick() -> None:
    """Count a no-op: one byte at the end of a file, whichever process ran it."""
    if not _ticks:
        _ticks.append(os.open(_TICK or os.devnull, os.O_WRONLY | os.O_APPEND | os.O_CREAT))
    os.write(_ticks[0], b".")


Arguments = Sequence[str | int]


def arguments(kind: str, number: int) -> Arguments:
    """What each job of a kind carries: a title that says when it was enqueued, a task's id, or nothing."""
    if kind in ("create", "call"):
        return [f"{time.time():.6f}" for _ in range(number)]
    return [n + 1 for n in range(number)]


@dataclass(frozen=True, slots=True)
class Jobs:
    """Some jobs of one kind, and how long they are held back."""

    kind: str
    arguments: Arguments
    delay: float = 0

    def chunks(self, size: int = CHUNK) -> Iterator[Arguments]:
        """A part at a time."""
        for start in range(0, len(self.arguments), size):
            yield self.arguments[start : start + size]


class Producer(Protocol):
    """What puts jobs on a peer's queue."""

    async def one(self, kind: str, argument: str | int) -> None:
        """Enqueue one, and return when the queue has it."""

    async def many(self, jobs: Jobs) -> None:
        """Enqueue them all, in the quickest way that the peer documents."""


class Peer(Protocol):
    """One system under test."""

    def prepare(self) -> None:
        """Make what it needs in the database."""

    def worker(self) -> None:
        """Run one worker until SIGTERM."""

    def producer(self) -> Any:
        """An async context manager that yields a Producer."""


def run_command(*command: str) -> None:
    """Become the peer's own command line, out of its own environment."""
    program = Path(sys.executable).with_name(command[0])
    os.execv(program, [str(program), *command[1:]])  # noqa: S606 - no shell is wanted


async def in_parallel(jobs: Jobs, one: Callable[[Any], Awaitable[Any]]) -> None:
    """For a peer with no bulk call: so many round trips at once."""
    for chunk in jobs.chunks():
        await asyncio.gather(*(one(argument) for argument in chunk))


def main(peer: Peer) -> None:
    """Do what the command line says; answers with one line of JSON."""
    verb, *rest = sys.argv[1:]
    if verb == "prepare":
        peer.prepare()
    elif verb == "worker":
        peer.worker()
    else:
        work = {"fill": _fill, "single": _single, "drip": _drip}[verb]
        print(json.dumps(asyncio.run(work(peer, rest))))


async def _fill(peer: Peer, rest: list[str]) -> dict[str, Any]:
    kind, number, delay = rest[0], int(rest[1]), float(rest[2]) if rest[2:] else 0.0
    async with _opened(peer) as producer:
        await producer.one("noop", 1) if kind == "noop" else None
        started = time.perf_counter()
        await producer.many(Jobs(kind, arguments(kind, number), delay))
        return {"jobs": number, "seconds": time.perf_counter() - started}


async def _single(peer: Peer, rest: list[str]) -> dict[str, Any]:
    kind, number = rest[0], int(rest[1])
    async with _opened(peer) as producer:
        started = time.perf_counter()
        for argument in arguments(kind, number):
            await producer.one(kind, argument)
        return {"jobs": number, "seconds": time.perf_counter() - started}


async def _drip(peer: Peer, rest: list[str]) -> dict[str, Any]:
    """An open loop: so many jobs a second for so long, whatever becomes of them."""
    rate, seconds = float(rest[0]), float(rest[1])
    async with _opened(peer) as producer:
        started, sent, under_way = time.perf_counter(), 0, set()
        while (now := time.perf_counter() - started) < seconds:
            for _ in range(int(now * rate) - sent):
                sent += 1
                task = asyncio.ensure_future(producer.one("create", f"{time.time():.6f}"))
                under_way.add(task)
                task.add_done_callback(under_way.discard)
            await asyncio.sleep(min(0.005, 1 / rate))
        await asyncio.gather(*under_way)
        return {"jobs": sent, "seconds": time.perf_counter() - started}


@asynccontextmanager
async def _opened(peer: Peer) -> AsyncIterator[Producer]:
    opened = peer.producer()
    if inspect.isawaitable(opened):
        opened = await opened
    async with opened as producer:
        yield producer
