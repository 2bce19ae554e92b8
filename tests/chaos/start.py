"""Starts the suite's Python processes: each anew, or forked from one that has imported the libraries.

The slice that the test suite runs forks them: of what a worker costs that lives for a second, imports are most.
"""

import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from tests.acceptance import forked

ROOT = Path(__file__).resolve().parents[2]
Started: TypeAlias = subprocess.Popen[bytes] | forked.Popen


@dataclass
class _How:
    forking: bool = False


how = _How()


def start(
    words: Sequence[str], environment: Mapping[str, str], log: Path, *, anew: bool = False
) -> Started:
    """Start `python` with these words; what it says goes to the log. A forked process has a session of its own.

    Args:
        words: its arguments.
        environment: its environment.
        log: a file, which is emptied.
        anew: do not fork it: it changes what it imports.
    """
    with log.open("wb") as output:
        if how.forking and not anew:
            file = output.fileno()
            return forked.Popen(
                words, env=environment, cwd=ROOT, stdout=file, stderr=file, start_new_session=True
            )
        command = (sys.executable, *words)
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=output)


def run(words: Sequence[str], environment: Mapping[str, str]) -> "subprocess.CompletedProcess[str]":
    """Run `python` with these words to its end, in a minute at most."""
    if how.forking:
        return forked.run(words, env=environment, cwd=ROOT, seconds=60)
    return subprocess.run(
        (sys.executable, *words),
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
