"""The audit log: who changed what, in which job. Written in the transaction of the change, append-only."""

from ledgerq.store.audit import Change, Origin, history, of_job, record, record_many
from ledgerq.store.tables import Action, AuditLog

__all__ = [
    "Action",
    "AuditLog",
    "Change",
    "Origin",
    "history",
    "of_job",
    "record",
    "record_many",
]
