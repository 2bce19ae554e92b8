"""`ledgerq dev`: servers and a worker that keep their data from run to run."""

import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.acceptance.processes import Process, ledgerq, one_line

pytestmark = pytest.mark.timeout(180)


@contextmanager
def dev_process(folder: Path, *flags: str) -> Iterator[tuple[Process, dict[str, str]]]:
    """One that has started, in a process group of its own as in a terminal, and what it told to export."""
    command = [sys.executable, "-m", "ledgerq", "dev", "--folder", str(folder), *flags]
    dev = Process(command, {**os.environ, "LEDGERQ_LOG_FORMAT": "json"}, start_new_session=True)
    try:
        dev.wait_for("worker.started", seconds=60)
        told = "\n".join(dev.lines)
        env = dict(re.findall(r"export (\w+)='?([^'\n]+)'?", told))
        assert env.keys() == {"DATABASE_URL", "REDIS_URL"}
        assert "ledgerq kinds" in told
        yield dev, env
    finally:
        dev.close()


def interrupt(dev: Process) -> int:
    """Ctrl-C in a terminal: SIGINT to the whole group."""
    os.killpg(dev.process.pid, signal.SIGINT)
    return dev.wait(60)


def run_once(folder: Path, payload: str, *flags: str) -> str:
    """Start it, enqueue from another process with the URLs that it printed, stop it; the answer."""
    with dev_process(folder, *flags) as (dev, env):
        command = ["enqueue", "create_project", "--payload", payload, "--wait", "20", "--json"]
        result = ledgerq(*command, env=env)
        assert result.returncode == 0, result.stderr
        assert interrupt(dev) == 0
        assert dev.events[-1]["event"] == "worker.stopped"
        assert "Traceback" not in "\n".join(dev.lines)
    return result.stdout


def test_the_data_is_kept_between_runs_and_wiped_on_request(tmp_path: Path) -> None:
    """The second run goes on counting where the first one stopped; --reset starts over."""
    assert '"result": 1' in run_once(tmp_path / "dev", '{"name": "One"}')
    assert '"result": 2' in run_once(tmp_path / "dev", '{"name": "Two"}')
    (tmp_path / "dev" / "precious").touch()
    assert '"result": 1' in run_once(tmp_path / "dev", '{"name": "One"}', "--reset")
    assert (tmp_path / "dev" / "precious").exists()
    assert not left_running(tmp_path)


def test_one_folder_has_one_dev(tmp_path: Path) -> None:
    """A second one is refused, and the first one goes on."""
    with dev_process(tmp_path / "dev") as (dev, env):
        assert "runs in" in one_line(ledgerq("dev", "--folder", str(tmp_path / "dev")))
        assert "runs in" in one_line(ledgerq("dev", "--reset", "--folder", str(tmp_path / "dev")))
        assert ledgerq("health", "--worker", env=env).returncode == 0
        os.kill(dev.process.pid, signal.SIGHUP)  # the terminal is closed
        dev.wait(60)
    assert not left_running(tmp_path)


def test_a_worker_that_fails_fails_dev(tmp_path: Path) -> None:
    """The exit status says so."""
    folder = str(tmp_path / "dev")
    result = ledgerq("dev", "--folder", folder, env={"LEDGERQ_MAX_JOBS": "0"})
    assert result.returncode == 1
    assert "LEDGERQ_MAX_JOBS" in result.stderr
    assert not left_running(tmp_path)


def left_running(folder: Path) -> list[Path]:
    """The processes that have the folder in their command line."""
    processes = [each / "cmdline" for each in Path("/proc").iterdir() if each.name.isdigit()]
    return [each for each in processes if str(folder) in _read(each)]


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""  # it ended meanwhile
