"""The staged jobs of a tester: which are due, as `ledgerq.store.outbox.take_due` has it."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime

from ledgerq.execution.interventions import staged_envelope
from ledgerq.store.tables import OutboxMessage
from ledgerq.wire.envelope import encode


def body_of(message: OutboxMessage) -> bytes:
    """The body of a staged job, as a relay puts it on Redis."""
    return encode(replace(staged_envelope(message), staged=True))


def due(messages: Sequence[OutboxMessage], until: datetime) -> Iterator[OutboxMessage]:
    """Those of all staged messages, in the order staged, that are due. Of one ordering key, only the oldest is ever due."""
    taken = set()
    for message in messages:
        key = message.ordering_key
        if key not in taken and message.next_dispatch_at <= until:
            yield message
        if key is not None:
            taken.add(key)
