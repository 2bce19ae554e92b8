"""Tables of a service that is not the task manager: plain SQLAlchemy and SQLModel, keys of all kinds."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import JSON, ForeignKey, LargeBinary, MetaData, Numeric, Text
from sqlalchemy.engine import URL
from sqlalchemy.ext.mutable import MutableDict, MutableList
from sqlalchemy.orm import DeclarativeBase, Mapped, deferred, mapped_column, registry, relationship
from sqlmodel import Field, SQLModel

from ledgerq.app import App
from ledgerq.audit import Audited
from ledgerq.columns import UtcDateTime
from ledgerq.database.engine import Database, build_database
from ledgerq.database.settings import DatabaseConfig


class Base(DeclarativeBase):
    """The parent of the plain ones."""


class Status(StrEnum):
    OPEN = "open"
    CLOSED = "closed"


class Order(Base):
    __tablename__ = "shop_order"
    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    status: Mapped[str] = mapped_column(Text, default="open")
    total: Mapped[Decimal] = mapped_column(Numeric(12, 2), default=Decimal(0))
    lines: Mapped[list[Any]] = mapped_column(MutableList.as_mutable(JSON), default=list)
    details: Mapped[dict[str, Any] | None] = mapped_column(MutableDict.as_mutable(JSON))
    placed_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    receipt: Mapped[bytes | None] = mapped_column(LargeBinary)
    note: Mapped[str | None] = deferred(mapped_column(Text))
    embedding: Mapped[Any] = mapped_column(JSON, nullable=True)
    parcels: Mapped[list["Parcel"]] = relationship(
        back_populates="order", cascade="all, delete-orphan", lazy="selectin"
    )


class Parcel(Base):
    __tablename__ = "shop_parcel"
    id: Mapped[int] = mapped_column(primary_key=True)
    order_id: Mapped[UUID] = mapped_column(ForeignKey("shop_order.id"))
    weight: Mapped[int] = mapped_column(default=1)
    order: Mapped[Order] = relationship(back_populates="parcels")


class Stock(Base):
    __tablename__ = "shop_stock"
    region: Mapped[str] = mapped_column(Text, primary_key=True)
    sku: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    amount: Mapped[int] = mapped_column(default=0)


class Person(Base):
    __tablename__ = "shop_person"
    id: Mapped[int] = mapped_column(primary_key=True)
    role: Mapped[str] = mapped_column(Text)
    name: Mapped[str] = mapped_column(Text)
    __mapper_args__ = {"polymorphic_on": "role", "polymorphic_identity": "person"}  # noqa: RUF012


class Clerk(Person):
    __tablename__ = "shop_clerk"
    id: Mapped[int] = mapped_column(ForeignKey("shop_person.id"), primary_key=True)
    desk: Mapped[str | None] = mapped_column(Text)
    __mapper_args__ = {"polymorphic_identity": "clerk"}  # noqa: RUF012


class Visit(Base):
    """Not audited."""

    __tablename__ = "shop_visit"
    id: Mapped[int] = mapped_column(primary_key=True)
    page: Mapped[str] = mapped_column(Text)


class ShopModel(SQLModel, registry=registry(metadata=MetaData())):
    """The parent of those of SQLModel."""


class Card(ShopModel, table=True):
    __tablename__ = "shop_card"
    id: int | None = Field(default=None, primary_key=True)
    number: str | None = None
    holder: str | None = None


METADATA = (Base.metadata, ShopModel.metadata)
AUDITED = (
    Audited(Order, exclude={"embedding"}),
    Audited(Card, mask={"number"}),
    Parcel,
    Stock,
    Person,
)


@asynccontextmanager
async def opened_shop(
    url: URL, audited: tuple[Any, ...] = AUDITED, jobs: tuple[Any, ...] = ()
) -> AsyncIterator[Database]:
    """The service's database, with its tables."""
    app = App(jobs=jobs, metadata=METADATA, audited=audited, forget_ended_jobs=False)
    database = build_database(DatabaseConfig(url=url), app.tables)
    try:
        async with database.engine.begin() as connection:
            for metadata in METADATA:
                await connection.run_sync(metadata.create_all)
        yield database
    finally:
        await database.dispose()
