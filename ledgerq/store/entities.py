"""How the audit log writes a mapped row: its type, its key as text, its values as JSON."""

import math
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from datetime import UTC, date, datetime, time
from decimal import Decimal
from enum import Enum
from functools import cache
from hashlib import sha256
from typing import Any, TypeAlias
from uuid import UUID

from pydantic_core import to_json, to_jsonable_python
from sqlalchemy import Column, Table, Uuid, inspect
from sqlalchemy.orm import Mapper

from ledgerq.text import cut, storable

Key: TypeAlias = str | int | UUID | date | tuple[Any, ...]  # of a row; the log keeps its text

MAX_KEY = 200  # characters of a key's text
MAX_VALUE = 10_000  # characters that an entry keeps of one value
_HASH = 32  # hex digits that stand for the rest of a longer key
_DEEPEST = 200  # lists within lists that an entry keeps
_MAX_BITS = 10_000  # a number of more bits is written in hex
_KNOWN = (str, int, float, datetime, date, UUID, Decimal, Enum, list, dict, type(None))


def entity_type_of(entity: Any) -> str:
    """The table's name, with its schema if it has one. A class that inherits has the name of its root's table."""
    return _entity_type(entity)


@cache
def _entity_type(entity: Any) -> str:
    root = _root(inspect(entity))
    table = root.local_table
    return table.fullname if isinstance(table, Table) else root.class_.__name__


def _root(mapper: Mapper[Any]) -> Mapper[Any]:
    """The class at the root of a mapped inheritance: all classes under it are one type in the log."""
    while mapper.inherits is not None and not mapper.concrete:
        mapper = mapper.inherits
    return mapper


@cache
def key_fields(entity: Any) -> tuple[str, ...]:
    """The names of the attributes that are the primary key, in the key's order."""
    mapper = inspect(entity)
    return tuple(str(mapper.get_property_by_column(c).key) for c in mapper.primary_key)


@cache
def column_fields(entity: Any) -> tuple[str, ...]:
    """The names of the attributes of a mapped class that are columns of its table; no `column_property`, no relationship."""
    properties = inspect(entity).column_attrs
    return tuple(each.key for each in properties if isinstance(each.columns[0], Column))


def key_of(entity: Any) -> str:
    """The text of a row's key."""
    table: Any = type(entity)
    fields = key_fields(table)
    if len(fields) == 1:
        return key_text(getattr(entity, fields[0]))
    return key_text(tuple(getattr(entity, field) for field in fields))


def key_text(key: Key) -> str:
    r"""The key as text, as the audit log stores it: 200 characters at most.

    A number becomes digits, a UUID its 36 characters; a text stays. The parts of a composite key are joined by commas;
    a comma or a backslash in a part gets a backslash before it, a part that is NULL is `\N`. A longer text is cut, and
    ends with `…` and 32 hex digits of the SHA-256 of the whole text.
    """
    if isinstance(key, tuple | list):
        parts = [_part(part) for part in key]
        text = (parts[0] or "") if len(parts) == 1 else ",".join(map(_escaped, parts))
    else:
        text = _part(key) or ""
    if len(text) <= MAX_KEY:
        return text
    digest = sha256(text.encode(errors="surrogatepass")).hexdigest()[:_HASH]
    return f"{text[: MAX_KEY - 1 - _HASH]}…{digest}"


def key_text_in(entity: Any, key: Key) -> str:
    """`key_text` for a key of this class: a UUID may also be given as text, in any spelling."""
    columns = inspect(entity).primary_key
    if isinstance(key, str) and len(columns) == 1 and isinstance(columns[0].type, Uuid):
        with suppress(ValueError):
            return str(UUID(key))
    return key_text(key)


def _part(value: object) -> str | None:
    if isinstance(value, Enum):
        value = value.value
    match value:
        case None | str():
            return value
        case bool():
            return str(value).lower()
        case datetime() | date() | time():
            return _moment(value)
        case Decimal():
            return format(value, "f")
        case bytes():
            return f"\\x{value.hex()}"
        case _:
            return str(value)


def _escaped(part: str | None) -> str:
    return "\\N" if part is None else part.replace("\\", "\\\\").replace(",", "\\,")


def _moment(value: date | time) -> str:
    if isinstance(value, datetime) and value.tzinfo:
        value = value.astimezone(UTC)
    return value.isoformat().replace("+00:00", "Z")


def filled(entity: Any, leave_out: Collection[str] = ()) -> dict[str, Any]:
    """The loaded values of a row, without empty ones. An expired value is not read from the database."""
    table: Any = type(entity)
    held = inspect(entity).dict
    fields = [f for f in column_fields(table) if f in held and f not in leave_out]
    return says_something({field: _writable(held[field]) for field in fields})


def _writable(value: Any) -> Any:
    """`as_json` of the value, but only for types that the writer of entries does not know itself."""
    return value if isinstance(value, _KNOWN) else as_json(value)


def says_something(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values without None and empty lists."""
    return {field: value for field, value in values.items() if value is not None and value != []}


def as_json(value: Any, depth: int = _DEEPEST) -> Any:
    """A copy of the value, made of types that JSON knows; not cut to length yet.

    Times become ISO 8601, in UTC if they have a zone. Decimals, UUIDs and types that JSON does not know become texts.
    An enum becomes its value. Bytes become an object with their length and SHA-256. What is nested deeper than `depth`
    becomes `…`.
    """
    if isinstance(value, Enum):
        value = value.value
    if value is None or isinstance(value, bool):
        return value
    for kind, written in _WRITTEN:
        if isinstance(value, kind):
            return written(value)
    if depth == 0:
        return "…"
    if isinstance(value, Mapping):
        return {storable(str(key)): as_json(each, depth - 1) for key, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        written_parts = [as_json(each, depth - 1) for each in value]
        return written_parts if isinstance(value, list | tuple) else sorted(written_parts, key=str)
    return storable(str(to_jsonable_python(value, fallback=str)))


def _digits(value: int) -> int | str:
    return int(value) if value.bit_length() <= _MAX_BITS else hex(value)


def _measured(value: bytes | bytearray | memoryview) -> dict[str, Any]:
    return {"bytes": len(value), "sha256": sha256(value).hexdigest()}


_WRITTEN: tuple[tuple[Any, Callable[[Any], Any]], ...] = (
    (str, lambda value: str(value) if value.isprintable() else storable(value)),
    (int, _digits),
    (float, lambda value: float(value) if math.isfinite(value) else str(value)),
    ((date, time), _moment),
    ((UUID, Decimal), str),
    ((bytes, bytearray, memoryview), _measured),
)


def fitted(value: Any) -> Any:
    """The value as it is, if its text or JSON has at most `MAX_VALUE` characters; else the beginning of it, as text."""
    if isinstance(value, str):
        return cut(value, MAX_VALUE)
    if isinstance(value, dict | list):
        text = to_json(value).decode()
        return value if len(text) <= MAX_VALUE else cut(text, MAX_VALUE)
    return value
