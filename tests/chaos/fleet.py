"""The worker processes: started, signalled and killed by pid, and started again when we killed them."""

import math
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ledgerq.config import WorkerConfig
from tests.chaos.start import Started, start

MODULE = ("-m", "tests.chaos.worker")


@dataclass(eq=False)
class Member:
    """One worker process."""

    number: int
    process: Started
    log: Path
    started: float = field(default_factory=time.time)
    told: str = ""  # what we did to end it
    ended: float = math.inf  # when it did, about
    stopped: bool = False  # by SIGSTOP

    @property
    def pid(self) -> int:
        """Its process id, in its name too."""
        return self.process.pid

    @property
    def name(self) -> str:
        """As it calls itself on the servers, once it has said so."""
        said = re.findall(rb'"(ledgerq:[^"]+:%d:[^"]+)"' % self.pid, self.log.read_bytes())
        return str(said[0].decode()) if said else ""

    @property
    def alive(self) -> bool:
        """True while it has not exited."""
        return self.process.poll() is None

    @property
    def ready(self) -> bool:
        """True once it has said that it has started."""
        return b"worker.started" in self.log.read_bytes()

    def tail(self, lines: int = 6) -> str:
        """The last of what it logged."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


class Fleet:
    """Some workers of the same settings. A thread watches them and replaces those that ended."""

    def __init__(self, folder: Path, environment: dict[str, str], size: int = 3) -> None:
        self.folder = folder
        self.environment = environment
        self.size = size
        self.members: list[Member] = []
        self.gone: list[Member] = []
        self.unexpected: list[str] = []  # exits that nobody asked for
        self.refused_starts = 0  # a worker may say at its start that a server does not answer
        self.skew: dict[int, float] = {}  # number → seconds, from its next start on
        self._lock = threading.Lock()
        self._watching = True
        self._watch = threading.Thread(target=self._replace_for_ever, daemon=True, name="fleet")
        self._count = 0

    def start(self) -> None:
        """Start all, and the watch."""
        for number in range(self.size):
            self.members.append(self._spawn(number))
        self._watch.start()

    def add(self) -> None:
        """One more."""
        with self._lock:
            self.members.append(self._spawn(len(self.members)))

    def wait_ready(self, seconds: float = 180) -> None:
        """Until each has said that it has started."""
        deadline = time.monotonic() + seconds
        while not all(member.ready and member.alive for member in self.living()):
            if time.monotonic() > deadline:
                tails = "\n".join(member.tail() for member in self.living())
                raise TimeoutError(f"workers do not start:\n{tails}")
            time.sleep(0.05)

    def living(self) -> list[Member]:
        """The members as they are now, by number."""
        with self._lock:
            return list(self.members)

    def kill(self, member: Member) -> None:
        """kill -9."""
        member.told, member.ended = "SIGKILL", time.time()
        member.process.kill()

    def terminate(self, member: Member, times: int = 1) -> None:
        """SIGTERM, once or more."""
        member.told = member.told or "SIGTERM"
        for _ in range(times):
            if member.alive:
                member.process.terminate()
                time.sleep(0.05 if times > 1 else 0)

    def pause(self, member: Member) -> None:
        """SIGSTOP."""
        member.stopped = True
        member.process.send_signal(signal.SIGSTOP)

    def unpause(self, member: Member) -> None:
        """SIGCONT."""
        member.process.send_signal(signal.SIGCONT)
        member.stopped = False

    def pids(self) -> list[int]:
        """Of those that live now."""
        return [member.pid for member in self.living() if member.alive]

    def stop(self, seconds: float = 40) -> None:
        """Tell all to end; each must, with status 0."""
        self._watching = False
        if self._watch.is_alive():
            self._watch.join(5)
        for member in self.members:
            if member.stopped:
                self.unpause(member)
            self.terminate(member)
        deadline = time.monotonic() + seconds
        for member in self.members:
            try:
                member.process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                self.unexpected.append(f"worker {member.pid} ignored SIGTERM:\n{member.tail()}")
                member.told = "SIGKILL"
                member.process.kill()
                member.process.wait()
            self._judge(member)
        self.gone += self.members
        self.members = []

    def _spawn(self, number: int) -> Member:
        self._count += 1
        log = self.folder / f"worker-{number}-{self._count}.log"
        more = {"CHAOS_SKEW": str(self.skew[number])} if number in self.skew else {}
        process = start(MODULE, {**self.environment, **more}, log, anew=bool(more))
        return Member(number, process, log)

    def _replace_for_ever(self) -> None:
        while self._watching:
            for place, member in enumerate(self.members):
                if not member.alive:
                    self._judge(member)
                    with self._lock:
                        self.gone.append(member)
                        self.members[place] = self._spawn(member.number)
            time.sleep(0.05)

    def _judge(self, member: Member) -> None:
        """It must have been told to exit, and have exited as told."""
        status = member.process.wait()
        member.ended = min(member.ended, time.time())
        asked = {"SIGKILL": (-signal.SIGKILL,), "SIGTERM": (0,)}.get(member.told, ())
        if status in asked or self._killed_itself(member, status):
            return
        if not member.ready and status in {1, -signal.SIGTERM}:
            self.refused_starts += 1  # its process manager starts it again, as we do
            time.sleep(0.2)
            return
        told = member.told or "nobody"
        self.unexpected.append(
            f"worker {member.pid} exited with status {status}, told by {told}:\n{member.tail()}"
        )

    def _killed_itself(self, member: Member, status: int) -> bool:
        """A job of the kind `chaos_kill` did it."""
        return status == -signal.SIGKILL and not member.told


def settings(database_port: int, redis_port: int, **more: str) -> dict[str, str]:
    """What a worker is given: both servers through the proxy."""
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("LEDGERQ_", "CHAOS_"))
    }
    return {
        **clean,
        "DATABASE_URL": f"postgresql://app@127.0.0.1:{database_port}/ledgerq?sslmode=disable",
        "REDIS_URL": f"redis://127.0.0.1:{redis_port}/0",
        "LEDGERQ_LOG_FORMAT": "json",
        "LEDGERQ_POLL_DELAY": "0.05",
        "LEDGERQ_DRAIN_TIMEOUT": "5",
        **more,
    }


def lease_setting(seconds: float) -> dict[str, str]:
    """The lease, for a version of the worker that has the setting."""
    return {"LEDGERQ_LEASE": f"{seconds:g}"} if "lease" in WorkerConfig.model_fields else {}


@contextmanager
def fleet(folder: Path, environment: dict[str, str], size: int = 3) -> Iterator[Fleet]:
    """A fleet for the length of the block; none of its processes outlives it."""
    folder.mkdir(parents=True, exist_ok=True)
    made = Fleet(folder, environment, size)
    try:
        made.start()
        made.wait_ready()
        yield made
    finally:
        made.stop()
