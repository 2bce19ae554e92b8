"""A service as its author types it. mypy's strict mode, basedpyright's strict mode and these assertions hold its types.

The examples in docstrings are checked as parts of it: tests/acceptance/test_docstrings.py.
"""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import assert_type
from uuid import UUID, uuid4

from sqlmodel import Field, SQLModel, select

from ledgerq import (
    Action,
    App,
    Audited,
    BrokerConfig,
    Change,
    Database,
    DatabaseConfig,
    DefinitionError,
    EnqueuedJob,
    JobClient,
    JobContext,
    Kind,
    LedgerqError,
    Origin,
    Outside,
    Payload,
    Permanent,
    Recurring,
    Refused,
    Request,
    RetryLater,
    Sessions,
    Snooze,
    StagedJob,
    Unique,
    acting_as,
    in_transaction,
    job,
    open_database,
    savepoint,
    stage,
    stage_many,
    transaction,
)
from ledgerq.sessions import BulkUpdate, LedgerqSession, lock_rows
from ledgerq.testing import JobTester, OutsideCall

ORDER = UUID(int=1)


class Order(SQLModel, table=True):
    """A table of the service's own."""

    id: UUID = Field(default_factory=uuid4, primary_key=True)
    number: int = 0
    customer: str = ""
    status: str = "open"


class Card(SQLModel, table=True):
    """Another one, with a column that the audit log masks."""

    id: UUID = Field(default_factory=uuid4, primary_key=True)
    number: str
    note: str = ""


@dataclass
class Clients:
    """What the service's handlers use beside the database."""

    greeting: str

    async def address_of(self, customer: str) -> str:
        """Asks somebody."""
        return customer

    def now(self) -> int:
        """A plain function, which runs in a thread."""
        return 0


class CloseOrder(Payload[int], kind="close_order"):
    """Answers with the order's number."""

    order_id: UUID


class SendInvoice(Payload[None], kind="send_invoice"):
    """Answers with nothing."""

    order_id: UUID


class SendReport(Payload, kind="send_report", queue="reports"):
    """Says nothing of its answer."""


@job(timeout=5)
async def close_order(context: JobContext[Clients], close: CloseOrder) -> int:
    """Handlers know the session, the resources and the payload."""
    assert_type(context.session, LedgerqSession)
    assert_type(context.resources, Clients)
    assert_type(context.origin, Origin)
    order = (await context.session.exec(select(Order).where(Order.id == close.order_id))).one()
    assert_type(order, Order)
    assert_type(await context.stage(SendInvoice(order_id=order.id)), StagedJob)
    await context.record(Change.of(order, {"status": "open"}, {"status": "closed"}, Action.UPDATE))
    return order.number


@close_order.many
async def close_orders(
    contexts: Sequence[JobContext[Clients]], closes: Sequence[CloseOrder]
) -> list[int]:
    """The same for many."""
    session = contexts[0].session
    orders = await lock_rows(session, Order, {close.order_id for close in closes})
    async with BulkUpdate(session) as updates:
        for context, order in zip(contexts, orders.values(), strict=True):
            order.status = "closed"
            updates.add(order, context.origin)
    return [order.number for order in orders.values()]


@job
async def send_invoice(context: JobContext[Clients], send: SendInvoice) -> None:
    """A handler says in which way it fails."""
    order = await context.session.get(Order, send.order_id)
    if order is None:
        raise Refused("order_id", "there is no such order")
    if order.status == "open":
        raise RetryLater(30)
    if not order.customer:
        raise Permanent("the order has no customer")


async def order_of(session: LedgerqSession, order_id: UUID) -> Order:
    """Reads in a session that is opened for it."""
    return await session.get_one(Order, order_id)


async def find_address(outside: Outside[Clients], send: SendInvoice) -> str:
    """What is done outside of the database answers in its own type."""
    assert_type(await outside.read(order_of, send.order_id), Order)
    assert_type(await outside.step("address", outside.resources.address_of, "Ada"), str)
    assert_type(await outside.call(outside.resources.now), int)
    assert_type(outside.cursor("rows", [0]), list[int])
    return outside.key("address")


@job(outside=find_address)
async def send_letter(context: JobContext[Clients], send: SendInvoice, address: str) -> None:
    """The handler's third argument is that answer."""


@job(shares_commit=True)
async def send_report(context: JobContext, send: SendReport) -> None:
    """A context whose resources have any type."""
    raise Snooze(60)


@asynccontextmanager
async def open_resources() -> AsyncGenerator[Clients]:
    """What the application yields to its handlers."""
    yield Clients("Hello")


app = App(
    jobs=[close_order, send_invoice, send_report],
    schedule=[Recurring(SendReport, hour=6)],
    metadata=[SQLModel.metadata],
    audited=[Order, Audited(Card, mask={"number"})],
    resources=open_resources,
)
assert_type(close_order, Kind[CloseOrder, int])
assert_type(send_letter, Kind[SendInvoice, None])


async def produce(redis: BrokerConfig, tester: JobTester) -> None:
    """Producers and tests get the type that the payload names."""
    close = CloseOrder(order_id=ORDER)
    async with JobClient.open(redis) as client:
        enqueued = await client.enqueue(close, unique=Unique("close", timedelta(hours=1)))
        assert_type(enqueued, EnqueuedJob[int])
        assert_type(await enqueued.result(), int)
        assert_type(await client.job("close:1", CloseOrder).result(), int)
        await client.enqueue_many([close, Request(SendReport(), actor="clock")])
        await client.enqueue(Card(number="4"))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    assert_type(await tester.run(close), int)
    assert_type(await tester.rows(Order), Sequence[Order])
    await tester.crash(close, job_id="close:1", moment="before commit")
    await tester.crash(close, job_id="close:1", moment="after record", step="address")
    await tester.crash(close, job_id="close:1", moment="after record")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    assert_type(await tester.calls("close:1"), list[OutsideCall])
    assert_type(tester.key("address", job_id="close:1"), str)


async def write(config: DatabaseConfig) -> None:
    """Endpoints stage in their own transaction."""
    async with open_database(config, app.tables) as database:
        assert_type(database, Database)
        await in_transaction(database.sessions, place)
        async with transaction(database.sessions) as session:
            assert_type(session, LedgerqSession)
            assert_type(await stage_many(session, [SendReport()]), list[StagedJob])


async def place(session: LedgerqSession) -> StagedJob:
    """All of it, or nothing."""
    order = Order(customer="Ada")
    async with acting_as(session, Origin("user:42")), savepoint(session):
        session.add(order)
    return await stage(session, CloseOrder(order_id=order.id), delay=timedelta(minutes=5))


def name_of(error: LedgerqError, sessions: Sessions) -> str:
    """Errors carry what they say as data."""
    return error.what if isinstance(error, DefinitionError) else type(error).__name__
