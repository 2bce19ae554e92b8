"""What the tables of the task manager share, beside the columns that ledgerq has."""

from collections.abc import Iterable
from typing import Any, ClassVar, Literal, NoReturn

from sqlalchemy import JSON, Dialect, MetaData, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.types import TypeDecorator, TypeEngine
from sqlmodel import Field, Relationship, SQLModel

from db.errors import ChangedInPlace
from db.models.loading import MUST_LOAD
from ledgerq.columns import NAMING_CONVENTION, BigId, UtcDateTime, utc_now


class Base(SQLModel):
    """The parent of every table model. Table models do not validate: see db.inputs for what does."""

    metadata: ClassVar[MetaData] = MetaData(naming_convention=NAMING_CONVENTION)
    # what the database fills in comes back with the write: it can be read without asking again
    __mapper_args__: ClassVar[dict[str, Any]] = {"eager_defaults": True}

    def __setattr__(self, name: str, value: Any) -> None:
        """As SQLModel's; a list that a row is given is fixed from then on."""
        of_row = isinstance(value, list) and name in type(self).model_fields
        super().__setattr__(name, FixedList(value) if of_row else value)


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


def updated_at() -> Any:
    """When the row was last changed, by the database's clock; a trigger sees to writes of others."""
    return Field(
        default=None,
        sa_type=UtcDateTime,
        nullable=False,
        sa_column_kwargs={"server_default": utc_now(), "onupdate": utc_now()},
    )
