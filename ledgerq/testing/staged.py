"""The staged jobs of a tester: which are due, as `ledgerq.store.outbox.take_due` has it, and which run together."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime

from ledgerq.errors import Undecodable
from ledgerq.execution.delivery import Delivery
from ledgerq.execution.interventions import staged_envelope
from ledgerq.execution.registry import Registry
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


def groups(
    deliveries: Sequence[Delivery], registry: Registry, batch: int
) -> Sequence[Sequence[Delivery]]:
    """Cut deliveries into those that are processed together: at most `batch` first ones in a row of a kind that shares commits."""
    groups: list[list[Delivery]] = []
    before = ""
    for delivery in deliveries:
        kind = _kind_of(delivery)
        if kind in registry.batchable_kinds and kind == before and len(groups[-1]) < batch:
            groups[-1].append(delivery)
        else:
            groups.append([delivery])
        before = kind
    return groups


def _kind_of(delivery: Delivery) -> str:
    """The kind of a first delivery; '' for a later one, or if the body can't be read."""
    with suppress(Undecodable):
        if delivery.is_first:
            return delivery.envelope.kind
    return ""
