"""The table of contents: what `ledgerq worker` runs, what is audited, what runs by the clock."""

from sqlmodel import SQLModel

from db.models import Customer, Order, Task
from jobs.mail import mail_customer, open_mailbox
from jobs.packing import ChaseTasks, chase_tasks, pack_order
from ledgerq import App, Audited, Recurring

app = App(
    jobs=[pack_order, mail_customer, chase_tasks],
    schedule=[Recurring(ChaseTasks, minute=frozenset({0, 30}))],
    metadata=[SQLModel.metadata],
    audited=[Order, Task, Audited(Customer, mask={"email"})],
    resources=open_mailbox,
)
