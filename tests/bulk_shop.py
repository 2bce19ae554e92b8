"""Tables with all kinds of columns, names and defaults, for `insert_rows` and `BulkUpdate`."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, StrEnum
from typing import Any, ClassVar
from uuid import UUID, uuid4

import sqlalchemy as sa
from sqlalchemy import func, select, text
from sqlalchemy.dialects import postgresql
from sqlalchemy.engine import URL
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, registry
from sqlalchemy.types import TypeDecorator
from sqlmodel import Field, SQLModel

from ledgerq.columns import BigId, Json, UtcDateTime, choice
from ledgerq.database.engine import Database, Tables, open_database
from ledgerq.database.settings import DatabaseConfig


class Size(StrEnum):
    SMALL = "s"
    LARGE = "l"


class Colour(Enum):
    RED = 1
    BLUE = 2


class Reversed(TypeDecorator[str]):
    """Stands for a type that encrypts."""

    impl = sa.String(40)
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: sa.Dialect) -> str | None:
        return None if value is None else value[::-1]

    def process_result_value(self, value: str | None, dialect: sa.Dialect) -> str | None:
        return None if value is None else value[::-1]


class Twice(TypeDecorator[str]):
    """Decorates a type that decorates one."""

    impl = Reversed
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: sa.Dialect) -> str | None:
        return None if value is None else value * 2


class Point(TypeDecorator[complex]):
    """A value that JSON does not know."""

    impl = Json
    cache_ok = True

    def process_bind_param(self, value: complex | None, dialect: sa.Dialect) -> Any:
        return None if value is None else [value.real, value.imag]

    def process_result_value(self, value: Any, dialect: sa.Dialect) -> complex | None:
        return None if value is None else complex(*value)


class Lowered(TypeDecorator[str]):
    """SQL prepares its values."""

    impl = sa.Text
    cache_ok = True

    def bind_expression(self, bindvalue: Any) -> Any:
        return func.lower(bindvalue)


METADATA = sa.MetaData()
ONLY_POSTGRESQL = sa.MetaData()


class Base(SQLModel, registry=registry(metadata=METADATA)):
    metadata: ClassVar[sa.MetaData] = METADATA


class Special(DeclarativeBase):
    metadata = ONLY_POSTGRESQL


class User(Base, table=True):
    """Names that PostgreSQL reserves, that the statement uses itself, or that a text would take for parameters."""

    __tablename__ = "user"
    id: int | None = Field(default=None, primary_key=True)
    order: int
    row_number: int
    place: str
    value_0: str
    of_day: str = Field(sa_column=sa.Column("At:noon", sa.Text))


class Pair(Base, table=True):
    id: int = Field(primary_key=True)
    n: int


class Named(Base, table=True):
    id: str = Field(primary_key=True, sa_type=sa.Uuid(as_uuid=False))


class Ticket(Special):
    """The database makes the ids, in no order."""

    __tablename__ = "ticket"
    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=func.gen_random_uuid())
    n: Mapped[int]


class Labelled(Special):
    __tablename__ = "labelled"
    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=func.gen_random_uuid())
    n: Mapped[int]
    labels: Mapped[list[str]] = mapped_column(sa.ARRAY(sa.Text))


def seven() -> int:
    return 7


class Filled(Base, table=True):
    """Python knows the values of columns that a row leaves out."""

    id: int | None = Field(default=None, primary_key=True)
    name: str
    amount: int = 5
    token: UUID = Field(default_factory=uuid4)
    tags: Any = Field(default_factory=list, sa_type=Json)
    size: Size = Field(default=Size.LARGE, sa_type=sa.Enum(Size, native_enum=False))
    seven: int = Field(default_factory=seven)


class Copied(Base, table=True):
    """A default looks at the row."""

    id: int | None = Field(default=None, primary_key=True)
    name: str
    copy_of: str = Field(
        sa_column=sa.Column(
            sa.Text, default=lambda context: context.get_current_parameters()["name"]
        )
    )
    later: int = Field(sa_column=sa.Column(sa.Integer, default=sa.literal(3) + 4))


class Plain(DeclarativeBase):
    """The parent of classes whose rows SQLAlchemy completes."""

    metadata = METADATA


class Animal(Plain):
    __tablename__ = "animal"
    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str]
    name: Mapped[str]
    version = mapped_column(sa.Integer, nullable=False)
    __mapper_args__ = {"polymorphic_on": "kind", "version_id_col": version}  # noqa: RUF012


class Cat(Animal):
    __mapper_args__ = {"polymorphic_identity": "cat"}  # noqa: RUF012


def of_type(name: str, kind: Any, metadata: sa.MetaData = METADATA) -> type[Any]:
    """A class with one column `value` of this type."""
    parent = type(f"{name}Base", (DeclarativeBase,), {"metadata": metadata})
    columns = {
        "id": sa.Column(BigId, primary_key=True),
        "value": sa.Column(kind),
        "__tablename__": f"of_{name}",
    }
    return type(name, (parent,), columns)


NOON = datetime(2026, 3, 4, 12, tzinfo=UTC)
TYPES: dict[str, tuple[Any, list[Any]]] = {
    "secret": (Reversed, ["abc", None]),
    "twice": (Twice, ["abc", None]),
    "named": (sa.Enum(Size, native_enum=False), [Size.SMALL, None, Size.LARGE]),
    "chosen": (choice(Size, "size"), [Size.SMALL, "l", None]),
    "native": (sa.Enum(Colour), [Colour.BLUE, None]),
    "short": (sa.String(3), ["abc", ""]),
    "json": (Json, [{"a": [1, None]}, None, "x", []]),
    "json_null": (sa.JSON, [None, sa.JSON.NULL, 1]),
    "point": (Point, [1 + 2j, None]),
    "moment": (UtcDateTime, [NOON, None]),
    "text_id": (sa.Uuid(as_uuid=False), [str(UUID(int=7))]),
    "id": (sa.Uuid, [UUID(int=7), None]),
    "pickled": (sa.PickleType, [{1, 2}]),
    "number": (sa.Numeric(6, 2), [Decimal("1.25"), None]),
    "float": (sa.Float, [0.1, None]),
    "bool": (sa.Boolean, [True, False, None]),
    "bytes": (sa.LargeBinary, [b"\x00x", None]),
    "day": (sa.Date, [date(2026, 1, 2)]),
    "hour": (sa.Time, [time(3, 4)]),
    "span": (sa.Interval, [timedelta(hours=30), None]),
    "lowered": (Lowered, ["ABC", None]),
    "fixed": (sa.CHAR(3), ["a", "abc"]),
}
ON_POSTGRESQL: dict[str, tuple[Any, list[Any]]] = {
    "words": (sa.ARRAY(sa.Text), [["a", "b"], ["c"], [], None]),
    "mutable": (sa.ARRAY(sa.Enum(Size, native_enum=False)), [[Size.SMALL], []]),
    "collated": (sa.String(5, collation="C"), ["abc"]),
    "elsewhere": (sa.Enum(Colour, name="colour", schema="Paint"), [Colour.RED, None]),
    "address": (postgresql.INET, ["10.0.0.1", None]),
    "range": (postgresql.INT4RANGE, [postgresql.Range(1, 4), None]),
    "rounded": (postgresql.TIMESTAMP(timezone=True, precision=0), [NOON]),
}
OF_TYPES = {name: (of_type(name, kind), values) for name, (kind, values) in TYPES.items()}
OF_POSTGRESQL = {
    name: (of_type(name, kind, ONLY_POSTGRESQL), values)
    for name, (kind, values) in ON_POSTGRESQL.items()
}


@asynccontextmanager
async def opened(url: URL, *metadata: sa.MetaData) -> AsyncIterator[Database]:
    async with open_database(DatabaseConfig(url=url), Tables(metadata)) as database:
        async with database.engine.begin() as connection:
            if not database.config.is_sqlite:
                await connection.execute(text('CREATE SCHEMA "Paint"'))
            for each in metadata:
                await connection.run_sync(each.create_all)
        yield database


async def stored(database: Database, table: type[Any], *, raw: bool = False) -> list[Any]:
    """All rows by their ids: each `value` as text, or the objects."""
    async with database.sessions() as session:
        if raw:
            as_text = "hex(value)" if database.config.is_sqlite else "CAST(value AS TEXT)"
            asked = f'SELECT {as_text} FROM "{table.__tablename__}" ORDER BY id'  # noqa: S608
            return list((await session.scalars(text(asked))).all())
        return list((await session.scalars(select(table).order_by(table.id))).all())
