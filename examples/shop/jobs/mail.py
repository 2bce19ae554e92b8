"""Mail to customers. It leaves the database, so it has jobs of its own, on a queue of its own."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from db.models import Customer, Order
from ledgerq import Change, JobContext, Payload, job


@dataclass(frozen=True)
class Mailbox:
    """A folder of mail to be sent. One name is one mail, so a job that is tried again sends nothing twice."""

    folder: Path

    async def put(self, name: str, to: str, text: str) -> None:
        """Write a mail, or write it again."""
        path = self.folder / f"{name}.eml"
        await asyncio.to_thread(path.write_text, f"To: {to}\n\n{text}\n")


@asynccontextmanager
async def open_mailbox() -> AsyncIterator[Mailbox]:
    """The resources of the worker: opened at its start, not for each job."""
    folder = Path(os.environ.get("SHOP_MAILBOX", "mailbox"))
    await asyncio.to_thread(folder.mkdir, exist_ok=True)
    yield Mailbox(folder)


class MailCustomer(Payload[None], kind="mail_customer", queue="mail"):
    """Tell a customer how the order is."""

    order_id: UUID
    news: str


@job
async def mail_customer(context: JobContext[Mailbox], mail: MailCustomer) -> None:
    """The mail is no row, so the handler itself puts on record that it was written."""
    order = await context.session.get_one(Order, mail.order_id)
    customer = await context.session.get_one(Customer, order.customer_id)
    text = f"Dear {customer.name}, your {order.item} {mail.news}."
    await context.resources.put(f"{order.id} {mail.news}", customer.email, text)
    await context.record(Change.of(order, {}, {"news": mail.news}, "mailed"))
