"""`ledgerq init NAME` makes a service that runs as it stands: its test, its migrations, its job."""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ledgerq.cli.init import init
from ledgerq.errors import UsageError
from ledgerq.store.versions import NEWEST
from tests.acceptance import forked
from tests.acceptance.processes import Process

pytestmark = pytest.mark.timeout(180)


def run(folder: Path, *words: str, env: dict[str, str] | None = None) -> str:
    """A command in the folder; what it printed."""
    ran = forked.run(("-m", *words), cwd=folder, env={**os.environ, **(env or {})}, seconds=60)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A service as the command makes it."""
    folder = tmp_path_factory.mktemp("made")
    init = [sys.executable, "-m", "ledgerq", "init", "my-shop"]  # as a person starts it
    said = subprocess.run(init, cwd=folder, capture_output=True, text=True, check=True).stdout
    assert "cd my-shop" in said
    return folder / "my-shop"


@pytest.fixture
def service(made: Path, tmp_path: Path) -> Path:
    """That service, before anything has run in it."""
    return shutil.copytree(made, tmp_path / "my-shop")


def test_its_own_test_passes(service: Path) -> None:
    """With the fixture that ledgerq brings along."""
    assert "1 passed" in run(service, "pytest", "-q", "-p", "no:cacheprovider")


def test_its_history_knows_its_tables_and_no_others(
    service: Path, empty_postgresql_url: object
) -> None:
    """`--autogenerate` finds nothing to do."""
    url = empty_postgresql_url.render_as_string(hide_password=False)  # type: ignore[attr-defined]
    env = {"DATABASE_URL": url}
    assert f"version {NEWEST}, the app's own at 0001" in run(service, "ledgerq", "migrate", env=env)
    assert "No new upgrade operations" in run(service, "alembic", "check", env=env)


def test_it_runs_by_dev_and_does_a_job(service: Path) -> None:
    """From the README: `ledgerq dev`, and in another terminal `ledgerq enqueue`."""
    command = [sys.executable, "-m", "ledgerq", "dev"]
    dev = Process(
        command,
        {**os.environ, "LEDGERQ_LOG_FORMAT": "json"},
        start_new_session=True,
        cwd=service,
        anew=True,
    )
    try:
        dev.wait_for("worker.started", seconds=60)
        env = dict(re.findall(r"export (\w+)='?([^'\n]+)'?", "\n".join(dev.lines)))
        words = ["enqueue", "greet", "--payload", '{"name": "Ada"}', "--wait", "20"]
        assert "it answered 1" in run(service, "ledgerq", *words, env=env)
        os.killpg(dev.process.pid, signal.SIGINT)
        assert dev.wait(60) == 0
    finally:
        dev.close()


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        *((word, "Python has this word") for word in ("class", "import", "async")),
        *((name, "Python's library has one") for name in ("json", "typing", "asyncio")),
        *(
            (name, "one of this name is installed")
            for name in ("test", "ledgerq", "sqlmodel", "alembic", "pytest")
        ),
    ],
)
def test_a_module_that_python_would_not_import_is_not_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, problem: str
) -> None:
    """A keyword, or a module that comes before it."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=f"NAME: a module can't be named '{name}': {problem}"):
        init(name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["My Shop", "1shop", "../shop", "", "shop_"])
def test_a_name_that_is_none_is_refused(tmp_path: Path, name: str) -> None:
    """With the rule; a folder that is there already, too, and nothing in it is touched."""
    (tmp_path / "there").mkdir()
    for wrong in (name, "there"):
        ran = forked.run(("-m", "ledgerq", "init", wrong), env=os.environ, cwd=tmp_path, seconds=60)
        assert (ran.returncode, ran.stdout) == (2, "")
        assert "NAME" in ran.stderr
    assert [each.name for each in tmp_path.iterdir()] == ["there"]
