"""The servers of `dev`, `demo` and the tests: nothing outside their folder changes, and nobody else gets in."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import pytest
import redis as redis_sync
from rich.console import Console

from db.schema import TABLES
from ledgerq import embedded
from ledgerq.cli.dev import NotOurFolder, run_dev
from ledgerq.embedded.both import _server_with_jemalloc
from ledgerq.embedded.own_folder import NotPrivate, check_way
from ledgerq.embedded.postgresql import programs_of_postgresql
from ledgerq.embedded.process import EmbeddedServerError, stop_stale
from ledgerq.errors import LedgerqError

ROOT = os.geteuid() == 0
NOBODY = 65_534
ANY_PYTHON = "/usr/bin/python3" if Path("/usr/bin/python3").exists() else sys.executable
as_root = pytest.mark.skipif(not ROOT, reason="only root can be somebody else")
TRY_ALL = """
import os, socket, sys
for path in sys.argv[1:]:
    for act in (os.listdir, lambda p: open(p).close(), lambda p: open(p, "a").close(),
                lambda p: socket.socket(socket.AF_UNIX).connect(p)):
        try:
            act(path)
        except OSError:
            continue
        print(path)
"""


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A folder below one that is closed to others, below one that is open."""
    tmp_path.chmod(0o755)
    made = tmp_path / "closed" / "clone"
    made.mkdir(parents=True)
    made.parent.chmod(0o700)
    made.chmod(0o755)
    return made


@contextmanager
def umask(mask: int) -> Iterator[None]:
    """Another umask for the length of the block."""
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def owners_and_modes(*paths: Path) -> dict[Path, tuple[int, int, int]]:
    """What must not change."""
    return {path: (path.stat().st_uid, path.stat().st_gid, path.stat().st_mode) for path in paths}


def everything(folder: Path) -> list[Path]:
    """The folder and all in it."""
    return [folder, *folder.rglob("*")]


def test_the_development_servers_change_no_folder_but_their_own(clone: Path) -> None:
    """Root's PostgreSQL runs as another user, and no parent is opened for it, nor the wheel's files."""
    programs = programs_of_postgresql()
    watched = [clone, *clone.parents, *programs.parents, programs, programs / "postgres"]
    before = owners_and_modes(*watched)
    users = Path("/etc/passwd").read_bytes()
    with embedded.servers(clone / ".ledgerq") as running:
        assert redis_sync.Redis.from_url(running.redis_url).ping()
    assert owners_and_modes(*watched) == before
    assert Path("/etc/passwd").read_bytes() == users


def test_the_development_servers_are_closed_to_other_users_whatever_the_umask(
    tmp_path: Path,
) -> None:
    """Folders are 0700, files 0600, also those of an earlier version; and no port is open."""
    folder = tmp_path / "dev"
    with umask(0):
        (folder / "redis").mkdir(parents=True)
        (folder / "redis" / "redis.log").write_text("of an earlier version\n")
        with embedded.servers(folder):
            opened = {str(path): oct(path.lstat().st_mode) for path in everything(folder)}
            assert [path for path, mode in opened.items() if not mode.endswith("00")] == []
            assert len(opened) > 100
            started = [each for each in psutil.process_iter(["cmdline"]) if _runs_in(each, folder)]
            assert {each.name() for each in started} == {"postgres", "valkey-server"}
            assert [port for each in started for port in each.net_connections("inet")] == []


@pytest.fixture
def reachable() -> Iterator[Path]:
    """A folder that other users enter. Each pytest that starts closes the one above `tmp_path`."""
    with TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@as_root
def test_another_user_reaches_no_development_server(reachable: Path) -> None:
    """Neither a file nor a socket, even where the folder stands in the open."""
    with embedded.servers(reachable / "dev"):
        paths = [str(path) for path in everything(reachable / "dev")]
        assert _reached_by(NOBODY, *paths) == ""
    (reachable / "open").write_text("")
    (reachable / "open").chmod(0o666)
    asked = str(reachable / "open")
    assert _reached_by(NOBODY, asked) != ""  # the question can be answered with yes


@as_root
def test_the_development_servers_run_for_a_plain_user_too(reachable: Path) -> None:
    """Without any right of root."""
    home = reachable / "home"
    home.mkdir()
    os.chown(home, NOBODY, NOBODY)
    program = "import sys, pathlib; from ledgerq import embedded\n"
    program += "with embedded.servers(pathlib.Path(sys.argv[1])) as s: print(s.redis_url)"
    done = subprocess.run(
        [ANY_PYTHON, "-c", program, str(home / "dev")],
        env={"PYTHONPATH": os.pathsep.join(each for each in sys.path if each)},
        user=NOBODY,
        group=NOBODY,
        extra_groups=[],
        cwd=Path(embedded.__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    if "ImportError: cannot import name" in done.stderr:
        pytest.skip("the packages here are of another version of Python than the system's")
    if "ModuleNotFoundError" in done.stderr or "Permission denied" in done.stderr:
        pytest.skip("this clone is closed to other users")
    assert done.stdout.startswith("unix:///"), done.stderr
    assert {path.stat().st_uid for path in everything(home / "dev")} == {NOBODY}


LINKS = [
    ".",
    "postgresql",
    "postgresql.new",
    "redis",
    "ledgerq-dev",
    "redis/redis.pid",
    "redis/redis.log",
    "redis/appendonlydir",
    "postgresql/base",
]


RESET = [".", "postgresql", "redis", "ledgerq-dev", "redis/appendonlydir"]


@pytest.mark.parametrize(
    ("link", "reset"), [*((link, False) for link in LINKS), *((link, True) for link in RESET)]
)
def test_no_development_server_goes_through_a_link(tmp_path: Path, link: str, reset: bool) -> None:
    """Wherever it stands: refused in one line, or removed by --reset; what it points to stays as it is."""
    precious = tmp_path / "precious"
    precious.mkdir(mode=0o755)
    (precious / "file").write_text("mine")
    before = owners_and_modes(precious, precious / "file")
    folder = tmp_path / "dev"
    place = folder / link
    place.parent.mkdir(parents=True, exist_ok=True)
    if link != ".":
        folder.mkdir(exist_ok=True)
        (folder / "ledgerq-dev").touch()
        place.unlink(missing_ok=True)
    place = folder if link == "." else place
    is_file = Path(link).suffix or link == "ledgerq-dev"
    place.symlink_to(precious / "file" if is_file else precious)
    with pytest.raises((NotPrivate, Stopped)) as refused:
        run_dev(folder, TABLES, reset=reset, console=Stopping())
    if not reset or "/" not in link:
        assert "symbolic link" in str(refused.value)
        assert "\n" not in str(refused.value)
    assert owners_and_modes(precious, precious / "file") == before
    assert (precious / "file").read_text() == "mine"


@as_root
@pytest.mark.parametrize("theirs", [".", "postgresql", "redis", "redis/redis.log"])
def test_no_development_server_uses_what_belongs_to_another_user(
    tmp_path: Path, theirs: str
) -> None:
    """They may have prepared it, and could read what is put there."""
    place = tmp_path / "dev" / theirs
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.suffix:
        place.touch()
    else:
        place.mkdir(parents=True, exist_ok=True)
    (tmp_path / "dev" / "ledgerq-dev").touch()
    os.chown(place, NOBODY, NOBODY)
    place.chmod(0o777)
    before = owners_and_modes(place)
    with pytest.raises(NotPrivate, match="belongs to another user"):
        run_dev(tmp_path / "dev", TABLES, reset=False, console=Stopping())
    assert owners_and_modes(place) == before


@pytest.mark.parametrize(
    ("owner", "mode"), [(NOBODY, 0o755), (NOBODY, 0o1777), (0, 0o777), (0, 0o757), (NOBODY, 0o700)]
)
@pytest.mark.parametrize("way", ["home/dev", "home/project/dev", "link/dev", "hop/dev"])
def test_no_development_server_stands_where_another_user_may_put_something_else(
    tmp_path: Path, owner: int, mode: int, way: str
) -> None:
    """Whoever may rename in a folder above could swap ours for a link; reached by a link or not."""
    home = tmp_path / "home"
    (home / "project").mkdir(parents=True)
    (tmp_path / "link").symlink_to("home/project")
    (tmp_path / "hop").symlink_to(tmp_path / "link")
    if owner and not ROOT:
        pytest.skip("only root can be somebody else")
    if owner:
        os.chown(home, owner, owner)
    home.chmod(mode)
    before = owners_and_modes(home)
    with pytest.raises(NotPrivate, match=r"replace what is in it; .*name a folder") as refused:
        run_dev(tmp_path / way, TABLES, reset=False, console=Stopping())
    assert f"{home}: " in str(refused.value)
    assert "\n" not in str(refused.value)
    assert owners_and_modes(home) == before
    assert not (tmp_path / way).exists()


@as_root
def test_a_link_of_another_user_in_a_shared_folder_is_not_followed(tmp_path: Path) -> None:
    """As in /tmp: the folder is everybody's, the link can be replaced by its owner."""
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    (tmp_path / "mine").mkdir()
    (shared / "link").symlink_to(tmp_path / "mine")
    check_way(shared / "link" / "dev")
    os.chown(shared / "link", NOBODY, NOBODY, follow_symlinks=False)
    with pytest.raises(NotPrivate, match="belongs to another user"):
        check_way(shared / "link" / "dev")


def test_folders_of_a_users_own_group_and_shared_ones_with_their_owners_kept_are_taken(
    tmp_path: Path,
) -> None:
    """Many systems make folders writable for a group that has one member; /tmp is sticky."""
    place = tmp_path / "project"
    place.mkdir()
    place.chmod(0o1777)
    check_way(place / "dev")
    if ROOT:
        os.chown(place, 0, 54_321)  # nobody's group
        place.chmod(0o775)
        check_way(place / "dev")
        os.chown(place, 0, NOBODY)
        with pytest.raises(NotPrivate, match="other users may replace"):
            check_way(place / "dev")


def test_links_in_a_circle_end_the_start_in_one_line(tmp_path: Path) -> None:
    """Not in a recursion."""
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(LedgerqError, match="Too many levels of symbolic links"):
        run_dev(tmp_path / "a" / "dev", TABLES, reset=False, console=Stopping())


@pytest.mark.parametrize("made", ["", "PG_VERSION", "base", "global/pg_control"])
def test_a_start_that_was_killed_can_be_made_again(tmp_path: Path, made: str) -> None:
    """At any moment of the first one: while the folder is lent, before and after initdb wrote a part."""
    folder, new = tmp_path / "data", tmp_path / "data.new"
    program = "import sys, pathlib; from ledgerq import embedded\n"
    program += "embedded.postgresql(pathlib.Path(sys.argv[1])).__enter__()"
    command = [sys.executable, "-c", program, str(folder)]
    with subprocess.Popen(command, cwd=Path(embedded.__file__).parents[2]) as first:
        while not (new / made).exists():
            assert first.poll() is None
        first.kill()
    assert not (folder / "PG_VERSION").exists()
    with embedded.postgresql(folder):
        assert not new.exists()
    with embedded.postgresql(folder):
        pass


@as_root
def test_a_cluster_that_was_lent_to_its_maker_is_made_once_more(tmp_path: Path) -> None:
    """The owner of what a killed start left is the user that initdb ran as."""
    new = tmp_path / "data.new"
    new.mkdir()
    (new / "PG_VERSION").touch()
    os.chown(new, NOBODY, NOBODY)
    with embedded.postgresql(tmp_path / "data"):
        assert not new.exists()


def test_a_folder_of_somebody_elses_keeps_its_mode(tmp_path: Path) -> None:
    """It is refused before anything is done to it."""
    (tmp_path / "home").mkdir(mode=0o755)
    (tmp_path / "home" / "file").touch()
    before = owners_and_modes(tmp_path / "home")
    with pytest.raises(NotOurFolder):
        run_dev(tmp_path / "home", TABLES, reset=True, console=Stopping())
    assert owners_and_modes(tmp_path / "home") == before


@pytest.mark.parametrize("server", ["postgresql", "redis"])
def test_the_server_of_a_killed_process_is_stopped_by_the_next(tmp_path: Path, server: str) -> None:
    """kill -9 leaves it running on the data; two on one folder would be the end of them."""
    program = "import sys, time, pathlib; from ledgerq import embedded\n"
    program += "with getattr(embedded, sys.argv[1])(pathlib.Path(sys.argv[2])) as url:\n"
    program += "  print(url, flush=True); time.sleep(600)"
    command = [sys.executable, "-c", program, server, str(tmp_path / "data")]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, cwd=Path(embedded.__file__).parents[2]
    ) as first:
        assert first.stdout
        assert first.stdout.readline()
        first.kill()
    (left,) = [each for each in psutil.process_iter(["cmdline"]) if _runs_in(each, tmp_path)]
    with getattr(embedded, server)(tmp_path / "data"):
        assert not left.is_running() or left.status() == psutil.STATUS_ZOMBIE
    assert [each for each in psutil.process_iter(["cmdline"]) if _runs_in(each, tmp_path)] == []


@pytest.mark.parametrize("server", ["postgresql", "redis"])
def test_a_process_that_got_the_number_of_an_old_server_lives_on(
    tmp_path: Path, server: str
) -> None:
    """Numbers of processes come again: the one in the file may be anybody, even one that names the folder."""
    folder = tmp_path / "data"
    with getattr(embedded, server)(folder):
        pass
    pid_file = folder / {"postgresql": "postmaster.pid", "redis": "redis.pid"}[server]
    innocent = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    editor = subprocess.Popen([sys.executable, "-c", "input()", str(folder)], stdin=subprocess.PIPE)
    try:
        for bystander in (innocent, editor):
            pid_file.write_text(str(bystander.pid))
            stop_stale(pid_file, server, {os.geteuid()}, signal.SIGTERM)
            with pytest.raises(subprocess.TimeoutExpired):
                bystander.wait(0.2)
    finally:
        for bystander in (innocent, editor):
            bystander.kill()
            bystander.communicate()


def test_the_servers_live_in_folders_with_odd_and_long_names(tmp_path: Path) -> None:
    """A Unix socket's path has room for about a hundred plain characters; its folder may have any name."""
    folder = tmp_path / "my project, 'quoted'" / ("x" * 120)
    with embedded.servers(folder) as running:
        assert redis_sync.Redis.from_url(running.redis_url).ping()
        assert "postgres" in running.database_url


def test_a_redis_with_a_port_wants_a_password(tmp_path: Path) -> None:
    """Whoever else finds the port gets nothing; the password is in no command line."""
    with embedded.redis(tmp_path / "redis", tcp=True) as url:
        password = url.split("@")[0].removeprefix("redis://:")
        with (
            redis_sync.Redis.from_url(url) as client,
            redis_sync.Redis.from_url(url.replace(f":{password}@", "")) as stranger,
        ):
            assert client.ping()
            with pytest.raises(redis_sync.AuthenticationError):
                stranger.ping()
        (server,) = [each for each in psutil.process_iter(["cmdline"]) if _runs_in(each, tmp_path)]
        assert password not in " ".join(server.cmdline())


@pytest.mark.parametrize(
    ("said", "taken"),
    [
        ("Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64", True),
        ("Redis server v=7.0.15 sha=00000000:0 malloc=libc bits=64", False),
        ("Redis server v=6.0.16 sha=00000000:0 malloc=jemalloc-5.2.1 bits=64", False),
        ("", False),
    ],
)
def test_a_server_with_jemalloc_is_found_on_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, taken: bool
) -> None:
    """By what it says of itself; an older Redis is left alone."""
    program = tmp_path / "redis-server"
    program.write_text(f"#!/bin/sh\necho '{said}'\n")
    program.chmod(0o755)
    monkeypatch.setattr("ledgerq.embedded.both.shutil.which", _only(program))
    assert _server_with_jemalloc() == (program if taken else None)


def test_an_error_of_who_uses_the_servers_stays_what_it_is(tmp_path: Path) -> None:
    """A broken connection in the block is not a server that does not start."""
    with pytest.raises(ConnectionResetError), embedded.servers(tmp_path / "dev"):
        raise ConnectionResetError


@as_root
def test_root_without_setpriv_is_told_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line: PostgreSQL does not run as root."""
    monkeypatch.setattr("shutil.which", lambda name: None)
    server = embedded.postgresql(tmp_path / "data")
    with pytest.raises(EmbeddedServerError, match=r"does not run as root.*set DATABASE_URL"):
        server.__enter__()


@as_root
@pytest.mark.parametrize("missing", ["setuid", "chown", "setpcap", "dac_override"])
def test_root_without_its_rights_is_told_what_to_do(tmp_path: Path, missing: str) -> None:
    """A container may take them away: one line, and the folder can be used when they are back."""
    program = "import sys, pathlib; from ledgerq import embedded\n"
    program += "try: embedded.postgresql(pathlib.Path(sys.argv[1])).__enter__()\n"
    program += "except embedded.EmbeddedServerError as error: print(error)"
    fewer = [f"--bounding-set=-{missing}", "--inh-caps=-all"]
    done = subprocess.run(
        ["/usr/bin/setpriv", *fewer, sys.executable, "-c", program, str(tmp_path / "data")],
        cwd=Path(embedded.__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.endswith("as another user than root, or set DATABASE_URL\n"), done.stderr
    assert done.stdout.count("\n") == 1
    assert (tmp_path / "data").stat().st_uid == 0


class Stopped(Exception):
    """Instead of a worker."""


class Stopping(Console):
    """Ends `ledgerq dev` where it explains what runs."""

    def print(self, *objects: object, **how: object) -> None:
        if "Running" in str(objects[0]):
            raise Stopped


def _only(program: Path) -> Callable[[str], str | None]:
    return lambda name: str(program) if name == program.name else None


def _runs_in(process: psutil.Process, folder: Path) -> bool:
    """True for a server whose command line names the folder."""
    words = process.info["cmdline"] or [""]
    return Path(words[0]).name in {"postgres", "valkey-server"} and any(
        str(folder) in word for word in words
    )


def _reached_by(user: int, *paths: str) -> str:
    return subprocess.run(
        [ANY_PYTHON, "-c", TRY_ALL, *paths],
        user=user,
        group=user,
        extra_groups=[],
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    ).stdout
