"""What each kind of the task manager does to the database, by the fixture that a service's tests use."""

from datetime import timedelta

import pytest

from db.inputs import NewTask, TaskChanges
from db.models import Project, Task, TaskStatus, Worker
from jobs.kinds import (
    AssignTask,
    BulkCreateTasks,
    ChangeTaskStatus,
    CreateProject,
    CreateTask,
    CreateWorker,
    DeleteTask,
    PurgeDeletedTasks,
    RestoreTask,
    UpdateTask,
)
from ledgerq import Payload
from ledgerq.errors import JobError, Refused
from ledgerq.tables import DeadLetter
from ledgerq.testing import JobNotCompleted, JobTester


@pytest.fixture
async def task_id(job_tester: JobTester) -> int:
    """A task of a project."""
    project_id = await job_tester.run(CreateProject(name="Launch"), job_id="project")
    new = CreateTask(title="Write", project_id=project_id, description="kept")
    return await job_tester.run(new, job_id="task")


async def changed(job_tester: JobTester, task_id: int) -> list[tuple[str, str | None]]:
    """The entries of a task: action and kind."""
    entries = await job_tester.entries()
    return [
        (each.action, each.kind)
        for each in entries
        if (each.entity_type, each.entity_id) == ("task", str(task_id))
    ]


async def test_a_new_task_is_a_row_and_an_entry(job_tester: JobTester, task_id: int) -> None:
    """Of that job and of who asked for it."""
    [task] = await job_tester.rows(Task)
    assert (task.id, task.title, task.status) == (task_id, "Write", TaskStatus.TODO)
    [entry] = await job_tester.entries("task")
    assert (entry.actor, entry.kind, entry.entity_id) == ("test", "create_task", str(task_id))
    assert entry.after["title"] == "Write"


@pytest.mark.parametrize("moment", ["before commit", "after commit"])
@pytest.mark.parametrize("payload", [CreateProject(name="Launch"), CreateWorker(name="Ada")])
async def test_a_crash_leaves_one_row_after_the_next_delivery(
    job_tester: JobTester, payload: Payload[int], moment: str
) -> None:
    """With one entry."""
    await job_tester.crash(payload, job_id="new", moment=moment)  # type: ignore[call-overload]
    await job_tester.deliver_again("new")
    rows = [*await job_tester.rows(Project), *await job_tester.rows(Worker)]
    assert (len(rows), len(await job_tester.entries("new"))) == (1, 1)


async def test_an_update_changes_what_it_names(job_tester: JobTester, task_id: int) -> None:
    """And writes an entry for it."""
    changes = TaskChanges(title="renamed", due_at=None)
    await job_tester.run(UpdateTask(task_id=task_id, changes=changes, expected_version=1))
    [task] = await job_tester.rows(Task)
    assert (task.title, task.description, task.version) == ("renamed", "kept", 2)
    assert await changed(job_tester, task_id) == [
        ("create", "create_task"),
        ("update", "update_task"),
    ]


async def test_an_update_of_an_old_version_is_buried(job_tester: JobTester, task_id: int) -> None:
    """Trying again would overwrite what somebody else wrote."""
    changes = TaskChanges(title="late")
    with pytest.raises(JobNotCompleted, match="expected_version"):
        await job_tester.run(UpdateTask(task_id=task_id, changes=changes, expected_version=7))
    [letter] = await job_tester.rows(DeadLetter)
    assert letter.problems[0]["field"] == "expected_version"


async def test_a_task_is_assigned_to_a_worker_and_taken_back(
    job_tester: JobTester, task_id: int
) -> None:
    """Nobody is an assignee, too."""
    worker_id = await job_tester.run(CreateWorker(name="Ada"))
    for assignee_id in (worker_id, None):
        await job_tester.run(AssignTask(task_id=task_id, assignee_id=assignee_id))
        [task] = await job_tester.rows(Task)
        assert task.assignee_id == assignee_id
    assert len(await changed(job_tester, task_id)) == 3


async def test_a_status_moves_on_and_not_past(job_tester: JobTester, task_id: int) -> None:
    """The dead letter of an illegal move says what is legal."""
    with pytest.raises(JobNotCompleted):
        await job_tester.run(ChangeTaskStatus(task_id=task_id, status=TaskStatus.DONE))
    [letter] = await job_tester.rows(DeadLetter)
    assert letter.problems == [
        {
            "field": "status",
            "problem": f"task {task_id} may not move from todo to done; "
            "from todo it may move to in_progress, blocked, cancelled",
        }
    ]
    await job_tester.run(ChangeTaskStatus(task_id=task_id, status=TaskStatus.IN_PROGRESS))
    [task] = await job_tester.rows(Task)
    assert task.status == TaskStatus.IN_PROGRESS


async def test_a_deleted_task_comes_back_with_its_subtasks(
    job_tester: JobTester, task_id: int
) -> None:
    """Both answer with all that they marked."""
    [task] = await job_tester.rows(Task)
    part = CreateTask(title="part", project_id=task.project_id, parent_task_id=task_id)
    part_id = await job_tester.run(part)
    assert await job_tester.run(DeleteTask(task_id=task_id)) == [task_id, part_id]
    assert await job_tester.run(RestoreTask(task_id=task_id)) == [task_id, part_id]
    assert [each.deleted_at for each in await job_tester.rows(Task)] == [None, None]


async def test_what_was_deleted_long_ago_goes_for_good(job_tester: JobTester, task_id: int) -> None:
    """The log keeps what it held."""
    await job_tester.run(DeleteTask(task_id=task_id))
    assert await job_tester.run(PurgeDeletedTasks()) == 0
    job_tester.advance(timedelta(days=31))
    assert await job_tester.run(PurgeDeletedTasks()) == 1
    assert await job_tester.rows(Task) == []
    assert [action for action, _ in await changed(job_tester, task_id)] == [
        "create",
        "delete",
        "purge",
    ]


async def test_many_tasks_are_created_or_none(job_tester: JobTester) -> None:
    """In one job, with an entry for each."""
    project_id = await job_tester.run(CreateProject(name="Launch"))
    news = [NewTask(title=title, project_id=project_id) for title in "ab"]
    made = await job_tester.run(BulkCreateTasks(tasks=news), job_id="two")
    assert [(each.id, each.title) for each in await job_tester.rows(Task)] == list(
        zip(made, "ab", strict=True)
    )
    assert len(await job_tester.entries("two")) == 2
    with pytest.raises(JobNotCompleted):
        await job_tester.run(BulkCreateTasks(tasks=[*news, NewTask(title="c", project_id=99)]))
    assert len(await job_tester.rows(Task)) == 2


@pytest.mark.parametrize(
    ("payload", "field"),
    [
        (CreateTask(title="x", project_id=99), "project_id"),
        (UpdateTask(task_id=99, changes=TaskChanges(title="x")), "task_id"),
        (AssignTask(task_id=99, assignee_id=None), "task_id"),
        (ChangeTaskStatus(task_id=99, status=TaskStatus.DONE), "task_id"),
        (DeleteTask(task_id=99), "task_id"),
        (RestoreTask(task_id=99), "task_id"),
    ],
)
async def test_what_is_not_there_is_named_in_a_dead_letter(
    job_tester: JobTester, payload: Payload[object], field: str
) -> None:
    """With the field of the payload; no row and no entry is left."""
    with pytest.raises(JobNotCompleted) as refused:
        await job_tester.run(payload)
    assert isinstance(refused.value.__cause__, Refused | JobError)
    [letter] = await job_tester.rows(DeadLetter)
    assert letter.problems[0]["field"] == field
    assert await job_tester.entries() == []
