"""Many jobs wait in a step on one worker: what that costs in memory, and that it holds no connection."""

import re
import time
from pathlib import Path

from rich.console import Console

from jobs.kinds import CreateTask
from tests.chaos.outside_kinds import ChaosWaits
from tests.chaos.report import Bar, Report
from tests.chaos.run import finish
from tests.chaos.staged_jobs import stage_jobs
from tests.chaos.world import World, world

LEASE = 15.0
WARM = 50  # jobs that come first, so that what each worker needs anyway is there
QUICK = 50
LOOKS = 3.0  # seconds
MEGABYTES = 60.0  # for 1,000 jobs that wait

_IN_TRANSACTION = """
SELECT pid FROM pg_stat_activity
WHERE application_name LIKE 'ledgerq:%' AND xact_start < now() - interval '1 s'
"""


def waiting(seed: int, folder: Path, report: Report, out: Console, *, jobs: int = 1_000) -> None:
    """All of them are asked for at once, and other jobs run beside them; then the party answers."""
    folder.mkdir()
    settings = {"LEDGERQ_MAX_OUTSIDE": str(jobs)}
    with world(folder, seed, lease=LEASE, rate=1, workers=1, **settings) as made:
        made.party.answer_at_once()
        _stage(made, "warm", WARM)
        made.drain(60)
        before = _megabytes(made)
        made.party.held = {"charge"}
        _stage(made, "wait", jobs)
        if not made.party.wait_for("charge", WARM + jobs, 100):
            report.violations.append("waiting: not all jobs come to their step")
        growth = _megabytes(made) - before
        held = most_in_transaction(made, LOOKS)
        if not _others_end(made):
            report.violations.append("waiting: jobs that do not wait have not ended")
        made.party.let_go.set()
        report.bars += [
            Bar(f"connections in a transaction while {jobs:,} jobs wait in a step", held, 0),
            Bar("MB of memory for 1,000 jobs that wait in a step", growth / jobs * 1000, MEGABYTES),
        ]
        finish(made, report, "waiting", 120, out)
        asked = len(made.party.calls)
        if asked != WARM + jobs:
            report.violations.append(
                f"waiting: the party was asked {asked} times for {WARM + jobs} jobs"
            )


def _others_end(made: World) -> bool:
    """Jobs that come behind those that wait are done beside them."""
    quick = {
        f"quick-{n}": CreateTask(title=f"№ {n}", project_id=made.project) for n in range(QUICK)
    }
    stage_jobs(made, quick)
    deadline = time.monotonic() + 30
    while (ended := _ended(made)) < WARM + QUICK and time.monotonic() < deadline:
        time.sleep(0.1)
    return ended == WARM + QUICK


def most_in_transaction(made: World, seconds: float) -> int:
    """The most connections of the workers that are in a transaction for longer than a second, in that time."""
    until, most = time.monotonic() + seconds, 0
    while time.monotonic() < until:
        most = max(most, len(made.postgresql.fetch(_IN_TRANSACTION)))
        time.sleep(0.05)
    return most


def _stage(made: World, name: str, jobs: int) -> None:
    payload = ChaosWaits(project_id=made.project, url=made.party.url)
    stage_jobs(made, {f"{name}-{n}": payload for n in range(jobs)})


def _ended(made: World) -> int:
    rows = made.postgresql.fetch(
        "SELECT count(*) AS n FROM ledgerq.processed_job WHERE state = 'done'"
    )
    return int(rows[0]["n"])


def _megabytes(made: World) -> float:
    """The resident memory of the worker."""
    [pid] = made.fleet.pids()
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found
    return int(found[1]) / 1024
