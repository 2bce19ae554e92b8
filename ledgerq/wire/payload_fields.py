"""A payload's fields as they travel, and what keeps a payload class from travelling."""

from collections.abc import Callable, Collection, Mapping
from functools import cache
from typing import Any, TypeVar, cast

from pydantic import BaseModel, RootModel
from pydantic_core import PydanticUndefined, to_json

from ledgerq.errors import DefinitionError, InvalidRequest
from ledgerq.text import one_line
from ledgerq.wire.ambiguous import holds_secret, within

T = TypeVar("T")
_CONTAINERS: tuple[Any, ...] = (list, dict, set, frozenset, tuple)


def fields_as_values(payload: BaseModel) -> dict[str, Any]:
    """The fields in JSON's types. Sets become sorted lists: equal payloads are written alike by every process.

    A field that nobody set, and that has the default of its class, is left out: the worker has this default as well. A
    value of a `default_factory` travels, unless that is list, dict or set: another call of the factory would make another one.

    Raises:
        InvalidRequest: JSON can't carry a field's value; names the field.
    """
    written = _dumped(payload, lambda left_out: _values(payload, left_out))
    if not isinstance(written, dict):
        raise InvalidRequest(
            "payload", "must be a JSON object: it is made by a serializer of its own"
        )
    return written


def fields_as_json(payload: BaseModel) -> bytes:
    """The same as JSON.

    Raises:
        InvalidRequest: JSON can't carry a field's value; names the field.
    """
    if _holds_sets(type(payload)):
        return to_json(fields_as_values(payload))
    return _dumped(
        payload,
        lambda left_out: payload.__pydantic_serializer__.to_json(
            payload, exclude=left_out, by_alias=False, round_trip=True
        ),
    )


def require_no_secret(payload: type[BaseModel]) -> None:
    """Refuse a payload class with a secret, such as pydantic's SecretStr.

    Raises:
        DefinitionError: a field holds a secret.
    """
    if _holds_secret(payload):
        raise DefinitionError(
            payload.__qualname__,
            "holds a secret: asterisks would travel, not its value",
            "give the job the secret's name, and let the worker look it up",
        )


@cache
def _holds_secret(payload: type[BaseModel]) -> bool:
    return holds_secret(payload.__pydantic_core_schema__)


def _dumped(payload: BaseModel, dump: Callable[[set[str] | None], T]) -> T:
    defaults, given = _defaults(type(payload)), payload.model_fields_set
    left_out = {
        name
        for name, default in defaults.items()
        if name not in given and _is_same(payload.__dict__.get(name), default)
    }
    try:
        return dump(left_out or None)
    except ValueError as error:  # pydantic's and Unicode's errors are ValueErrors
        raise InvalidRequest("payload", _problem(payload, error)) from None


def _values(payload: BaseModel, left_out: set[str] | None) -> Any:
    written = payload.__pydantic_serializer__.to_python(
        payload, mode="json", exclude=left_out, by_alias=False, round_trip=True
    )
    to_json(written)  # which texts there may not be is looked at only here
    return _sorted_sets(payload, written) if _holds_sets(type(payload)) else written


def _sorted_sets(value: Any, written: Any) -> Any:
    """What JSON has for this value, with its sets sorted."""
    if isinstance(value, RootModel):
        return _sorted_sets(value.root, written)
    if isinstance(value, Mapping) and isinstance(written, dict) and len(value) == len(written):
        pairs = zip(value.values(), written.items(), strict=True)
        return {key: _sorted_sets(each, part) for each, (key, part) in pairs}
    if isinstance(written, dict):  # of a model or a dataclass
        return {key: _sorted_sets(getattr(value, key, None), part) for key, part in written.items()}
    if not isinstance(written, list) or not isinstance(value, Collection):
        return written
    if len(value) != len(written):
        return written  # a serializer of its own
    parts = [_sorted_sets(each, part) for each, part in zip(value, written, strict=True)]
    return sorted(parts, key=to_json) if isinstance(value, set | frozenset) else parts


@cache
def _defaults(payload: type[BaseModel]) -> dict[str, Any]:
    """The fields with a default that all processes share: a value, or an empty container."""
    found = {}
    for name, field in payload.model_fields.items():
        if (factory := field.default_factory) in _CONTAINERS:
            found[name] = cast("Callable[[], Any]", factory)()
        elif field.default is not PydanticUndefined:
            found[name] = field.default
    return found


@cache
def _holds_sets(payload: type[BaseModel]) -> bool:
    schemas = within(payload.__pydantic_core_schema__)
    return any(each["type"] in {"set", "frozenset"} for each in schemas)


def _is_same(value: Any, default: Any) -> bool:
    return value is default or (type(value) is type(default) and bool(value == default))


def _problem(payload: BaseModel, error: ValueError) -> str:
    for name in type(payload).model_fields:
        try:
            payload.model_dump_json(include={name}, by_alias=False, round_trip=True)
        except ValueError as found:
            return f"JSON can't carry its field {name} ({one_line(found)})"
    return f"is no JSON ({one_line(error)})"
