"""`ledgerq dev`: servers and a worker that keep their data from run to run."""

import os
import re
import signal
import sys
from pathlib import Path

import pytest

from tests.acceptance.processes import Process
from tests.acceptance.test_command_line import ledgerq

pytestmark = pytest.mark.timeout(180)


def run_once(folder: Path, payload: str, *flags: str) -> str:
    """Start it, enqueue from another process with the URLs that it printed, stop it; the answer."""
    dev = Process(
        [sys.executable, "-m", "worker", "dev", "--folder", str(folder), *flags],
        {**os.environ, "LEDGERQ_LOG_FORMAT": "json"},
    )
    try:
        dev.wait_for("worker.started", seconds=60)
        told = "\n".join(dev.lines)
        env = dict(re.findall(r"export (\w+)='?([^'\n]+)'?", told))
        assert env.keys() == {"DATABASE_URL", "REDIS_URL"}
        assert "ledgerq enqueue" in told
        command = ["enqueue", "create_project", "--payload", payload, "--wait", "20", "--json"]
        result = ledgerq(*command, env=env)
        assert result.returncode == 0, result.stderr
        dev.signal(signal.SIGINT)
        assert dev.wait(60) == 0
    finally:
        dev.close()
    return result.stdout


def test_the_data_is_kept_between_runs_and_wiped_on_request(tmp_path: Path) -> None:
    """The second run goes on counting where the first one stopped; --reset starts over."""
    assert '"result": 1' in run_once(tmp_path / "dev", '{"name": "One"}')
    assert '"result": 2' in run_once(tmp_path / "dev", '{"name": "Two"}')
    assert '"result": 1' in run_once(tmp_path / "dev", '{"name": "One"}', "--reset")
    processes = [each / "cmdline" for each in Path("/proc").iterdir() if each.name.isdigit()]
    assert not [each for each in processes if str(tmp_path) in _read(each)]


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""  # it ended meanwhile
