"""Transactional enqueue: a job is staged in the caller's transaction and exists if, and only if, that commits.

```python
await stage(session, CloseOrder(order_id=order.id), delay=timedelta(minutes=5), ordering_key=order.customer)
```
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from typing import Protocol
from weakref import WeakKeyDictionary

from sqlalchemy import Engine, event
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session, SessionTransaction

from ledgerq.database.own_schema import reach_our_tables
from ledgerq.database.sqlstate import translated
from ledgerq.errors import PayloadMismatch
from ledgerq.store import inbox, outbox, unique_keys
from ledgerq.store.outbox import Message
from ledgerq.store.tables import OutboxMessage
from ledgerq.wire.envelope import MAX_ROW, UNKNOWN_ACTOR, Envelope, encode
from ledgerq.wire.payload import Payload
from ledgerq.wire.queue_name import queue_of_process
from ledgerq.wire.request import Request, Unique, as_requests, require_storable


@dataclass(frozen=True, slots=True)
class StagedJob:
    """What `stage` answers. `is_new` is False if a job of this id or unique key was staged before, or has ended.

    Then nothing was staged, and `job_id` is the earlier job's id.

    ```python
    staged = await stage(session, CloseOrder(order_id=order.id))
    print(staged.job_id)  # known before the commit
    ```
    """

    job_id: str
    is_new: bool


class Sender(Protocol):
    """Puts staged jobs on their queues right after the commit, before a worker's relay does; a `JobClient` is one."""

    def queue_of(self, request: Request) -> str | None:
        """The key on Redis of the queue for this request's job; None if unknown here: then a worker's relay puts the job."""

    def send_soon(self, queue: str, job_id: str, body: bytes) -> None:
        """Put a job on its queue without waiting for it. If that fails, a worker's relay puts the job there later."""

    async def sent(self) -> None:
        """Wait until the jobs given to `send_soon` are sent or have failed; a few seconds at most. Does not fail itself."""


# then a relay puts the job on the queue, if it has not ended; as long as after a dispatch of the relay's own (`FIRST_PAUSE`)
_LEFT_TO_SENDER = timedelta(seconds=10)
_to_send: WeakKeyDictionary[SessionTransaction, list[Callable[[], None]]] = WeakKeyDictionary()


async def stage(
    session: AsyncSession,
    payload: Payload,
    *,
    job_id: str | None = None,
    delay: timedelta = timedelta(0),
    actor: str = UNKNOWN_ACTOR,
    trace_id: str | None = None,
    ordering_key: str | None = None,
    unique: Unique | None = None,
    queue: str | None = None,
    client: Sender | None = None,
) -> StagedJob:
    """Stage one job: it is enqueued when the session's transaction commits, and not if it rolls back.

    ```python
    async with transaction(sessions) as session:  # or any AsyncSession that you commit
        session.add(order)
        await stage(session, CloseOrder(order_id=order.id), job_id=f"close:{order.id}")
    ```

    Args:
        session: the caller's session; the job exists once the session's transaction commits.
        payload: what the job carries; its class names the kind.
        job_id: the idempotency key; None makes each call a new job.
        delay: how long the job waits before it may run, by the database's clock.
        actor: who asks for the job; written to the audit log.
        trace_id: written to the audit log beside the actor.
        ordering_key: jobs of one key run one after another, in the order staged. A job that is retried holds up the
            jobs of its key that were staged after it; a job that is buried lets them run.
        unique: while its window lasts, a second request of this kind and key stages nothing and returns the first job.
        queue: the queue for the job. None is the queue of the payload's class, else LEDGERQ_QUEUE of this process,
            else the queue that the workers' application gives to the kind, or their default queue.
        client: a `JobClient`, which puts the job on its queue right after the commit, and chooses the queue as its
            `enqueue` does. None leaves both to a worker's relay, which takes some milliseconds more, and which takes over
            if the client can't reach Redis.

    Raises:
        PayloadMismatch: a job of this id is staged, or has ended, with another payload.
        JobError: an argument is invalid; the error names it.
    """
    request = Request(payload, job_id, delay, actor, trace_id, ordering_key, unique, queue)
    return (await stage_many(session, [request], client=client))[0]


async def stage_many(
    session: AsyncSession,
    requests: Iterable[Request | Payload],
    *,
    client: Sender | None = None,
) -> list[StagedJob]:
    """Stage many jobs with few statements; the result is in the order of the requests. Raises as `stage` does.

    `client` puts the jobs on their queues right after the commit; None leaves that to a worker, some milliseconds later.
    Jobs with a delay or an ordering key are always left to a worker.

    ```python
    await stage_many(session, [CloseOrder(order_id=each.id) for each in orders])
    ```
    """
    wanted = as_requests(requests)
    with translated():
        await reach_our_tables(session)
        ids, theirs = await _ids_of(session, wanted)
        asked = list(zip(ids, wanted, strict=True))
        default = queue_of_process()
        sender = client if client and isinstance(session.get_bind(), Engine) else None
        staged = {i: _staged(i, request, default, sender) for i, request in reversed(asked)}
        named = [job_id for job_id, request in asked if request.may_exist]
        ended = await inbox.hashes(session, named)
        fresh = [staged[i][0] for i in dict.fromkeys(ids) if i not in ended and i not in theirs]
        added = await outbox.add(session, fresh)
        known = ended | _hashes(await outbox.find_many(session, named))
    for job_id, request in asked:
        there = known.get(job_id)  # empty for a job that was cancelled before it was known
        is_asked_for = request.unique is None or job_id == request.job_id
        if is_asked_for and there and there != request.envelope.payload_hash:
            raise PayloadMismatch(job_id)
    if sender:
        _send_after_commit(session, sender, {i: (staged[i][1], row) for i, row in added.items()})
    return [_answer(job_id, added) for job_id in ids]


def _answer(job_id: str, added: dict[str, int]) -> StagedJob:
    # if one call asks for a job twice, only the first answer is new
    return StagedJob(job_id, added.pop(job_id, None) is not None)


async def _ids_of(session: AsyncSession, requests: Sequence[Request]) -> tuple[list[str], set[str]]:
    """Take the unique keys of the requests. Returns each request's job id, and the ids of earlier jobs that hold a key.

    A request whose key an earlier job holds gets that job's id. Keys are taken in sorted order, so that two producers
    who want the same keys wait for each other and don't deadlock.
    """
    ids, theirs = [request.checked_id() for request in requests], set[str]()
    own = set(ids)
    keyed = [(r.payload.kind, r.unique, n) for n, r in enumerate(requests) if r.unique]
    for kind, unique, n in sorted(keyed, key=lambda each: (each[0], each[1].key)):
        holder = await unique_keys.take(session, kind, unique.key, ids[n], window=unique.window)
        if holder not in own:
            theirs.add(holder)
        ids[n] = holder
    return ids, theirs


def _hashes(messages: Iterable[OutboxMessage]) -> dict[str, bytes]:
    return {each.job_id: Envelope(each.kind, each.payload).payload_hash for each in messages}


def _staged(
    job_id: str, request: Request, default: str | None, sender: Sender | None
) -> tuple[Message, Envelope]:
    """The job's message, and its envelope, which has a row only if the sender puts the job on its queue."""
    envelope = replace(request.envelope, staged=True)
    delay, queue = request.delay, default if request.queue_name is None else request.queue_name
    if direct := sender and _direct_queue(request, sender):
        delay, queue = _LEFT_TO_SENDER, direct
        envelope = replace(envelope, row=MAX_ROW, queue=direct)  # the longest body that it may have
    require_storable(encode(envelope))
    message = Message(
        job_id=job_id,
        kind=envelope.kind,
        payload=dict(envelope.payload),
        actor=envelope.actor,
        trace_id=envelope.trace_id,
        ordering_key=request.ordering_key,
        delay=delay,
        queue=queue,
    )
    return message, envelope


def _direct_queue(request: Request, sender: Sender) -> str | None:
    """The queue on which the sender puts the job; None if the job is left to a relay."""
    if request.ordering_key is not None or request.delay:
        return None
    return sender.queue_of(request)


def _send_after_commit(
    session: AsyncSession, sender: Sender, added: Mapping[str, tuple[Envelope, int]]
) -> None:
    """Have the sender put added jobs on their queues when the session's transaction has been committed.

    `added`: job id → its envelope, and the number of its row. Those whose envelope has no row are left to a relay.
    """
    sync = session.sync_session
    transaction = sync.get_nested_transaction() or sync.get_transaction()
    if transaction is None:
        return
    event.listen(sync, "after_commit", _send)
    waiting = _to_send.setdefault(transaction, [])
    for job_id, (envelope, row) in added.items():
        if envelope.row is not None and envelope.queue:
            body = encode(replace(envelope, row=row))
            waiting.append(partial(sender.send_soon, envelope.queue, job_id, body))


def _send(session: Session) -> None:
    """Send what the transaction has staged that was committed just now. What a savepoint has staged waits for the commit.

    A savepoint that is rolled back takes its jobs with it. If the session was not told of that, a worker finds out.
    """
    savepoint = session.get_nested_transaction()
    ended = savepoint or session.get_transaction()
    waiting = _to_send.pop(ended, []) if ended else []
    if savepoint and savepoint.parent:
        _to_send.setdefault(savepoint.parent, []).extend(waiting)
        return
    for send in waiting:
        send()
