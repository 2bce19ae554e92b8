"""The table of contents: what `ledgerq worker` runs, what is audited, what runs by the clock."""

from sqlmodel import SQLModel

from db.models import Customer, Order, Product, Task
from jobs.catalogue import ImportProducts, import_products
from jobs.mail import mail_customer
from jobs.packing import ChaseTasks, chase_tasks, pack_order
from jobs.payment import charge_card
from jobs.resources import open_resources
from ledgerq import App, Audited, Recurring

app = App(
    jobs=[charge_card, pack_order, mail_customer, chase_tasks, import_products],
    schedule=[Recurring(ChaseTasks, minute={0, 30}), Recurring(ImportProducts, hour=4)],
    metadata=[SQLModel.metadata],
    audited=[Order, Task, Product, Audited(Customer, mask={"email"})],
    resources=open_resources,
)
