"""`ledgerq dev`: runs a PostgreSQL, a Redis and a worker for development, until Ctrl-C."""

import fcntl
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rich.console import Console

from ledgerq.database.engine import Tables
from ledgerq.database.settings import DatabaseConfig
from ledgerq.embedded.both import Servers, servers, stop
from ledgerq.embedded.own_folder import check_owner, make_private, open_private, remove_tree
from ledgerq.embedded.postgresql import data_owners
from ledgerq.errors import LedgerqError
from ledgerq.settings import load
from ledgerq.store.migration import migrate

_MARK = "ledgerq-dev"  # file: locked while `dev` runs; shows that `dev` made the folder


class NotOurFolder(LedgerqError):
    """The folder holds something that `ledgerq dev` did not make."""

    def __init__(self, folder: Path) -> None:
        super().__init__(
            f"--folder: {folder} is not empty and was not made by `ledgerq dev`; name another"
        )


class AlreadyRunning(LedgerqError):
    """Another `ledgerq dev` uses the folder."""

    def __init__(self, folder: Path) -> None:
        super().__init__(f"--folder: `ledgerq dev` runs in {folder} already; stop it first")


class WorkerEnded(LedgerqError):
    """The worker ended by itself with an error; its output is above."""

    def __init__(self, status: int) -> None:
        super().__init__(f"the worker ended by itself with status {status}")


def run_dev(
    folder: Path, tables: Tables, *, reset: bool, console: Console, ini: Path | None = None
) -> None:
    """Run the servers and a worker until interrupted. The data in the folder stays, unless `reset` deletes it first.

    The database is migrated first. `ini` is the application's alembic.ini; None takes the folder in `App(migrations=)`.

    Raises:
        NotOurFolder: the folder holds something that `ledgerq dev` did not make.
        NotPrivate: the folder, or something in it, is a link or belongs to another user.
        AlreadyRunning: another `ledgerq dev` uses the folder.
        WorkerEnded: the worker ended with an error.
    """
    with _claimed(folder):
        if reset:
            remove_tree(folder / "postgresql", data_owners())
            remove_tree(folder / "redis")
        console.print("Starting PostgreSQL and Redis …", highlight=False)
        with servers(folder) as running:
            migrate(load(DatabaseConfig, url=running.database_url), tables, ini=ini)
            _explain(running, folder, console)
            _run_worker(running)


@contextmanager
def _claimed(folder: Path) -> Iterator[None]:
    """Lock the folder until the block ends. The system frees the lock when the process ends, even if it is killed."""
    try:
        if os.path.lexists(folder):
            check_owner(folder)
            if not os.path.lexists(folder / _MARK) and any(folder.iterdir()):
                raise NotOurFolder(folder)
        make_private(folder)
        mark = os.fdopen(open_private(folder / _MARK, os.O_WRONLY), "w")
    except OSError as error:
        raise LedgerqError(f"--folder: {folder}: {error.strerror}") from error
    with mark:
        try:
            fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise AlreadyRunning(folder) from None
        yield


def _explain(running: Servers, folder: Path, console: Console) -> None:
    lines = [f"cd {shlex.quote(str(Path.cwd()))}"]
    if sys.prefix != sys.base_prefix:
        lines.append(f"source {shlex.quote(str(Path(sys.prefix, 'bin', 'activate')))}")
    lines += [f"export {name}={shlex.quote(value)}" for name, value in running.environment.items()]
    exports = "\n".join(f"  {line}" for line in lines)
    console.print(
        f"\nRunning, with data in {folder}. In another terminal:\n\n{exports}\n"
        f"  ledgerq kinds    # what `ledgerq enqueue KIND --payload …` takes\n\nStop with Ctrl-C.\n",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


def _run_worker(running: Servers) -> None:
    command = [sys.executable, "-P", "-m", "ledgerq", "worker"]
    process = subprocess.Popen(command, env=running.given_to(os.environ))
    try:
        with suppress(KeyboardInterrupt):  # the worker gets Ctrl-C too, and drains
            if status := process.wait():
                raise WorkerEnded(status)
    finally:
        stop(process, seconds=60)
