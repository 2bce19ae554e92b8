"""The base class and column types of the task manager's tables, beside the column types in `ledgerq.columns`."""

from collections.abc import Iterable
from typing import Any, ClassVar, Literal, NoReturn

from sqlalchemy import JSON, Dialect, MetaData, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm.attributes import set_attribute
from sqlalchemy.types import TypeDecorator, TypeEngine
from sqlmodel import Field, Relationship, SQLModel

from db.errors import ChangedInPlace
from db.models.loading import MUST_LOAD
from ledgerq.columns import NAMING_CONVENTION, BigId, UtcDateTime, utc_now


class Base(SQLModel):
    """The parent class of all tables. Tables do not validate their values; the models in db.inputs do."""

    metadata: ClassVar[MetaData] = MetaData(naming_convention=NAMING_CONVENTION)
    # INSERT and UPDATE return the values that the database fills in: reading them needs no query
    __mapper_args__: ClassVar[dict[str, Any]] = {"eager_defaults": True}

    def __setattr__(self, name: str, value: Any) -> None:
        """As SQLModel's, but a list is stored as a `FixedList`. Pydantic, which checks no table, is not asked."""
        if name in type(self).model_fields:
            set_attribute(self, name, FixedList(value) if isinstance(value, list) else value)
        else:
            super().__setattr__(name, value)


class FixedList(list[str]):
    """A list that can't be changed in place, only replaced: a flush does not notice a change in place."""

    def __init__(self, values: Iterable[str] = ()) -> None:
        """Fill the new list. A second call would replace its values, and is refused."""
        if self:
            raise ChangedInPlace
        super().__init__(values)

    def __deepcopy__(self, memo: object) -> "FixedList":
        """A copy for a copy of the whole row: fixed too."""
        return FixedList(self)

    def __reduce__(self) -> tuple[type[list[str]], tuple[list[str]]]:
        """A copy of the list alone, by `copy` or `pickle`, is a plain list."""
        return list, (list(self),)


def _refuse(*_: Any, **__: Any) -> NoReturn:
    raise ChangedInPlace


for _name in ["append", "clear", "extend", "insert", "pop", "remove", "reverse", "sort"]:
    setattr(FixedList, _name, _refuse)
for _name in ["delitem", "iadd", "imul", "setitem"]:
    setattr(FixedList, f"__{_name}__", _refuse)


class FixedTexts(TypeDecorator[list[str]]):
    """A JSON column with a list of texts, which is loaded as a `FixedList`."""

    impl = JSON
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """JSONB on PostgreSQL, JSON on SQLite, as `ledgerq.columns.Json`."""
        on_postgresql = dialect.name == "postgresql"
        return dialect.type_descriptor((JSONB if on_postgresql else JSON)(none_as_null=True))

    def process_result_value(self, value: Any, dialect: Dialect) -> list[str] | None:
        """Database to Python: a `FixedList`."""
        return None if value is None else FixedList(value)


def reference(
    column: str,
    *,
    nullable: bool = True,
    on_delete: Literal["SET NULL"] | None = None,
    index: bool = True,
) -> Any:
    """The id of another row, which must exist; indexed, to find the rows that refer to that row."""
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
    """A relationship that the read must load; using it unloaded raises `NotLoaded`."""
    return Relationship(sa_relationship_kwargs={"lazy": MUST_LOAD, **options})


def moment() -> Any:
    """An optional point in time."""
    return Field(default=None, sa_type=UtcDateTime)


def version() -> Any:
    """A counter of the row's changes. A writer passes the version that it has read, to detect other writes."""
    return Field(default=1, nullable=False, sa_column_kwargs={"server_default": text("1")})


def updated_at() -> Any:
    """When the row was last changed, by the database's clock. A trigger sets it for writes of other programs too."""
    return Field(
        default=None,
        sa_type=UtcDateTime,
        nullable=False,
        sa_column_kwargs={"server_default": utc_now(), "onupdate": utc_now()},
    )
