"""For a service's own reads and writes: the database, sessions, transactions, errors by name.

```python
async with sessions.build_database(DatabaseConfig()).sessions() as session:
    with sessions.translated():  # a broken constraint is an error with a name: ledgerq.errors
        await sessions.insert_rows(session, Order, [{"id": order.id, "number": 7, "customer": "Ada"}])
```
"""

from ledgerq.database.bulk_insert import insert_returning_ids, insert_rows
from ledgerq.database.engine import (
    Database,
    Sessions,
    Tables,
    build_database,
    open_database,
)
from ledgerq.database.session import LedgerqSession
from ledgerq.database.settings import DatabaseConfig
from ledgerq.database.sqlstate import connecting, know, translated
from ledgerq.database.transaction import in_transaction, savepoint, transaction
from ledgerq.store.row_updates import BulkUpdate, lock_rows
from ledgerq.store.writes import (
    deferred_writes,
    flush,
    naming_references,
    reading_others,
    write,
)

__all__ = [
    "BulkUpdate",
    "Database",
    "DatabaseConfig",
    "LedgerqSession",
    "Sessions",
    "Tables",
    "build_database",
    "connecting",
    "deferred_writes",
    "flush",
    "in_transaction",
    "insert_returning_ids",
    "insert_rows",
    "know",
    "lock_rows",
    "naming_references",
    "open_database",
    "reading_others",
    "savepoint",
    "transaction",
    "translated",
    "write",
]
