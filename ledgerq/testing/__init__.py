"""Runs jobs in tests: in this process, on a real database, without Redis and without a worker.

With pytest there is nothing to set up: the fixture `job_tester` is a `JobTester` on a fresh database.

```python
async def test_an_order_is_closed(job_tester: JobTester) -> None:
    async with job_tester.transaction() as session:
        session.add(Order(id=ORDER, status="open"))
    assert await job_tester.run(CloseOrder(order_id=ORDER)) == 1
    [invoice] = await job_tester.staged()
    assert invoice == SendInvoice(order_id=ORDER)
```

A job takes the same steps as in a worker: receipt, handler behind its fence, outbox, commit or rollback, retry or
dead letter. There is no outer transaction: each commit is a real one.
"""

from ledgerq.testing.failure import JobNotCompleted
from ledgerq.testing.outside_calls import OutsideCall
from ledgerq.testing.tester import JobTester
from ledgerq.testing.worker import WorkerCrashed

__all__ = ["JobNotCompleted", "JobTester", "OutsideCall", "WorkerCrashed"]
