"""The job `notify_assignee`, from the assignment to what the webhook is sent; the webhook's HTTP is simulated."""

import json
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator
from hashlib import sha256
from hmac import HMAC

import httpx
import pytest

from db.inputs import TaskChanges
from jobs.kinds import (
    CATALOGUE,
    AssignTask,
    CreateProject,
    CreateTask,
    CreateWorker,
    DeleteTask,
    NotifyAssignee,
    UpdateTask,
)
from ledgerq.errors import DeadLetterReason
from ledgerq.execution.outcome import Buried, Completed, Retry
from ledgerq.execution.process import process
from ledgerq.execution.registry import Registry
from ledgerq.execution.retry import Policy
from ledgerq.tables import DeadLetter
from ledgerq.testing import JobTester
from tests.support import delivery
from worker.webhook import HttpWebhook

URL = "https://hooks.example.com/hunter2"
KEYS = [b"first".ljust(24), b"second".ljust(24)]


class Receiver:
    """The webhook's side. It answers what it is told to, else 204."""

    def __init__(self) -> None:
        self.requests: list[httpx.Request] = []
        self.answers: list[httpx.Response | Exception] = []

    def answer(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = self.answers.pop(0) if self.answers else httpx.Response(204)
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
async def receiver(job_tester: JobTester) -> AsyncIterator[Receiver]:
    """The webhook of this test's jobs."""
    receiver = Receiver()
    async with httpx.AsyncClient(transport=httpx.MockTransport(receiver.answer)) as client:
        job_tester.resources = HttpWebhook(client, URL, KEYS, timeout=5)
        yield receiver


@pytest.fixture
async def assignment(job_tester: JobTester) -> AssignTask:
    """Task 1 to worker 1."""
    project_id = await job_tester.run(CreateProject(name="Launch"))
    task_id = await job_tester.run(CreateTask(title="Write", project_id=project_id))
    worker_id = await job_tester.run(CreateWorker(name="Ada"))
    return AssignTask(task_id=task_id, assignee_id=worker_id)


@pytest.fixture
async def notify(
    job_tester: JobTester, receiver: Receiver, assignment: AssignTask
) -> NotifyAssignee:
    """The job that an assignment has staged."""
    await job_tester.run(assignment)
    [staged] = await job_tester.staged()
    assert isinstance(staged, NotifyAssignee)
    return staged


async def test_an_assignment_is_posted_once_and_put_on_record(
    job_tester: JobTester, receiver: Receiver, notify: NotifyAssignee
) -> None:
    """The event says which task is whose since when."""
    assert await job_tester.run_staged() == ["worker 1 is notified of task 1"]
    [request] = receiver.requests
    event = json.loads(request.content)
    assert event.pop("timestamp") == notify.assigned_at.isoformat().replace("+00:00", "Z")
    assert event == {
        "type": "task.assigned",
        "data": {"task_id": 1, "title": "Write", "assignee": {"id": 1, "name": "Ada"}},
    }
    told = [each for each in await job_tester.entries() if each.action == "notify"]
    assert [(each.entity_type, each.entity_id, each.after) for each in told] == [
        ("task", "1", {"assignee_id": 1})
    ]


async def test_each_post_is_signed_with_each_key(
    job_tester: JobTester, receiver: Receiver, notify: NotifyAssignee
) -> None:
    """Over the id, the time of the attempt and the body, as Standard Webhooks has it."""
    await job_tester.run(notify)
    [request] = receiver.requests
    headers = request.headers
    assert headers["Idempotency-Key"] == headers["webhook-id"]
    content = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + request.content
    signed = [each.removeprefix("v1,") for each in headers["webhook-signature"].split()]
    assert signed == [b64encode(HMAC(key, content, sha256).digest()).decode() for key in KEYS]
    assert all(len(b64decode(each)) == 32 for each in signed)


async def test_without_a_webhook_an_assignment_stages_nothing(
    job_tester: JobTester, assignment: AssignTask
) -> None:
    """And whoever enqueues the job by hand is told so."""
    await job_tester.run(assignment)
    assert await job_tester.staged() == []
    [task] = [each for each in await job_tester.entries() if each.action == "update"]
    by_hand = NotifyAssignee(task_id=1, assignee_id=1, assigned_at=task.at)
    answer = await job_tester.run(by_hand, job_id="by-hand")
    assert answer == "nobody is notified: TASKMANAGER_WEBHOOK_URL is not set"
    assert await job_tester.entries("by-hand") == []


async def test_who_has_lost_the_task_meanwhile_is_not_notified(
    job_tester: JobTester, receiver: Receiver, notify: NotifyAssignee
) -> None:
    """Nor is nobody, whose task it is now."""
    await job_tester.run(AssignTask(task_id=1, assignee_id=None))
    assert await job_tester.run_staged() == [
        "nobody is notified: task 1 is no longer assigned to worker 1"
    ]
    assert receiver.requests == []


async def test_assignments_of_one_batch_are_all_notified(
    job_tester: JobTester, receiver: Receiver, assignment: AssignTask
) -> None:
    """Workers run many of these jobs in one transaction."""
    second = await job_tester.run(CreateTask(title="Read", project_id=1))
    batch = [assignment, AssignTask(task_id=second, assignee_id=1)]
    deliveries = [delivery(each, f"assign-{each.task_id}") for each in batch]
    registry = Registry(CATALOGUE, job_tester.resources)
    outcomes = await process(deliveries, registry, job_tester.database.sessions, Policy())
    assert all(isinstance(each, Completed) for each in outcomes)
    await job_tester.run_staged()
    posted = [json.loads(request.content)["data"]["title"] for request in receiver.requests]
    assert sorted(posted) == ["Read", "Write"]


async def test_nobody_is_notified_of_a_deleted_task(
    job_tester: JobTester, receiver: Receiver, notify: NotifyAssignee
) -> None:
    """It is no longer to be done."""
    await job_tester.run(DeleteTask(task_id=1))
    assert "no longer" in await job_tester.run(notify)
    assert receiver.requests == []


async def test_each_attempt_posts_the_same_body_with_the_same_key(
    job_tester: JobTester, receiver: Receiver, notify: NotifyAssignee
) -> None:
    """Also if the task was renamed in between: receivers refuse a key with another body."""
    receiver.answers = [httpx.Response(500), httpx.ReadTimeout("slow"), httpx.ConnectError("no")]
    pauses = []
    for _ in range(3):
        outcome = await job_tester.outcome(notify, job_id="notify")
        assert isinstance(outcome, Retry)
        pauses.append(outcome.delay)
        changes = TaskChanges(title=f"renamed {len(pauses)} times")
        await job_tester.run(UpdateTask(task_id=1, changes=changes))
    assert pauses == [5, 300, 1800]
    assert isinstance(await job_tester.outcome(notify, job_id="notify"), Completed)
    assert len({request.content for request in receiver.requests}) == 1
    assert len({request.headers["Idempotency-Key"] for request in receiver.requests}) == 1
    assert len(receiver.requests) == 4


async def test_a_worker_that_dies_after_the_post_does_not_post_again(
    job_tester: JobTester, receiver: Receiver, notify: NotifyAssignee
) -> None:
    """The answer was recorded."""
    await job_tester.crash(notify, job_id="notify", moment="before commit")
    assert isinstance(await job_tester.deliver_again("notify"), Completed)
    assert len(receiver.requests) == 1


async def test_a_refusal_is_final(
    job_tester: JobTester, receiver: Receiver, notify: NotifyAssignee
) -> None:
    """The dead letter says what the webhook answered, and not where the webhook is."""
    receiver.answers = [httpx.Response(410)]
    outcome = await job_tester.outcome(notify)
    assert isinstance(outcome, Buried)
    assert outcome.reason == DeadLetterReason.PERMANENT
    [letter] = await job_tester.rows(DeadLetter)
    problem = "the webhook answered 410"
    assert letter.problems == [{"field": "webhook", "problem": problem}]
    assert "hunter2" not in f"{letter.error}{letter.traceback}"
