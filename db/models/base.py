"""What all tables share: names for constraints, aware UTC times, JSON, 64-bit ids."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, ClassVar, Literal, NoReturn

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    Dialect,
    Enum,
    Float,
    Integer,
    MetaData,
    bindparam,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeDecorator, TypeEngine
from sqlmodel import Field, Relationship, SQLModel

from db.errors import ChangedInPlace
from db.models.loading import MUST_LOAD

NAMING_CONVENTION = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}


class utc_now(FunctionElement[datetime]):  # noqa: N801 - reads as the SQL function that it is
    """The database's clock: the start of the transaction, or on SQLite the moment, to the millisecond."""

    type = DateTime(timezone=True)
    inherit_cache = True


@compiles(utc_now)
def _utc_now(element: utc_now, compiler: Any, **options: Any) -> str:
    return "now()"


@compiles(utc_now, "sqlite")
def _utc_now_on_sqlite(element: utc_now, compiler: Any, **options: Any) -> str:
    return "(strftime('%Y-%m-%d %H:%M:%f000', 'now'))"


class clock(FunctionElement[datetime]):  # noqa: N801 - as above
    """The database's clock at this moment, so much later as its one argument says, a timedelta.

    What waits in a transaction for a lock sees time go on. On SQLite to the millisecond, rounded down.
    """

    type = DateTime(timezone=True)
    inherit_cache = True

    def __init__(self, later: timedelta = timedelta(0)) -> None:
        super().__init__(bindparam(None, later, type_=_Seconds()))


class _Seconds(TypeDecorator[timedelta]):
    """A timedelta going in: seconds as a number, for SQL to count with."""

    impl = Float
    cache_ok = True

    def process_bind_param(self, value: timedelta | None, dialect: Dialect) -> float | None:
        """In seconds."""
        return None if value is None else value.total_seconds()


@compiles(clock)
def _clock(element: clock, compiler: Any, **options: Any) -> str:
    later = compiler.process(element.clauses, **options)
    return f"clock_timestamp() + make_interval(secs => CAST({later} AS double precision))"


@compiles(clock, "sqlite")
def _clock_on_sqlite(element: clock, compiler: Any, **options: Any) -> str:
    later = compiler.process(element.clauses, **options)
    return f"strftime('%Y-%m-%d %H:%M:%f000', 'now', {later} || ' seconds')"


class Base(SQLModel):
    """The parent of every table model. Table models do not validate: see db.inputs for what does."""

    metadata: ClassVar[MetaData] = MetaData(naming_convention=NAMING_CONVENTION)
    # what the database fills in comes back with the write: it can be read without asking again
    __mapper_args__: ClassVar[dict[str, Any]] = {"eager_defaults": True}

    def __setattr__(self, name: str, value: Any) -> None:
        """As SQLModel's; a list that a row is given is fixed from then on."""
        of_row = isinstance(value, list) and name in type(self).model_fields
        super().__setattr__(name, FixedList(value) if of_row else value)


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


NEVER_AGAIN = {"sqlite_autoincrement": True}  # an id is not given twice, so no history is mixed
BigId = BigInteger().with_variant(Integer, "sqlite")  # SQLite counts up INTEGER keys only
Json = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")


class FixedList(list[str]):
    """A list as a row holds it: to be replaced, not changed in place, which no flush would notice."""

    def __init__(self, values: Iterable[str] = ()) -> None:
        """To be called once, by who makes it: on a list that is filled it would replace what it holds."""
        if self:
            raise ChangedInPlace
        super().__init__(values)

    def __deepcopy__(self, memo: object) -> "FixedList":
        """The list of a row that is copied as a whole."""
        return FixedList(self)

    def __reduce__(self) -> tuple[type[list[str]], tuple[list[str]]]:
        """A copy of it alone is a list like any other."""
        return list, (list(self),)


def _refuse(*_: Any, **__: Any) -> NoReturn:
    raise ChangedInPlace


for _name in ["append", "clear", "extend", "insert", "pop", "remove", "reverse", "sort"]:
    setattr(FixedList, _name, _refuse)
for _name in ["delitem", "iadd", "imul", "setitem"]:
    setattr(FixedList, f"__{_name}__", _refuse)


class FixedTexts(TypeDecorator[list[str]]):
    """A list of texts in JSON that comes out of the database fixed."""

    impl = JSON
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """As `Json`."""
        on_postgresql = dialect.name == "postgresql"
        return dialect.type_descriptor((JSONB if on_postgresql else JSON)(none_as_null=True))

    def process_result_value(self, value: Any, dialect: Dialect) -> list[str] | None:
        """Coming out: fixed."""
        return None if value is None else FixedList(value)


def primary_key() -> Any:
    """A 64-bit id that the database gives when the row is flushed."""
    return Field(default=None, primary_key=True, sa_type=BigId)


def reference(
    column: str,
    *,
    nullable: bool = True,
    on_delete: Literal["SET NULL"] | None = None,
    index: bool = True,
) -> Any:
    """The id of another row, which must exist; indexed, so that the way back is short."""
    options = {"ondelete": on_delete} if on_delete else {}
    default = None if nullable else ...
    return Field(  # type: ignore[call-overload]
        default=default,
        foreign_key=column,
        sa_type=BigId,
        nullable=nullable,
        index=index,
        **options,
    )


def related(**options: Any) -> Any:
    """A relationship that must be loaded by the read that wants it: see NotLoaded."""
    return Relationship(sa_relationship_kwargs={"lazy": MUST_LOAD, **options})


def moment() -> Any:
    """An optional point in time."""
    return Field(default=None, sa_type=UtcDateTime)


def version() -> Any:
    """Counts the changes of a row, so that a writer can say which state it has seen."""
    return Field(default=1, nullable=False, sa_column_kwargs={"server_default": text("1")})


def created_at() -> Any:
    """When the row was written, by the database's clock."""
    return Field(
        default=None,
        sa_type=UtcDateTime,
        nullable=False,
        sa_column_kwargs={"server_default": utc_now()},
    )


def updated_at() -> Any:
    """When the row was last changed, by the database's clock; a trigger sees to writes of others."""
    return Field(
        default=None,
        sa_type=UtcDateTime,
        nullable=False,
        sa_column_kwargs={"server_default": utc_now(), "onupdate": utc_now()},
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
