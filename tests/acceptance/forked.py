"""A command in a process of its own that is forked from one which has imported the libraries, once.

Of a command's two seconds they are most. `ledgerq.cli`, the command, is imported anew each time, as it reads its
environment and its terminal.
"""

import multiprocessing
import os
import runpy
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

_LIBRARIES = (
    "aiosqlite", "alembic.command", "arq.worker", "asyncpg", "ledgerq.store.grants", "ledgerq.store.schema", "jobs.kinds",
    "ledgerq.execution.interventions", "ledgerq.execution.process", "jobs.schedule", "pydantic_settings", "redis.asyncio", "rich.progress",
    "rich.table", "structlog", "typer.main",
)  # fmt: skip
_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload([__name__, *_LIBRARIES])


def run(
    arguments: Sequence[str], *, env: Mapping[str, str], cwd: Path, seconds: float
) -> subprocess.CompletedProcess[str]:
    """What `python -m ledgerq` with these arguments says, and its exit status.

    Raises:
        TimeoutExpired: it has not ended by then; it is killed.
    """
    with TemporaryDirectory() as name:
        said = Path(name, "out"), Path(name, "err")
        process = _forks.Process(target=_be, args=(arguments, dict(env), cwd, said))
        process.start()
        process.join(seconds)
        in_time = not process.is_alive()
        process.kill()
        process.join()
        out, err = (file.read_text() if file.exists() else "" for file in said)
        status = process.exitcode or 0
        process.close()
    if not in_time:
        raise subprocess.TimeoutExpired(arguments, seconds, out, err)
    return subprocess.CompletedProcess(arguments, status, out, err)


def _be(
    arguments: Sequence[str], env: Mapping[str, str], cwd: Path, said: tuple[Path, Path]
) -> None:
    for number, file in enumerate(said, start=1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    sys.argv = ["ledgerq", *arguments]
    runpy.run_module("ledgerq", run_name="__main__", alter_sys=True)
