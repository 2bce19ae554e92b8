"""A webhook hears that a task is assigned. The worker knows the webhook: it is the resources of the jobs, or None."""

from collections.abc import Sequence
from typing import Literal, Protocol

from pydantic import AwareDatetime, BaseModel

from db import task_reads
from db.errors import NotFound
from db.inputs import Id, Moment
from ledgerq import Change, JobContext, Outside, Payload, Request, job, stage_many


class Assignee(BaseModel):
    """The worker to whom the task is assigned."""

    id: int
    name: str


class Assignment(BaseModel):
    """What the event tells of the task."""

    task_id: int
    title: str
    assignee: Assignee


class TaskAssigned(BaseModel):
    """The event, in the form of Standard Webhooks: its type, when it happened, its data."""

    type: Literal["task.assigned"] = "task.assigned"
    timestamp: AwareDatetime
    data: Assignment


class Webhook(Protocol):
    """Where events are posted."""

    async def post(self, event: BaseModel, *, idempotency_key: str, attempt: int) -> int:
        """Post an event in one attempt. Returns the status of the answer, 200 to 299.

        Raises:
            Permanent: the webhook refuses the event.
            RetryLater: it did not take the event now.
        """


class NotifyAssignee(Payload[str], kind="notify_assignee"):
    """A task, to whom it was assigned, and when. The job answers with a sentence on who was notified."""

    task_id: Id
    assignee_id: Id
    assigned_at: Moment


async def stage_notifications(
    contexts: Sequence[JobContext[Webhook | None]], assigned: Sequence[tuple[int, int | None]]
) -> None:
    """If there is a webhook, stage a `NotifyAssignee` for each assignment of a task to a worker, in few statements.

    Args:
        contexts: of the jobs that assign, all in one transaction.
        assigned: for each of the contexts the task and the assignee, who may be nobody.
    """
    if contexts[0].resources is None:
        return
    staged = [
        Request(
            NotifyAssignee(task_id=task_id, assignee_id=assignee_id, assigned_at=context.now),
            actor=context.origin.actor,
            trace_id=context.origin.trace_id or None,
        )
        for context, (task_id, assignee_id) in zip(contexts, assigned, strict=True)
        if assignee_id is not None
    ]
    await stage_many(contexts[0].session, staged)


async def event_of(
    context: JobContext[Webhook | None], notify: NotifyAssignee
) -> TaskAssigned | None:
    """The event; None if the task is deleted, or is no longer the assignee's."""
    try:
        task = await task_reads.get(context.session, notify.task_id)
    except NotFound:
        return None
    if task.assignee is None or task.assignee.id != notify.assignee_id:
        return None
    assignee = Assignee(id=task.assignee.id, name=task.assignee.name)
    data = Assignment(task_id=task.id, title=task.title, assignee=assignee)
    return TaskAssigned(timestamp=notify.assigned_at, data=data)


async def post_event(outside: Outside[Webhook | None], notify: NotifyAssignee) -> str | None:
    """Post the event to the webhook. Returns None, or why nobody is to be notified.

    What the event says is recorded before the first call: one idempotency key stands for one body.
    """
    webhook = outside.resources
    if webhook is None:
        return "TASKMANAGER_WEBHOOK_URL is not set"
    event = await outside.transaction("event", event_of, notify)
    if event is None:
        return f"task {notify.task_id} is no longer assigned to worker {notify.assignee_id}"
    key = outside.key("post")
    await outside.step("post", webhook.post, event, idempotency_key=key, attempt=outside.attempt)
    return None


@job(outside=post_event, timeout=60)
async def notify_assignee(
    context: JobContext[Webhook | None], notify: NotifyAssignee, why_not: str | None
) -> str:
    """Put on record that the webhook has the event."""
    if why_not:
        return f"nobody is notified: {why_not}"
    notified = {"assignee_id": notify.assignee_id}
    await context.record(Change("task", notify.task_id, "notify", {}, notified))
    return f"worker {notify.assignee_id} is notified of task {notify.task_id}"
