"""A slice of the fault suite, and the suite's test of itself, in a process of their own: see tests/chaos."""

import subprocess
import sys

import pytest

from tests.acceptance.processes import ROOT

SEED = "20261123"


@pytest.mark.timeout(240)
def test_nothing_is_lost_doubled_or_cut_in_half() -> None:
    """Guests misbehave while workers, Redis, PostgreSQL and the network are broken, and two bugs are caught."""
    command = (sys.executable, "-m", "tests.chaos", "--slice", "--seed", SEED)
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
