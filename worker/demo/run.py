"""The steps of the demo: start the servers, migrate, start a worker and a producer, count."""

import asyncio
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from db.database import open_database
from db.schema import migrate
from ledgerq.embedded import Servers, open_private, servers, stop
from ledgerq.errors import LedgerqError
from ledgerq.sessions import DatabaseConfig
from ledgerq.workers import PREFIX
from worker.demo.count import SENT, Sent, Tally, tally

SEED = 20_261_123
_ROOT = str(Path(__file__).resolve().parents[2])  # where the child processes find their modules


class DemoError(LedgerqError):
    """A process of the demo failed; the text says which, and how."""


@dataclass(frozen=True, slots=True)
class Report:
    """The result of the demo. `seconds` is the time from the first enqueued job to the last answer."""

    tally: Tally
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """One flat object for programs."""
        counts = asdict(self.tally)
        wrong = counts.pop("wrong")
        return {
            **counts,
            "seconds": round(self.seconds, 3),
            "jobs_per_second": round(self.tally.jobs / self.seconds, 1),
            "agrees": self.tally.agrees,
            "wrong": wrong[:20],
        }


def run(jobs: int, *, say: Callable[[str], None], progress: Callable[[int], None]) -> Report:
    """Run the whole demo in a temporary folder.

    Args:
        jobs: how many jobs to enqueue.
        say: called with a text about the next step.
        progress: called with the number of jobs that have been enqueued so far.

    Raises:
        DemoError: the worker or the producer failed.
    """
    with tempfile.TemporaryDirectory(prefix="ledgerq-") as folder:
        say("Starting PostgreSQL and Redis")
        with servers(Path(folder)) as running:
            database = DatabaseConfig(url=running.database_url)
            say("Migrating the database")
            migrate(database)
            with _worker(running, Path(folder) / "worker.log") as worker:
                say(f"Enqueuing {jobs} jobs from a second process")
                sent, seconds = _produce(running, jobs, worker, progress)
            say("Counting in the database")
            return Report(asyncio.run(_count(database, sent)), seconds)


@contextmanager
def _worker(running: Servers, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a worker process until the block ends; raises DemoError if the worker does not end with status 0."""
    with os.fdopen(open_private(log, os.O_WRONLY), "wb") as output:
        worker = _python("ledgerq", "worker", servers=running, stderr=output)
        try:
            yield worker
        finally:
            status = stop(worker, seconds=30)
    if status != 0:
        raise DemoError(f"the worker ended with status {status}: {_last_line(log)}")


def _produce(
    running: Servers,
    jobs: int,
    worker: subprocess.Popen[bytes],
    progress: Callable[[int], None],
) -> tuple[list[Sent], float]:
    """Run the producer. Returns the jobs that it enqueued, and the seconds until all of them had their answer."""
    arguments = ("worker.demo.producer", str(jobs), str(SEED))
    producer = _python(*arguments, servers=running, stdout=subprocess.PIPE)
    watch = threading.Thread(target=_end_with, args=(worker, producer), daemon=True)
    watch.start()
    sent: list[Sent] = []
    started = time.perf_counter()
    try:
        for line in producer.stdout or ():
            started = started if sent else time.perf_counter()
            sent.append(SENT.validate_json(line))
            progress(len(sent))
        seconds = time.perf_counter() - started
        status = producer.wait()
    finally:
        stop(producer)
        if producer.stdout:
            producer.stdout.close()
    if worker.poll() is None and (status != 0 or len(sent) != jobs):
        raise DemoError(f"the producer ended with status {status} after {len(sent)} jobs")
    return sent, seconds


def _end_with(worker: subprocess.Popen[bytes], producer: subprocess.Popen[bytes]) -> None:
    """End the producer if the worker has died: otherwise it would never stop waiting for its results."""
    while producer.poll() is None:
        with suppress(subprocess.TimeoutExpired):
            worker.wait(0.2)
            producer.terminate()


async def _count(database: DatabaseConfig, sent: list[Sent]) -> Tally:
    async with open_database(database) as opened, opened.sessions() as session:
        return await tally(session, sent)


def _python(
    *arguments: str,
    servers: Servers,
    stdout: int | None = None,
    stderr: IO[bytes] | None = None,
) -> subprocess.Popen[bytes]:
    """Start a module as a process with the URLs of these servers, and without the user's LEDGERQ_ settings."""
    theirs = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    return subprocess.Popen(
        [sys.executable, "-P", "-m", *arguments],
        env={
            **servers.given_to(theirs),
            "PYTHONPATH": _ROOT,
            "LEDGERQ_APP": "worker.app:app",
            "LEDGERQ_LOG_FORMAT": "json",
        },
        stdout=stdout,
        stderr=stderr,
    )


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()
    return lines[-1] if lines else "it said nothing"
