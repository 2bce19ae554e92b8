"""Mail to customers. It leaves the database, so it has jobs of its own, on a queue of its own."""

from uuid import UUID

from db.models import Customer, Order
from jobs.resources import Resources
from ledgerq import Change, JobContext, Payload, job


class MailCustomer(Payload[None], kind="mail_customer", queue="mail"):
    """Tell a customer how the order is."""

    order_id: UUID
    news: str


@job
async def mail_customer(context: JobContext[Resources], mail: MailCustomer) -> None:
    """The mail is no row, so the handler itself puts on record that it was written."""
    order = await context.session.get_one(Order, mail.order_id)
    customer = await context.session.get_one(Customer, order.customer_id)
    text = f"Dear {customer.name}, your {order.item} {mail.news}."
    await context.resources.mailbox.put(f"{order.id} {mail.news}", customer.email, text)
    await context.record(Change.of(order, {}, {"news": mail.news}, "mailed"))
