"""Which columns of an audited class the audit entries show, and how. Checked once, when the `App` is made."""

from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any

from sqlalchemy import ARRAY, JSON, PickleType, Table, inspect
from sqlalchemy.dialects.postgresql import HSTORE
from sqlalchemy.ext.mutable import MutableBase
from sqlalchemy.orm import Mapper
from sqlalchemy.orm.attributes import set_attribute

from ledgerq.errors import DefinitionError
from ledgerq.store.entities import column_fields, entity_type_of, key_fields

_WHERE = "App(audited=)"
_OPTIONS = ("mask", "exclude", "replaced")
_IN_PLACE = (ARRAY, HSTORE, JSON, PickleType)  # Python can change their values without assigning


@dataclass(frozen=True)
class Audited:
    """A mapped class whose changes leave audit entries, and what the entries show.

    ```python
    App(jobs=[close_order], audited=[Order, Audited(Card, mask={"number"}, exclude={"note"})])
    ```

    Args:
        entity: the class, of SQLModel or SQLAlchemy; classes that inherit from it are audited too, and hide what it
            hides.
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
    """What `App(audited=)` says of one class, checked, with the columns of the class.

    `documents`: fields with values of lists or dicts, of which SQLAlchemy does not notice all changes. `name`: the Python
    name of the class in `App(audited=)`: this one, or the nearest one that it inherits from.
    """

    name: str
    audited: Audited
    mapper: Mapper[Any]
    entity_type: str
    keys: tuple[str, ...]
    fields: tuple[str, ...]
    masked: frozenset[str]
    documents: frozenset[str]

    @property
    def by_trigger(self) -> bool:
        """True if a trigger writes the entries, where the database is PostgreSQL."""
        return self.audited.by_trigger

    @property
    def tables(self) -> set[Any]:
        """The tables to which rows of the class, and of the classes that inherit from it, are written."""
        return {table for each in self.mapper.self_and_descendants for table in each.tables}

    def of_subclass(self, entity: type[Any]) -> "Rules":
        """The rules for a class that inherits from this one and may have more columns."""
        return _rules(replace(self.audited, entity=entity), self.name)


@dataclass(frozen=True, slots=True)
class TableRules:
    """What all rules together say about one table: columns of the primary key, shown as `***` (masked), and not shown (excluded)."""

    table: Table
    name: str
    entity_type: str
    by_trigger: bool
    keys: tuple[str, ...]
    masked: frozenset[str]
    excluded: frozenset[str]


def as_listed(audited: object) -> tuple[type[Any] | Audited, ...]:
    """What `App(audited=)` lists.

    Raises:
        DefinitionError: it is no list.
    """
    if isinstance(audited, Iterable) and not isinstance(audited, str | type):
        return tuple(audited)
    one = audited.entity if isinstance(audited, Audited) else audited
    name = getattr(one, "__name__", repr(one))
    raise DefinitionError(_WHERE, f"{name} alone is no list", "write audited=[…]")


def rules_for(audited: Iterable[type[Any] | Audited]) -> dict[type[Any], Rules]:
    """The rules of each listed class, and then of each class that inherits from one.

    A column that one class masks or excludes is hidden in the entries of each class that writes to its table, and in those
    of its subclasses.

    Raises:
        DefinitionError: a class can't be audited as `Audited` says.
    """
    asked = dict[type[Any], Audited]()
    for each in audited:
        one = each if isinstance(each, Audited) else Audited(each)
        _require_options(one)
        if one.entity in asked:
            raise DefinitionError(_WHERE, f"{one.entity.__name__} is listed twice", "list it once")
        asked[one.entity] = one
    listed = tuple(asked.values())
    found = {one.entity: _rules(_completed(one, listed), one.entity.__name__) for one in listed}
    for one in listed:
        for mapper in inspect(one.entity).self_and_descendants:
            if (entity := mapper.class_) not in found:
                nearest = next(asked[each] for each in entity.__mro__ if each in asked)
                completed = _completed(replace(nearest, entity=entity), listed)
                found[entity] = _rules(completed, nearest.entity.__name__)
    rules_by_table(found.values())  # refuses contradictions
    return found


def rules_by_table(rules: Iterable[Rules]) -> dict[Table, TableRules]:
    """For each table to which the classes write: the rules of all its classes in one.

    Raises:
        DefinitionError: a trigger shall write the entries of one class of a table, and the flush those of another.
    """
    found = dict[Table, TableRules]()
    for each in rules:
        tables: Any = each.mapper.tables
        for table in sorted(tables, key=str):
            masked, excluded = (
                frozenset(c.name for c in _columns(each.mapper, fields) if c.table is table)
                for fields in (each.masked, each.audited.exclude)
            )
            keys = tuple(column.name for column in table.primary_key)
            own = TableRules(
                table, each.name, each.entity_type, each.by_trigger, keys, masked, excluded
            )
            found[table] = _joined(found[table], own) if table in found else own
    return found


def _joined(one: TableRules, other: TableRules) -> TableRules:
    if one.by_trigger != other.by_trigger:
        raise DefinitionError(
            _WHERE,
            f"{one.name} and {other.name} have rows in table {one.table}, and one of them only is by_trigger",
            "say by_trigger=True for both, or for none",
        )
    return replace(one, masked=one.masked | other.masked, excluded=one.excluded | other.excluded)


def _completed(asked: Audited, listed: Collection[Audited]) -> Audited:
    """With what is said of the classes that it inherits from, and of its columns under other classes."""
    entity: Any = asked.entity

    def whole(option: str) -> frozenset[str]:
        names, columns = set(getattr(asked, option)), set[Any]()
        for each in listed:
            if issubclass(asked.entity, each.entity):
                names |= set(getattr(each, option))
            columns |= _columns(inspect(each.entity), getattr(each, option))
        return frozenset(
            field
            for field in column_fields(entity)
            if field in names or not columns.isdisjoint(_columns(inspect(entity), [field]))
        )

    return replace(asked, mask=whole("mask"), exclude=whole("exclude"), replaced=whole("replaced"))


def _columns(mapper: Mapper[Any], fields: Iterable[str]) -> set[Any]:
    """The columns of tables that the fields stand for: in a joined inheritance a key is a column of each table."""
    return {
        base
        for field in fields
        for column in mapper.attrs[field].columns
        for base in column.base_columns
    }


def _require_options(asked: Audited) -> None:
    """Refuse names that are no columns.

    Raises:
        DefinitionError: the class is not mapped, or an option names what it does not have.
    """
    entity: Any = asked.entity
    _mapper(entity)
    for option in _OPTIONS:
        _require_fields(asked, option, column_fields(entity))


def _rules(asked: Audited, name: str) -> Rules:
    entity: Any = asked.entity
    mapper = _mapper(entity)
    fields, keys = column_fields(entity), key_fields(entity)
    _require_key_shown(asked, mapper, keys)
    told = tuple(field for field in fields if field not in set(asked.exclude))
    documents = frozenset(field for field in told if _holds_document(mapper, field))
    for field in sorted(documents - set(asked.replaced)):
        _require_mutable(asked, mapper, field)
    masked = frozenset(asked.mask)
    return Rules(name, asked, mapper, entity_type_of(entity), keys, told, masked, documents)


def _require_key_shown(asked: Audited, mapper: Mapper[Any], fields: Iterable[str]) -> None:
    """Refuse to hide a part of the class's key (`fields`), or of that of one of its tables: it is the id of each entry.

    Raises:
        DefinitionError: the class masks or excludes such a column.
    """
    keys = {column for each in mapper.tables for column in each.primary_key}
    keys |= _columns(mapper, fields)
    for option in ("mask", "exclude"):
        for field in sorted(getattr(asked, option)):
            if not keys.isdisjoint(_columns(mapper, [field])):
                raise DefinitionError(
                    _option(asked, option),
                    f"{field!r} is part of the primary key, which each entry shows",
                    f"leave it out of {option}",
                )


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
