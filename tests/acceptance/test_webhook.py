"""A real worker posts to a real receiver that someone is assigned a task; both are processes."""

import json
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from db.models import Task
from jobs.kinds import AssignTask, CreateProject, CreateTask, CreateWorker
from ledgerq.client import JobClient
from ledgerq.config import Config
from ledgerq.database.engine import Sessions
from ledgerq.store.tables import AuditLog
from tests.acceptance.processes import OURS, Process, environment, ledgerq, one_line, worker_process
from tests.support import eventually, rows

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


@contextmanager
def receiver(config: Config, *statuses: str) -> Iterator[tuple[Process, dict[str, str]]]:
    """The receiver, and the settings of a worker that is to post to it."""
    command = [sys.executable, "-m", "tests.acceptance.webhook_receiver", SECRET, *statuses]
    process = Process(command, environment(config))
    try:
        process.wait_for("listening")
        [listening] = process.named("listening")
        url = f"http://127.0.0.1:{listening['port']}/hunter2"
        yield process, {"TASKMANAGER_WEBHOOK_URL": url, "TASKMANAGER_WEBHOOK_SECRET": SECRET}
    finally:
        process.close()


async def test_an_assignment_reaches_the_webhook_though_it_is_busy_and_the_worker_is_killed(
    config: Config, client: JobClient, sessions: Sessions
) -> None:
    """Each attempt has the same id and body, and a signature of its own; on record it stands once."""
    with receiver(config, "503", "0", "204") as (webhook, settings):
        settings["LEDGERQ_LEASE"] = "3"  # a killed worker's jobs come back after it
        with worker_process(config, OURS, **settings) as worker:
            await assign(client)
            webhook.wait_for("received", times=2)
            worker.signal(signal.SIGKILL)
            worker.wait()
        with worker_process(config, OURS, **settings) as successor:
            webhook.wait_for("received", times=3)
            await eventually(lambda: notified(sessions))
        received = webhook.named("received")
    assert len({(each["id"], each["body"]) for each in received}) == 1
    assert [each["is_signed"] for each in received] == [True] * 3
    event = json.loads(received[0]["body"])
    [task] = await rows(sessions, Task)
    assignee = {"id": task.assignee_id, "name": "Ada"}
    assert event["type"] == "task.assigned"
    assert event["data"] == {"task_id": task.id, "title": "Write", "assignee": assignee}
    assert len(await notified(sessions)) == 1
    logged = "\n".join(worker.lines + successor.lines)
    assert "hunter2" not in logged
    assert SECRET not in logged


async def assign(client: JobClient) -> None:
    project = await client.enqueue(CreateProject(name="Launch"))
    new = CreateTask(title="Write", project_id=await project.result(timeout=20))
    task, ada = await client.enqueue(new), await client.enqueue(CreateWorker(name="Ada"))
    assignee_id = await ada.result(timeout=20)
    await client.enqueue(AssignTask(task_id=await task.result(timeout=20), assignee_id=assignee_id))


async def notified(sessions: Sessions) -> list[AuditLog]:
    return [each for each in await rows(sessions, AuditLog) if each.action == "notify"]


def test_a_worker_refuses_a_webhook_without_a_secret(config: Config) -> None:
    """It says so in one line, before it takes a job."""
    url = {"TASKMANAGER_WEBHOOK_URL": "https://hooks.example.com/hunter2"}
    refused = one_line(ledgerq("worker", env={**environment(config), **url}))
    assert "TASKMANAGER_WEBHOOK_SECRET: goes with TASKMANAGER_WEBHOOK_URL" in refused
