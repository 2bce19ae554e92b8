"""A job's walk through the code, from claim to acknowledge."""

import asyncio
import re
import sys
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any

from jobs.kinds import CreateTask
from ledgerq.client import JobClient
from ledgerq.config import Config
from ledgerq.database.engine import Sessions
from tests.support import halt, new_project, our_worker
from worker.app import app

ROOT = Path(__file__).resolve().parents[2]
WALK = [  # docs/how-it-works.md
    "ledgerq/worker/worker.py",
    "ledgerq/worker/executor.py",
    "ledgerq/execution/process.py",
    "ledgerq/database/transaction.py",
]
BESIDE = {  # what runs beside the job
    "ledgerq/backoff.py", "ledgerq/broker/notifier.py", "ledgerq/broker/relay.py", "ledgerq/runtime/background_tasks.py",
}  # fmt: skip
NOT_ON_IT = {  # steps that a plain job that succeeds does not have, and the heartbeat, which has a thread of its own
    "ledgerq/execution/outside.py", "ledgerq/store/outbox.py", "ledgerq/execution/retry.py", "ledgerq/worker/heartbeat.py",
    "ledgerq/worker/renewals.py",
}  # fmt: skip
MOST = 52  # files that a job of ours enters; 44, and what chance adds of the parts beside it


def name_of(frame: FrameType) -> str:
    """The file of the frame's code; '' if it is not one of the repository."""
    path = Path(frame.f_code.co_filename)
    is_ours = path.is_relative_to(ROOT) and ".venv" not in path.parts
    return path.relative_to(ROOT).as_posix() if is_ours else ""


def is_beside(frame: FrameType | None) -> bool:
    """True if something beside the job has called this, such as the relay."""
    while frame and name_of(frame) not in BESIDE:
        frame = frame.f_back
    return frame is not None


def named_in_the_docs() -> set[str]:
    """The Python files in the table of the walk, from claim to acknowledge."""
    page = (ROOT / "docs" / "how-it-works.md").read_text()
    table = page[page.index("| claim |") : page.index("## How a worker stops")]
    return set(re.findall(r"ledgerq/[\w/]+\.py", table))


async def test_a_job_is_followed_in_the_four_files_that_the_docs_name(
    config: Config, client: JobClient, sessions: Sessions
) -> None:
    """They are entered in that order; the others that the table of its steps names serve them, and no more come unnoticed."""
    project_id = await new_project(sessions)
    worker = our_worker(config, app.registry(), handle_signals=False)
    running = asyncio.create_task(worker.main())
    await (await client.enqueue(CreateTask(title="first", project_id=project_id))).result(
        timeout=20
    )
    entered: dict[str, None] = {}

    def note(frame: FrameType, event: str, _: Any) -> None:
        path = name_of(frame)
        # a commit has a task of its own: the relay's, which nothing in its frames tells, may come before the job's
        is_anothers = path == WALK[-1] and WALK[-2] not in entered
        if event == "call" and path and not is_anothers and not is_beside(frame):
            entered.setdefault(path)

    soon = timedelta(seconds=0.2)  # so that no worker claims it before its way is noted
    job = await client.enqueue(CreateTask(title="followed", project_id=project_id), delay=soon)
    sys.setprofile(note)
    try:
        while not worker.tasks:
            await asyncio.sleep(0)
        await asyncio.wait(worker.tasks.values())
    finally:
        sys.setprofile(None)
    await job.result(timeout=20)
    await halt(worker, running)
    ours = [path for path in entered if not path.startswith("tests/")]
    assert [path for path in ours if path in WALK] == WALK
    assert named_in_the_docs() - NOT_ON_IT <= set(ours)
    assert len(ours) <= MOST, ours
