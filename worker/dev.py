"""`ledgerq dev`: the servers and a worker, for as long as a person develops."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from rich.console import Console

from db.config import DatabaseConfig
from db.errors import LedgerqError
from db.schema import migrate
from worker.embedded import Servers, servers, stop

EXAMPLE = """ledgerq enqueue create_project --payload '{"name": "Launch"}' --wait 10"""
_MARK = "ledgerq-dev"  # a folder with this file in it is ours to wipe


class NotOurFolder(LedgerqError):
    """`--reset` was asked for a folder that `ledgerq dev` did not make."""

    def __init__(self, folder: Path) -> None:
        super().__init__(f"--folder: {folder} was not made by `ledgerq dev`; it is not wiped")


def run_dev(folder: Path, *, reset: bool, console: Console) -> None:
    """Run until interrupted; the data in the folder stays.

    Raises:
        NotOurFolder: the folder to wipe is somebody else's.
    """
    if reset:
        _wipe(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _MARK).touch()
    console.print("Starting PostgreSQL and Redis …", highlight=False)
    with servers(folder) as running:
        migrate(DatabaseConfig(url=running.database_url))
        _explain(running, folder, console)
        _run_worker(running)


def _wipe(folder: Path) -> None:
    if folder.exists():
        if not (folder / _MARK).exists():
            raise NotOurFolder(folder)
        shutil.rmtree(folder)


def _explain(running: Servers, folder: Path, console: Console) -> None:
    exports = "\n".join(
        f"  export {name}={shlex.quote(value)}" for name, value in running.environment.items()
    )
    console.print(
        f"\nRunning, with data in {folder}. In another terminal:\n\n{exports}\n  {EXAMPLE}\n\n"
        "Stop with Ctrl-C.\n",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


def _run_worker(running: Servers) -> None:
    command = [sys.executable, "-m", "worker", "worker"]
    process = subprocess.Popen(command, env={**os.environ, **running.environment})
    try:
        process.wait()
    except KeyboardInterrupt:
        pass  # the worker had it too, and drains
    finally:
        stop(process, seconds=30)
