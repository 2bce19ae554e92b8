"""Background jobs whose database effects happen exactly once, with the audit trail to prove it.

```python
class CloseOrder(Payload[int], kind="close_order"):
    order_id: UUID

@job
async def close_order(context: JobContext, close: CloseOrder) -> int:
    order = await context.session.get_one(Order, close.order_id, with_for_update=True)
    order.status = "closed"
    return order.number

app = App(jobs=[close_order], metadata=[SQLModel.metadata], audited=[Order])

async with JobClient.open() as client:
    number = await (await client.enqueue(CloseOrder(order_id=order.id))).result()
```
"""

from ledgerq.app import App
from ledgerq.audit import Action, Audited, Change, Origin, acting_as
from ledgerq.broker.settings import BrokerConfig
from ledgerq.client import EnqueuedJob, JobClient
from ledgerq.errors import DefinitionError, LedgerqError, Permanent, Refused, RetryLater, Snooze
from ledgerq.job import JobContext, Kind, job
from ledgerq.outside import Outside
from ledgerq.schedule import Recurring
from ledgerq.sessions import (
    Database,
    DatabaseConfig,
    Sessions,
    in_transaction,
    open_database,
    savepoint,
    transaction,
)
from ledgerq.staging import StagedJob, stage, stage_many
from ledgerq.wire.payload import Payload
from ledgerq.wire.request import Request, Unique

__all__ = [
    "Action",
    "App",
    "Audited",
    "BrokerConfig",
    "Change",
    "Database",
    "DatabaseConfig",
    "DefinitionError",
    "EnqueuedJob",
    "JobClient",
    "JobContext",
    "Kind",
    "LedgerqError",
    "Origin",
    "Outside",
    "Payload",
    "Permanent",
    "Recurring",
    "Refused",
    "Request",
    "RetryLater",
    "Sessions",
    "Snooze",
    "StagedJob",
    "Unique",
    "acting_as",
    "in_transaction",
    "job",
    "open_database",
    "savepoint",
    "stage",
    "stage_many",
    "transaction",
]
