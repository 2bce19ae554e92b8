"""A job's walk through the code, from claim to acknowledge."""

import asyncio
import re
import sys
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
}  # fmt: skip
MOST = 52  # files that a job of ours enters; 44, and what chance adds of the parts beside it


def named_in_the_docs() -> set[str]:
    """The Python files in the table of the walk, from claim to acknowledge."""
    page = (ROOT / "docs" / "how-it-works.md").read_text()
    table = page[page.index("| claim |") : page.index("## The packages")]
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
        path = Path(frame.f_code.co_filename)
        if event == "call" and path.is_relative_to(ROOT) and ".venv" not in path.parts:
            entered.setdefault(path.relative_to(ROOT).as_posix())

    job = await client.enqueue(CreateTask(title="followed", project_id=project_id))
    sys.setprofile(note)
    try:
        while not worker.tasks:
            await asyncio.sleep(0)
        await asyncio.wait(worker.tasks.values())
    finally:
        sys.setprofile(None)
    await job.result(timeout=20)
    await halt(worker, running)
    ours = [path for path in entered if not path.startswith("tests/") and path not in BESIDE]
    assert [path for path in ours if path in WALK] == WALK
    assert named_in_the_docs() - NOT_ON_IT <= set(ours)
    assert len(ours) <= MOST, ours
