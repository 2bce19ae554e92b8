"""Types of columns for all tables: UTC times, the database's clock, JSON, 64-bit ids, enums; names of constraints.

```python
class Parcel(SQLModel, table=True):
    id: int | None = columns.primary_key()
    packed_at: datetime | None = columns.created_at()
```
"""

from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    DDL,
    JSON,
    BigInteger,
    DateTime,
    Dialect,
    Enum,
    Float,
    Integer,
    Table,
    bindparam,
    event,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeDecorator
from sqlmodel import Field

NAMING_CONVENTION = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}


class utc_now(FunctionElement[datetime]):  # noqa: N801 - reads as the SQL function that it is
    """SQL for the database's time: when the transaction began; on SQLite the current moment, to the millisecond."""

    type = DateTime(timezone=True)
    inherit_cache = True


@compiles(utc_now)
def _utc_now(element: utc_now, compiler: Any, **options: Any) -> str:
    return "now()"


@compiles(utc_now, "sqlite")
def _utc_now_on_sqlite(element: utc_now, compiler: Any, **options: Any) -> str:
    return "(strftime('%Y-%m-%d %H:%M:%f000', 'now'))"


class clock(FunctionElement[datetime]):  # noqa: N801 - as above
    """SQL for the database's time at the current moment, plus `later`.

    Unlike `utc_now`, the time goes on within a transaction, for example while a statement waits for a lock. On SQLite
    the time is cut to the millisecond.
    """

    type = DateTime(timezone=True)
    inherit_cache = True

    def __init__(self, later: timedelta = timedelta(0)) -> None:
        super().__init__(bindparam(None, later, type_=_Seconds()))


class _Seconds(TypeDecorator[timedelta]):
    """Gives a timedelta to the database as a number of seconds, with which SQL can calculate."""

    impl = Float
    cache_ok = True

    def process_bind_param(self, value: timedelta | None, dialect: Dialect) -> float | None:
        """The timedelta in seconds."""
        return None if value is None else value.total_seconds()


@compiles(clock)
def _clock(element: clock, compiler: Any, **options: Any) -> str:
    later = compiler.process(element.clauses, **options)
    return f"clock_timestamp() + make_interval(secs => CAST({later} AS double precision))"


@compiles(clock, "sqlite")
def _clock_on_sqlite(element: clock, compiler: Any, **options: Any) -> str:
    later = compiler.process(element.clauses, **options)
    return f"strftime('%Y-%m-%d %H:%M:%f000', 'now', {later} || ' seconds')"


class UtcDateTime(TypeDecorator[datetime]):
    """A moment in time: aware, in UTC, on every database. A naive datetime is refused."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Python to database: converted to UTC; on SQLite the zone is then left out, which SQLite does not store.

        Raises:
            ValueError: the time has no zone.
        """
        if value is None:
            return None
        if value.tzinfo is None:
            message = f"naive datetime {value.isoformat()}: say which time zone it is in"
            raise ValueError(message)
        utc = value.astimezone(UTC)
        return utc.replace(tzinfo=None) if dialect.name == "sqlite" else utc

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Database to Python: always aware, in UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


NEVER_AGAIN = {"sqlite_autoincrement": True}  # no id is reused: audit entries of two rows would mix


BigId = BigInteger().with_variant(Integer, "sqlite")  # SQLite counts up INTEGER keys only


Json = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")


def primary_key() -> Any:
    """A field for a model: the primary key, a 64-bit integer that the database assigns when the row is flushed."""
    return Field(default=None, primary_key=True, sa_type=BigId)


def created_at() -> Any:
    """A field for a model: the database fills in `utc_now` at the insert (on PostgreSQL, the transaction's start)."""
    return Field(
        default=None,
        sa_type=UtcDateTime,
        nullable=False,
        sa_column_kwargs={"server_default": utc_now()},
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


IN_SCHEMA = """
DO $in_schema$
BEGIN
    EXECUTE replace($statement${statement}$statement$, '{schema}', (
        SELECT quote_ident(nspname) FROM pg_catalog.pg_namespace AS n
        JOIN pg_catalog.pg_class AS c ON c.relnamespace = n.oid
        WHERE c.oid = '{of_table}'::regclass
    ));
END $in_schema$
"""


def in_schema_of(table: str, statement: str) -> str:
    """PostgreSQL code that runs the statement with `{schema}` replaced by the schema in which the table stands.

    Only the database knows that schema, and `--sql` writes a file without a database: so the code looks it up.
    """
    return IN_SCHEMA.replace("{of_table}", table).replace("{statement}", statement)


def after_create(table: Table, dialect: str, statements: tuple[str, ...]) -> None:
    """Register SQL statements to run on `dialect` after SQLAlchemy creates the table; `{table}` in them becomes its name."""
    for statement in statements:
        text = statement.replace("{table}", table.name).replace("%", "%%")
        ddl = DDL(text)  # type: ignore[no-untyped-call]
        event.listen(table, "after_create", ddl.execute_if(dialect=dialect))
