"""`ledgerq.testing`, by the task manager's own handlers: what it shows is what a worker would do."""

import subprocess
import sys
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from db.models import Project, Task
from jobs.kinds import CreateProject, CreateTask, DeleteTask, PurgeDeletedTasks
from ledgerq import App, JobContext, Payload, job
from ledgerq.errors import MissingReference
from ledgerq.execution.outcome import Buried, Completed, Duplicate
from ledgerq.staging import stage
from ledgerq.store.tables import DeadLetter, JobState, ProcessedJob
from ledgerq.testing import JobNotCompleted, JobTester


async def test_a_job_answers_and_leaves_rows_and_entries(job_tester: JobTester) -> None:
    """As in a worker; a failed one raises what its handler raised, as the cause."""
    project = await job_tester.run(CreateProject(name="Launch"), job_id="p")
    task: int = await job_tester.run(CreateTask(title="Write", project_id=project), job_id="t")
    assert [(each.id, each.title) for each in await job_tester.rows(Task)] == [(task, "Write")]
    [entry] = await job_tester.entries("t")
    assert (entry.actor, entry.action, entry.entity_id) == ("test", "create", str(task))
    with pytest.raises(JobNotCompleted, match=r"job bad: create_task was buried \(refused\)") as no:
        await job_tester.run(CreateTask(title="x", project_id=99), job_id="bad")
    assert isinstance(no.value.outcome, Buried)
    assert isinstance(no.value.__cause__, MissingReference)
    assert [each.job_id for each in await job_tester.rows(DeadLetter)] == ["bad"]
    assert len(await job_tester.entries()) == 2


async def test_a_job_is_done_once_however_often_it_is_delivered(job_tester: JobTester) -> None:
    """The second answer is the first one."""
    first = await job_tester.run(CreateProject(name="Launch"), job_id="a")
    assert await job_tester.deliver_again("a") == Duplicate(JobState.DONE, first)
    assert await job_tester.run(CreateProject(name="Launch"), job_id="a") == first
    assert len(await job_tester.rows(Project)) == 1


async def test_a_crash_before_the_commit_leaves_nothing(job_tester: JobTester) -> None:
    """So the next delivery does the work."""
    await job_tester.crash(CreateProject(name="Launch"), job_id="a", moment="before commit")
    assert (await job_tester.rows(Project), await job_tester.rows(ProcessedJob)) == ([], [])
    assert isinstance(await job_tester.deliver_again("a"), Completed)
    assert len(await job_tester.rows(Project)) == 1


async def test_a_crash_after_the_commit_leaves_all_of_it(job_tester: JobTester) -> None:
    """So the next delivery is a duplicate."""
    await job_tester.crash(CreateProject(name="Launch"), job_id="a", moment="after commit")
    assert len(await job_tester.rows(Project)) == 1
    [project] = await job_tester.rows(Project)
    assert await job_tester.deliver_again("a") == Duplicate(JobState.DONE, project.id)


class Fail(Payload[set[int]], kind="fail"):
    """A payload."""

    fails: bool = False


@job
async def fail(context: JobContext, order: Fail) -> set[int]:
    """Fails as it is told."""
    if order.fails:
        raise ValueError("so it is")
    return {1, 2}


def own_tester(given: JobTester, *jobs: Any) -> JobTester:
    """A tester of these jobs, on the same database."""
    url = given.database.config.url.render_as_string(hide_password=False)
    return JobTester(App(jobs=jobs), url)


@pytest.mark.parametrize("moment", ["before commit", "after commit"])
async def test_a_job_that_fails_before_its_crash_is_told(
    job_tester: JobTester, moment: Any
) -> None:
    """The test would go on as if the worker had died at the commit."""
    own = own_tester(job_tester, fail)
    with pytest.raises(JobNotCompleted, match="so it is"):
        await own.crash(Fail(fails=True), job_id="a", moment=moment)


async def test_what_a_test_misspells_is_told(job_tester: JobTester) -> None:
    """With what it may say."""
    own = own_tester(job_tester, fail)
    with pytest.raises(ValueError, match="say 'before commit' or 'after commit'"):
        await own.crash(Fail(), job_id="a", moment="after  commit")  # type: ignore[arg-type]
    with pytest.raises(LookupError, match="has delivered no job 'nope'; run it first"):
        await own.deliver_again("nope")


async def test_staged_jobs_answer_in_their_types(job_tester: JobTester) -> None:
    """As those do that `run` runs."""
    own = own_tester(job_tester, fail)
    async with own.transaction() as session:
        await stage(session, Fail())
    assert await own.run(Fail()) == {1, 2}
    assert await own.run_staged() == [{1, 2}]


class Remind(Payload[str], kind="remind"):
    """A payload that goes on with another one."""

    times: int = 1


@job
async def remind(context: JobContext[str], reminder: Remind) -> str:
    """Stages the next one, some days later."""
    if reminder.times:
        await context.stage(Remind(times=reminder.times - 1), delay=timedelta(days=3))
    return f"{context.resources} on {context.now:%Y}"


async def test_what_is_staged_runs_when_it_is_due(job_tester: JobTester) -> None:
    """Time passes when the test says so; `context.now` goes with it."""

    @asynccontextmanager
    async def resources() -> Any:
        yield "mail"

    own = JobTester(App(jobs=[remind], resources=resources), str(job_tester.database.config.url.render_as_string(hide_password=False)))  # fmt: skip
    assert await own.run(Remind()) == f"mail on {datetime.now(UTC):%Y}"
    assert await own.staged() == [Remind(times=0)]
    assert await own.run_staged() == []
    own.advance(timedelta(days=800))
    own.resources = "fake mail"
    assert await own.run_staged() == [f"fake mail on {datetime.now(UTC) + timedelta(days=800):%Y}"]
    assert await own.staged() == []


async def test_parts_go_on_until_all_is_done(job_tester: JobTester) -> None:
    """A job that goes on is staged, and run as staged."""
    project = await job_tester.run(CreateProject(name="Launch"))
    for n in range(3):
        task = await job_tester.run(CreateTask(title=f"t{n}", project_id=project))
        await job_tester.run(DeleteTask(task_id=task))
    assert await job_tester.run(PurgeDeletedTasks(older_than_days=0, limit=2)) == 2
    assert await job_tester.run_staged() == [1]
    assert await job_tester.rows(Task) == []


SERVICE_TEST = """
from jobs.kinds import CreateProject


async def test_a_project_is_created(job_tester):
    assert await job_tester.run(CreateProject(name="Launch")) == 1


async def test_each_test_has_a_database_of_its_own(request):
    job_tester = request.getfixturevalue("job_tester")
    assert await job_tester.run(CreateProject(name="Launch")) == 1
"""


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_the_plugin_is_there_where_ledgerq_is_installed(tmp_path: Path, database: str) -> None:
    """Nothing but the fixture's name is needed; the ini option chooses the database."""
    root = Path(__file__).resolve().parents[2]
    (tmp_path / f"test_{uuid4().hex}.py").write_text(SERVICE_TEST)
    options = [
        "-o",
        "asyncio_mode=auto",
        "-o",
        "asyncio_default_fixture_loop_scope=function",
        "-o",
        f"ledgerq_database={database}",
        "-W",
        "error",
    ]
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-c", "/dev/null", "--rootdir", str(tmp_path), *options, str(tmp_path)],
        cwd=root, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "2 passed" in ran.stdout, ran.stdout + ran.stderr
