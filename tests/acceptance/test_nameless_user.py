"""A container may run as a number without a user, as on OpenShift: nothing ends in a traceback."""

import os
import subprocess
import sys

import pytest

from ledgerq.embedded.postgresql import as_user
from tests.acceptance.processes import ROOT

NAMELESS = 61_000

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")


def as_nameless(*command: str, database_url: str) -> "subprocess.CompletedProcess[str]":
    """A command as that number, which reaches this clone's files wherever it stands, and has no home."""
    return subprocess.run(
        [*as_user(NAMELESS), sys.executable, "-m", "ledgerq", *command],
        env={
            "PATH": os.environ["PATH"],
            "DATABASE_URL": database_url,
            "REDIS_URL": "redis://127.0.0.1:1",
        },
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("command", ["health", "worker", "migrate"])
def test_a_url_without_a_user_is_refused_in_one_line_where_nobody_has_a_name(command: str) -> None:
    """It names the variable and the cure."""
    ended = as_nameless(command, database_url="postgresql://127.0.0.1:1/app")
    assert ended.returncode == 1
    assert ended.stderr.startswith("ledgerq: DATABASE_URL: names no user")
    assert "or set PGUSER" in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_a_url_with_a_user_needs_no_name_on_the_system() -> None:
    """Nor a home folder."""
    ended = as_nameless("migrate", database_url="postgresql://me@127.0.0.1:1/app")
    assert "no answer from postgresql+asyncpg://me@127.0.0.1:1/app" in ended.stderr
    assert ended.stderr.count("\n") == 1
