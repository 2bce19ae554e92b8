"""ledgerq's tables, to read them in your own queries. Only ledgerq writes to them.

```python
newest = select(tables.DeadLetter).order_by(col(tables.DeadLetter.id).desc()).limit(10)
letters = (await session.exec(newest)).all()
```
"""

from ledgerq.store.dead_letters import find as find_dead_letter
from ledgerq.store.inbox import find as find_receipt
from ledgerq.store.tables import (
    METADATA,
    AuditLog,
    DeadLetter,
    JobState,
    OutboxMessage,
    ProcessedJob,
    UniqueKey,
)

__all__ = [
    "METADATA",
    "AuditLog",
    "DeadLetter",
    "JobState",
    "OutboxMessage",
    "ProcessedJob",
    "UniqueKey",
    "find_dead_letter",
    "find_receipt",
]
