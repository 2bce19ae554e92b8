"""Which columns of an audited class the audit entries show, and how. Checked once, when the `App` is made."""

from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any

from sqlalchemy import ARRAY, JSON, PickleType, inspect
from sqlalchemy.dialects.postgresql import HSTORE
from sqlalchemy.ext.mutable import MutableBase
from sqlalchemy.orm import Mapper
from sqlalchemy.orm.attributes import set_attribute

from ledgerq.errors import DefinitionError
from ledgerq.store.entities import column_fields, entity_type_of, key_fields

_WHERE = "App(audited=)"
_IN_PLACE = (ARRAY, HSTORE, JSON, PickleType)  # Python can change their values without assigning


@dataclass(frozen=True)
class Audited:
    """A mapped class whose changes leave audit entries, and what the entries show.

    ```python
    App(jobs=[close_order], audited=[Order, Audited(Card, mask={"number"}, exclude={"note"})])
    ```

    Args:
        entity: the class, of SQLModel or SQLAlchemy; classes that inherit from it are audited too.
        mask: columns, by the names of their attributes, whose values an entry shows as `***`.
        exclude: columns that no entry shows; a change of these columns alone leaves no entry.
        replaced: columns of JSON or arrays to which the service only assigns new values, and never changes them in
            place.
        by_trigger: on PostgreSQL a trigger writes the entries (`ledgerq audit attach TABLE`), so that bulk statements
            and SQL are seen too. On SQLite, the flush writes them all the same.
    """

    entity: type[Any]
    _: KW_ONLY
    mask: Collection[str] = frozenset()
    exclude: Collection[str] = frozenset()
    replaced: Collection[str] = frozenset()
    by_trigger: bool = False


@dataclass(frozen=True, slots=True)
class Rules:
    """`Audited`, checked and completed for one class. `documents`: fields whose values can be changed in place."""

    audited: Audited
    mapper: Mapper[Any]
    entity_type: str
    keys: tuple[str, ...]
    fields: tuple[str, ...]
    masked: frozenset[str]
    documents: frozenset[str]

    @property
    def name(self) -> str:
        """The name of the class."""
        return self.mapper.class_.__name__

    @property
    def by_trigger(self) -> bool:
        """True if on PostgreSQL a trigger writes the entries."""
        return self.audited.by_trigger

    @property
    def tables(self) -> set[Any]:
        """The tables to which rows of the class, and of the classes that inherit from it, are written."""
        return {table for each in self.mapper.self_and_descendants for table in each.tables}

    def of_subclass(self, entity: type[Any]) -> "Rules":
        """The rules for a class that inherits from this one and may have more columns."""
        return _rules(replace(self.audited, entity=entity))

    def columns(self, fields: Collection[str]) -> list[str]:
        """The names of some fields' columns in the database."""
        return sorted(self.mapper.attrs[field].columns[0].name for field in fields)


def rules_for(audited: Iterable[type[Any] | Audited]) -> dict[type[Any], Rules]:
    """The rules of each class.

    Raises:
        DefinitionError: a class can't be audited as `Audited` says.
    """
    found: dict[type[Any], Rules] = {}
    for each in audited:
        asked = each if isinstance(each, Audited) else Audited(each)
        rules = _rules(asked)
        if asked.entity in found:
            raise DefinitionError(_WHERE, f"{rules.name} is listed twice", "list it once")
        found[asked.entity] = rules
    return found


def _rules(asked: Audited) -> Rules:
    entity: Any = asked.entity
    mapper = _mapper(entity)
    fields, keys = column_fields(entity), key_fields(entity)
    for option in ("mask", "exclude", "replaced"):
        _require_fields(asked, option, fields)
    if in_key := sorted(set(asked.mask) & set(keys)):
        raise DefinitionError(
            _option(asked, "mask"),
            f"{in_key[0]!r} is part of the primary key, which each entry shows",
            "leave it out of mask",
        )
    told = tuple(field for field in fields if field not in set(asked.exclude))
    documents = frozenset(field for field in told if _holds_document(mapper, field))
    for field in sorted(documents - set(asked.replaced)):
        _require_mutable(asked, mapper, field)
    masked = frozenset(asked.mask)
    return Rules(asked, mapper, entity_type_of(entity), keys, told, masked, documents)


def _mapper(entity: Any) -> Mapper[Any]:
    mapper = inspect(entity, raiseerr=False)
    if not isinstance(mapper, Mapper):
        name = getattr(entity, "__name__", None) or repr(entity)
        raise DefinitionError(_WHERE, f"{name} is no mapped class", "name the classes of your rows")
    mapper.registry.configure()  # so that MutableDict and MutableList columns are known
    return mapper


def _require_fields(asked: Audited, option: str, fields: Collection[str]) -> None:
    given, where = getattr(asked, option), _option(asked, option)
    if isinstance(given, str):
        raise DefinitionError(where, f"{given!r} is one text", f"give a set: {{{given!r}}}")
    if unknown := sorted(set(given) - set(fields)):
        problem = f"{asked.entity.__name__} has no column {unknown[0]!r}"
        raise DefinitionError(where, problem, f"it has {', '.join(fields)}")


def _option(asked: Audited, option: str) -> str:
    return f"Audited({asked.entity.__name__}, {option}=)"


def _holds_document(mapper: Mapper[Any], field: str) -> bool:
    column = mapper.attrs[field].columns[0].type
    return isinstance(getattr(column, "impl_instance", column), _IN_PLACE)


def _require_mutable(asked: Audited, mapper: Mapper[Any], field: str) -> None:
    """Refuse a column whose changes in place SQLAlchemy does not see: it would neither write nor audit them.

    Raises:
        DefinitionError: the column is not of a Mutable type.
    """
    if not _is_mutable(mapper, field):
        name = asked.entity.__name__
        raise DefinitionError(
            _WHERE,
            f"SQLAlchemy does not see changes inside of {name}.{field}, and would not write them",
            "declare it as MutableDict.as_mutable(…) or MutableList.as_mutable(…), or say "
            f"Audited({name}, replaced={{{field!r}}}) if it is only ever assigned anew",
        )


def _is_mutable(mapper: Mapper[Any], field: str) -> bool:
    """True if a plain value that is assigned to the field becomes a Mutable, which reports changes in place."""
    plain: tuple[Any, ...] = ({}, [], set())
    for value in plain:
        probe = mapper.class_manager.new_instance()  # its __init__ does not run
        with suppress(Exception):  # the Mutable, or a validator of the class, refuses the value
            set_attribute(probe, field, value)
        if isinstance(inspect(probe).dict.get(field), MutableBase):
            return True
    return False
