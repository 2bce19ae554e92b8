"""The processes of a contender: its workers, what they cost, and the commands that feed them."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from bench.servers import ROOT, Servers
from bench.venvs import python_of
from ledgerq.embedded.both import stop

_COMMAND_SECONDS = 900
_KINDS_OF_THE_BENCH = ("noop", "call", "wait")


@dataclass(frozen=True, slots=True)
class Contender:
    """One system with one set of settings. `environment` is what its module reads them from."""

    name: str
    title: str
    module: str
    settings: str
    venv: str | None = None  # None: the product's own
    environment: dict[str, str] = field(default_factory=dict)
    worker: tuple[str, ...] = ()  # after its python; none: the module's own verb
    feeder: "Contender | None" = None  # who enqueues, if somebody else
    root: Path = ROOT  # the checkout that its code is in

    def worker_command(self, kind: str) -> list[str]:
        """What runs one worker; ours needs a kind more where nothing is to be done, or something outside."""
        ours = kind in _KINDS_OF_THE_BENCH or "BENCH_HANDLER" in self.environment
        own = () if ours else self.worker
        return [self.python, *(own or ("-m", self.module, "worker"))]

    @property
    def python(self) -> str:
        """Its interpreter."""
        if self.root != ROOT:
            return str(self.root / ".venv" / "bin" / "python")
        return str(python_of(self.venv)) if self.venv else sys.executable

    def environment_on(self, servers: Servers) -> dict[str, str]:
        """All that its processes are given."""
        return {**servers.environment, "PYTHONPATH": str(self.root), **self.environment}

    def command(self, *arguments: str | int) -> list[str]:
        """One of its verbs."""
        return [self.python, "-m", self.module, *map(str, arguments)]


def ask(servers: Servers, contender: Contender, *arguments: str | int) -> dict[str, Any]:
    """Run a verb that feeds the queue; what it measured.

    Raises:
        RuntimeError: it failed; with the end of what it said.
    """
    who = contender.feeder or contender
    done = subprocess.run(
        who.command(*arguments),
        env=who.environment_on(servers),
        cwd=who.root,
        capture_output=True,
        text=True,
        timeout=_COMMAND_SECONDS,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{who.name} {arguments}: {done.stderr[-2000:]}")
    answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer


def prepare(servers: Servers, contender: Contender) -> None:
    """Let it make what it needs in the database."""
    subprocess.run(
        contender.command("prepare"),
        env=contender.environment_on(servers),
        cwd=contender.root,
        check=True,
        stdout=subprocess.DEVNULL,
        timeout=60,
    )


@dataclass(frozen=True, slots=True)
class Cost:
    """What some processes used between two moments."""

    seconds: float
    cpu_seconds: float
    rss_mb: float

    @property
    def cores(self) -> float:
        """Of one core, the part that was busy."""
        return self.cpu_seconds / self.seconds if self.seconds else 0.0


class Workers:
    """Some worker processes, with the children that they start."""

    def __init__(self, processes: list[subprocess.Popen[bytes]], log: Path) -> None:
        self.processes, self._log = processes, log
        self._since = time.monotonic()
        self._cpu: dict[int, float] = {}

    def check(self) -> None:
        """All of them live.

        Raises:
            RuntimeError: one has ended; with the end of its log.
        """
        for process in self.processes:
            if process.poll() is not None:
                tail = self._log.read_text(errors="replace")[-2000:]
                raise RuntimeError(f"a worker ended with {process.returncode}: {tail}")

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Inside the block they stand still: they do not compete with what prepares their work."""
        processes = [psutil.Process(each.pid) for each in self.processes]
        for process in processes:
            process.suspend()
        try:
            yield
        finally:
            for process in processes:
                process.resume()

    def start_counting(self) -> None:
        """From here on the cost counts."""
        self._since, self._cpu = time.monotonic(), self._used()[0]

    def cost(self) -> Cost:
        """Since `start_counting`."""
        cpu, memory = self._used()
        used = sum(now - self._cpu.get(pid, 0.0) for pid, now in cpu.items())
        return Cost(time.monotonic() - self._since, used, memory / 2**20)

    def _used(self) -> tuple[dict[int, float], float]:
        """Seconds by process, and bytes of all that live; one that has ended is not counted."""
        cpu, memory = {}, 0.0
        for process in self.processes:
            parent = psutil.Process(process.pid)
            for each in (parent, *parent.children(recursive=True)):
                with suppress(psutil.NoSuchProcess):
                    times = each.cpu_times()
                    memory += each.memory_info().rss
                    cpu[each.pid] = times.user + times.system
        return cpu, memory


@contextmanager
def workers(
    servers: Servers, contender: Contender, kind: str, number: int = 1, **more: str
) -> Iterator[Workers]:
    """So many workers, each told to stop at the end."""
    log = Path(servers.sockets) / "bench-worker.log"
    command = contender.worker_command(kind)
    environment = {**contender.environment_on(servers), **more}
    with log.open("wb") as out, ExitStack() as stack:
        processes: list[subprocess.Popen[bytes]] = []
        stack.callback(_stop_all, processes)

        def start() -> subprocess.Popen[bytes]:
            return subprocess.Popen(
                command, env=environment, cwd=contender.root, stdout=out, stderr=out
            )

        processes.extend(start() for _ in range(number))
        yield Workers(processes, log)


def _stop_all(processes: list[subprocess.Popen[bytes]]) -> None:
    children = [
        child
        for process in processes
        if process.poll() is None
        for child in psutil.Process(process.pid).children(recursive=True)
    ]
    for process in processes:
        if process.poll() is None:
            process.terminate()
    for process in processes:
        stop(process, seconds=10)
    for child in children:
        if child.is_running():
            child.kill()
