"""The audit log: who changed what, in which job. Written in the transaction of the change, append-only.

```python
App(jobs=[close_order], audited=[Order, Audited(Card, mask={"number"})])  # by the session, or
await audit.record(session, origin, Change.created(order))  # by hand

entries = await audit.history(session, Order, order.id)
```
"""

from ledgerq.store.audit import Change, Origin, history, of_job, record, record_many
from ledgerq.store.audit_rules import Audited
from ledgerq.store.audit_statements import BY_HAND
from ledgerq.store.audited import acting_as
from ledgerq.store.entities import key_text
from ledgerq.store.tables import Action, AuditLog

__all__ = [
    "BY_HAND",
    "Action",
    "AuditLog",
    "Audited",
    "Change",
    "Origin",
    "acting_as",
    "history",
    "key_text",
    "of_job",
    "record",
    "record_many",
]
