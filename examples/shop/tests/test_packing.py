"""What the jobs do to an order. The fixture `job_tester` is ledgerq's."""

from datetime import timedelta
from uuid import uuid4

import pytest

from db.models import Order, Task
from jobs.mail import MailCustomer
from jobs.packing import ChaseTasks, PackOrder
from jobs.resources import Resources
from ledgerq.testing import JobNotCompleted, JobTester


async def test_an_order_is_packed_once(job_tester: JobTester, order: Order) -> None:
    """However often the job is delivered: one task, one mail staged, an entry for each change."""
    task_id = await job_tester.run(PackOrder(order_id=order.id), job_id="pack")
    await job_tester.deliver_again("pack")
    assert [task.id for task in await job_tester.rows(Task)] == [task_id]
    assert await job_tester.staged() == [MailCustomer(order_id=order.id, news="is being packed")]
    entries = await job_tester.entries("pack")
    assert [(each.entity_type, each.action) for each in entries] == [
        ("shop_order", "update"),
        ("task", "create"),
    ]


async def test_the_customer_is_told(
    job_tester: JobTester, order: Order, resources: Resources
) -> None:
    """The test's own mailbox stands in for that of the worker."""
    await job_tester.run(PackOrder(order_id=order.id))
    await job_tester.run_staged()
    [mail] = resources.mailbox.folder.iterdir()
    assert mail.read_text() == "To: ada@example.com\n\nDear Ada, your teapot is being packed.\n"


async def test_a_task_that_waits_for_a_day_is_urgent(job_tester: JobTester, order: Order) -> None:
    """And is not counted again."""
    await job_tester.run(PackOrder(order_id=order.id))
    assert await job_tester.run(ChaseTasks()) == 0
    job_tester.advance(timedelta(hours=25))
    assert await job_tester.run(ChaseTasks()) == 1
    assert await job_tester.run(ChaseTasks()) == 0


async def test_an_order_that_is_not_there_is_not_tried_again(job_tester: JobTester) -> None:
    """It becomes a dead letter."""
    with pytest.raises(JobNotCompleted, match="there is no order"):
        await job_tester.run(PackOrder(order_id=uuid4()))
