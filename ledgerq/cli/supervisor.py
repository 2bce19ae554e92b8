"""Runs several worker processes on one machine; starts one that ends again, and stops all together."""

import asyncio
import os
import signal
import sys
import time

import structlog

from ledgerq.backoff import Backoff

log = structlog.stdlib.get_logger("ledgerq.supervisor")

# -P: modules are searched as in this process, not first in the current folder
_COMMAND = (sys.executable, "-P", "-m", "ledgerq", "worker", "--supervised")
_STEADY = 60.0  # seconds after which a worker's end does not count as a failed start


def stop_with_supervisor(loop: asyncio.AbstractEventLoop) -> None:
    """In a supervised worker: stop as by SIGTERM when the supervisor dies, which closes this process's stdin."""
    stdin = sys.stdin.fileno()

    def gone() -> None:
        loop.remove_reader(stdin)
        os.kill(os.getpid(), signal.SIGTERM)

    loop.add_reader(stdin, gone)


class Supervisor:
    """Runs worker processes until SIGTERM or SIGINT. The workers inherit the supervisor's environment."""

    def __init__(self, processes: int) -> None:
        self._processes = processes
        self._running: dict[int, asyncio.subprocess.Process] = {}
        self._stopping = asyncio.Event()

    async def run(self) -> int:
        """Run until SIGTERM or SIGINT. Returns 0 if each worker's last process ended well, else the largest exit status."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop, number)
        statuses = await asyncio.gather(*(self._keep(n) for n in range(1, self._processes + 1)))
        return max(map(abs, statuses))

    def _stop(self, number: signal.Signals) -> None:
        log.info("supervisor.stopping", signal=number.name, workers=len(self._running))
        self._stopping.set()
        for worker in self._running.values():
            if worker.returncode is None:
                worker.send_signal(signal.SIGTERM)

    async def _keep(self, number: int) -> int:
        """Keep one worker running: start the next when it ends. Returns the exit status of the last."""
        backoff, status = Backoff(), 0
        while not self._stopping.is_set():
            started = time.monotonic()
            status = await self._one(number)
            if self._stopping.is_set():
                break
            if time.monotonic() - started > _STEADY:
                backoff.reset()
            pause = backoff.next()
            log.error("supervisor.worker_ended", number=number, status=status, again_in=pause)
            try:
                async with asyncio.timeout(pause):
                    await self._stopping.wait()
            except TimeoutError:
                pass
        return status

    async def _one(self, number: int) -> int:
        # its own process group, so that only the supervisor gets Ctrl-C and passes it on; and a pipe as
        # stdin, which closes when the supervisor dies: then the worker stops too
        worker = await asyncio.create_subprocess_exec(
            *_COMMAND, process_group=0, stdin=asyncio.subprocess.PIPE
        )
        self._running[number] = worker
        log.info("supervisor.worker_started", number=number, pid=worker.pid)
        if self._stopping.is_set():
            worker.send_signal(signal.SIGTERM)
        try:
            status = await worker.wait()
        finally:
            del self._running[number]
        # a worker that is told to stop before it handles SIGTERM ends by the signal itself
        told = -signal.SIGTERM, 128 + signal.SIGTERM
        return 0 if self._stopping.is_set() and status in told else status
