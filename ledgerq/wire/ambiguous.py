"""Types that JSON carries, and out of which it does not come back as it was."""

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import TypeAdapter

_ALIKE = {  # in JSON, each is a text; or a list
    **dict.fromkeys(("str", "bytes", "date", "datetime", "time", "timedelta", "uuid"), "text"),
    **dict.fromkeys(("decimal", "url", "multi-host-url", "complex", "enum"), "text"),
    **dict.fromkeys(("list", "tuple", "set", "frozenset"), "list"),
}
_NO_SCHEMAS = {  # parts of a core schema that hold no schema, but values and functions
    "metadata", "serialization", "function", "config", "default", "default_factory", "expected", "members", "cls",
}  # fmt: skip
_TAKES_ANY = {"str", "bytes", "list", "tuple", "set", "frozenset"}


def why_ambiguous(adapter: TypeAdapter[Any]) -> str | None:
    """Why an answer of this type can't be read back from its JSON; None if it can."""
    for schema in within(adapter.core_schema):
        if problem := _mixes(schema) or _has_keys_of_parts(schema):
            return problem
    return None


def holds_secret(schema: Any) -> bool:
    """True if this core schema holds one of pydantic's secrets, for which JSON gets asterisks, and no serializer around it."""
    if isinstance(schema, list | tuple):
        return any(map(holds_secret, schema))
    if not isinstance(schema, Mapping):
        return False
    if schema.get("serialization_exclude") is True:  # the field never travels
        return False
    serializer = schema.get("serialization") if _is_schema(schema) else None
    if function := (serializer or {}).get("function"):
        is_pydantics = getattr(function, "__module__", "") == "pydantic.types"
        return is_pydantics and "secret" in getattr(function, "__name__", "")
    return any(map(holds_secret, _parts(schema)))


def within(schema: Any) -> Iterator[Mapping[str, Any]]:
    """The schema and all that stand in it."""
    if isinstance(schema, Mapping):
        if _is_schema(schema):
            yield schema
        for part in _parts(schema):
            yield from within(part)
    elif isinstance(schema, list | tuple):
        for part in schema:
            yield from within(part)


def _is_schema(schema: Mapping[str, Any]) -> bool:
    """False for the fields of a model by their names, of which one may be `type`."""
    return isinstance(schema.get("type"), str)


def _parts(schema: Mapping[str, Any]) -> list[Any]:
    left_out = _NO_SCHEMAS if _is_schema(schema) else ()
    return [part for name, part in schema.items() if name not in left_out]


def _mixes(schema: Mapping[str, Any]) -> str | None:
    """A union of types that look alike in JSON, of which one takes whatever the others write."""
    if schema["type"] != "union":
        return None
    choices = [each[0] if isinstance(each, tuple) else each for each in schema["choices"]]
    found = dict.fromkeys(_kind(each) for each in choices)
    for one in found:
        for other in found:
            alike = _ALIKE.get(one) is not None and _ALIKE.get(one) == _ALIKE.get(other)
            if one != other and alike and one in _TAKES_ANY:
                return f"holds {other} | {one}, which look alike in JSON"
    return None


def _kind(schema: Any) -> str:
    """What a schema is about, below what only checks it; an enum of texts is a text."""
    if schema.get("type") == "enum" and issubclass(schema["cls"], str):
        return "str"
    while schema.get("type") not in _ALIKE and isinstance(schema.get("schema"), Mapping):
        if schema["type"] in {"model", "dataclass"}:
            break
        schema = schema["schema"]
    return str(schema.get("type"))


def _has_keys_of_parts(schema: Mapping[str, Any]) -> str | None:
    if schema["type"] != "dict":
        return None
    kind = _kind(schema.get("keys_schema", {"type": "any"}))
    if kind in {"tuple", "frozenset", "model", "dataclass"}:
        return f"holds a dict with a {kind} as its key, and JSON has texts"
    return None
