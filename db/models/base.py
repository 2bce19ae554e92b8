"""What all tables share: names for constraints, aware UTC times, JSON, 64-bit ids."""

from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, ClassVar

from sqlalchemy import JSON, BigInteger, DateTime, Dialect, Enum, Integer, MetaData, func
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.types import TypeDecorator
from sqlmodel import Field, SQLModel

NAMING_CONVENTION = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}


class Base(SQLModel):
    """The parent of every table model. Table models do not validate: see db.inputs for what does."""

    metadata: ClassVar[MetaData] = MetaData(naming_convention=NAMING_CONVENTION)


class UtcDateTime(TypeDecorator[datetime]):
    """A moment in time: aware, in UTC, on every database. A naive datetime is refused."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Going in: UTC; SQLite keeps no zone, so there it goes in without."""
        if value is None:
            return None
        if value.tzinfo is None:
            message = f"naive datetime {value.isoformat()}: say which time zone it is in"
            raise ValueError(message)
        utc = value.astimezone(UTC)
        return utc.replace(tzinfo=None) if dialect.name == "sqlite" else utc

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Coming out: always aware."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


BigId = BigInteger().with_variant(Integer, "sqlite")  # SQLite counts up INTEGER keys only
Json = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")


def primary_key() -> Any:
    """A 64-bit id that the database gives when the row is flushed."""
    return Field(default=None, primary_key=True, sa_type=BigId)


def reference(column: str, *, nullable: bool = True) -> Any:
    """The id of another row, which must exist; indexed, so that the way back is short."""
    default = None if nullable else ...
    return Field(default=default, foreign_key=column, sa_type=BigId, nullable=nullable, index=True)


def moment() -> Any:
    """An optional point in time."""
    return Field(default=None, sa_type=UtcDateTime)


def created_at() -> Any:
    """When the row was written, by the database's clock."""
    return Field(
        default=None,
        sa_type=UtcDateTime,
        nullable=False,
        sa_column_kwargs={"server_default": func.now()},
    )


def updated_at() -> Any:
    """When the row was last changed, by the database's clock."""
    return Field(
        default=None,
        sa_type=UtcDateTime,
        nullable=False,
        sa_column_kwargs={"server_default": func.now(), "onupdate": func.now()},
    )


def choice(values: type[StrEnum], name: str) -> Enum:
    """A VARCHAR that a CHECK constraint holds to the enum's values: easier to extend than a native enum."""
    return Enum(
        values,
        name=name,
        native_enum=False,
        create_constraint=True,
        length=20,
        values_callable=lambda enum: [member.value for member in enum],
    )
