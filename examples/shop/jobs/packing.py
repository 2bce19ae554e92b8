"""The warehouse: an order becomes a task; a task that waits for too long becomes urgent."""

from datetime import timedelta
from uuid import UUID

from sqlmodel import not_, select

from db.models import Order, Task
from jobs.mail import MailCustomer
from ledgerq import JobContext, Payload, Permanent, job


class PackOrder(Payload[UUID], kind="pack_order"):
    """Have an order packed. The job answers with the id of the task."""

    order_id: UUID


class ChaseTasks(Payload[int], kind="chase_tasks"):
    """Mark old tasks as urgent. The job answers with how many. The schedule needs a default for each field."""

    after_hours: int = 24


@job
async def pack_order(context: JobContext, pack: PackOrder) -> UUID:
    """The task, the order's status, their audit entries and the job for the mail commit together."""
    order = await context.session.get(Order, pack.order_id, with_for_update=True)
    if order is None:
        raise Permanent(f"there is no order {pack.order_id}")  # trying again can't help
    task = Task(order_id=order.id, created_at=context.now)
    context.session.add(task)
    order.status = "packing"
    await context.stage(
        MailCustomer(order_id=order.id, news="is being packed"), job_id=f"shop:packing:{order.id}"
    )
    return task.id


@job
async def chase_tasks(context: JobContext, chase: ChaseTasks) -> int:
    """Changes objects, not by one UPDATE: so each task has its audit entry."""
    late = Task.created_at < context.now - timedelta(hours=chase.after_hours)
    waiting = select(Task).where(late, not_(Task.is_done), not_(Task.is_urgent)).with_for_update()
    tasks = (await context.session.exec(waiting)).all()
    for task in tasks:
        task.is_urgent = True
    return len(tasks)
