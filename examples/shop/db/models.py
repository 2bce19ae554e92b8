"""Products, customers, their orders, and the tasks that orders make for the warehouse."""

from datetime import datetime
from uuid import UUID, uuid4

from sqlmodel import Field, SQLModel

from ledgerq.columns import UtcDateTime


class Product(SQLModel, table=True):
    """What can be ordered, as the supplier names it."""

    name: str = Field(primary_key=True)
    price: int  # in cents


class Customer(SQLModel, table=True):
    """Who orders."""

    id: UUID = Field(default_factory=uuid4, primary_key=True)
    name: str
    email: str


class Order(SQLModel, table=True):
    """One item for a customer. It is `placed`, `paid`, `packing`, `sent`."""

    __tablename__ = "shop_order"  # ORDER is a word of SQL

    id: UUID = Field(default_factory=uuid4, primary_key=True)
    customer_id: UUID = Field(foreign_key="customer.id")
    item: str
    price: int  # in cents, when it was placed
    status: str = "placed"
    charge_id: str | None = None  # of the payment service


class Task(SQLModel, table=True):
    """Work for a packer: put one order into a parcel."""

    id: UUID = Field(default_factory=uuid4, primary_key=True)
    order_id: UUID = Field(foreign_key="shop_order.id", unique=True)
    created_at: datetime = Field(sa_type=UtcDateTime)
    is_done: bool = False
    is_urgent: bool = False
