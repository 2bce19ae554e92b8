"""The shop's HTTP service. An endpoint writes its rows and stages its job in one transaction of its own."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, TypeVar
from uuid import UUID

from fastapi import Depends, FastAPI, HTTPException
from pydantic import BaseModel

from db.models import Customer, Order, Product, Task
from jobs.mail import MailCustomer
from jobs.payment import ChargeCard
from ledgerq import DatabaseConfig, Origin, Sessions, acting_as, open_database, stage, transaction
from ledgerq.fastapi import get_session, get_sessions
from ledgerq.sessions import LedgerqSession
from worker.app import app

Row = TypeVar("Row")
Reading = Annotated[LedgerqSession, Depends(get_session)]
Writing = Annotated[Sessions, Depends(get_sessions)]


@asynccontextmanager
async def lifespan(api: FastAPI) -> AsyncIterator[None]:
    """The database is open while the service lives; `app.tables` lets its sessions audit."""
    async with open_database(DatabaseConfig(), app.tables) as database:
        api.state.database = database  # ledgerq.fastapi finds it here
        yield


api = FastAPI(title="Shop", lifespan=lifespan)


class NewCustomer(BaseModel):
    name: str
    email: str


class NewOrder(BaseModel):
    customer_id: UUID
    item: str
    card: str  # the payment service's token for it


@api.post("/customers", status_code=201)
async def register(new: NewCustomer, sessions: Writing) -> Customer:
    """No job; the audit entry commits with the row."""
    customer = Customer(name=new.name, email=new.email)
    async with transaction(sessions) as session, acting_as(session, _by(customer.id)):
        session.add(customer)
    return customer


@api.post("/orders", status_code=201)
async def place_order(new: NewOrder, sessions: Writing) -> Order:
    """The order and the job that charges the card exist both, or neither does."""
    by = _by(new.customer_id)
    async with transaction(sessions) as session, acting_as(session, by):
        await _find(session, Customer, new.customer_id)
        product = await _find(session, Product, new.item)
        order = Order(customer_id=new.customer_id, item=product.name, price=product.price)
        session.add(order)
        payment = ChargeCard(order_id=order.id, card=new.card)
        await stage(session, payment, job_id=f"shop:charge:{order.id}", actor=by.actor)
    return order


@api.get("/orders/{order_id}")
async def show_order(order_id: UUID, session: Reading) -> Order:
    """How far it is."""
    return await _find(session, Order, order_id)


@api.post("/tasks/{task_id}/done")
async def finish_task(task_id: UUID, packer: str, sessions: Writing) -> Order:
    """The parcel is on its way, and the customer is told so, once, however often the packer clicks."""
    by = Origin(f"packer:{packer}")
    async with transaction(sessions) as session, acting_as(session, by):
        task = await _find(session, Task, task_id)
        order = await _find(session, Order, task.order_id)
        task.is_done, order.status = True, "sent"
        news = MailCustomer(order_id=order.id, news="is on its way")
        await stage(session, news, job_id=f"shop:sent:{order.id}", actor=by.actor)
    return order


def _by(customer_id: UUID) -> Origin:
    """The author in the audit log."""
    return Origin(f"customer:{customer_id}")


async def _find(session: LedgerqSession, table: type[Row], key: UUID | str) -> Row:
    row = await session.get(table, key)
    if row is None:
        raise HTTPException(404, f"there is no {table.__name__.lower()} {key}")
    return row
