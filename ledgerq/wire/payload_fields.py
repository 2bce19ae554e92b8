"""A payload's fields as they travel, and what keeps a payload class from travelling."""

from collections.abc import Callable, Collection, Iterable, Mapping
from functools import cache
from typing import Any, Literal, TypeVar, cast, get_origin

from pydantic import BaseModel, RootModel
from pydantic_core import PydanticUndefined, to_json

from ledgerq.errors import DefinitionError, InvalidRequest
from ledgerq.text import one_line
from ledgerq.wire.ambiguous import holds_secret, within

T = TypeVar("T")
_CONTAINERS: tuple[Any, ...] = (list, dict, set, frozenset, tuple)


def fields_as_values(payload: BaseModel) -> dict[str, Any]:
    """The fields in JSON's types. Sets become sorted lists: equal payloads are written alike by every process.

    A field that nobody set, and that has the default of its class, is left out: the worker has this default as well. Also
    in a model within, but for a `Literal`, by which the members of a union are told apart. A value of a `default_factory`
    travels, unless that is list, dict or set: another call of the factory would make another one.

    Raises:
        InvalidRequest: JSON can't carry a field's value; names the field.
    """
    written = _dumped(payload, _values)
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
    if _is_plain(type(payload)):
        return _dumped(payload, _json)
    return to_json(fields_as_values(payload))


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


def _dumped(payload: BaseModel, dump: Callable[[BaseModel], T]) -> T:
    try:
        return dump(payload)
    except ValueError as error:  # pydantic's and Unicode's errors are ValueErrors
        raise InvalidRequest("payload", _problem(payload, error)) from None


def _json(payload: BaseModel) -> bytes:
    defaults, given = _defaults(type(payload)), payload.model_fields_set
    left_out = {
        name
        for name, default in defaults.items()
        if name not in given and _is_same(payload.__dict__.get(name), default)
    }
    return payload.__pydantic_serializer__.to_json(
        payload, exclude=left_out or None, by_alias=False, round_trip=True
    )


def _values(payload: BaseModel) -> Any:
    written = payload.__pydantic_serializer__.to_python(
        payload, mode="json", by_alias=False, round_trip=True
    )
    to_json(written)  # which texts there may not be is looked at only here
    return _fit(payload, written, is_payload=True)


def _fit(value: Any, written: Any, *, is_payload: bool = False) -> Any:
    """What JSON has for this value, with its sets sorted, and without the fields that are left out."""
    if isinstance(value, RootModel):
        return _fit(value.root, written)
    if isinstance(written, dict):
        left_out = _left_out(value, is_payload=is_payload) if isinstance(value, BaseModel) else ()
        pairs = zip(_parts(value, written), written.items(), strict=True)
        return {key: _fit(each, part) for each, (key, part) in pairs if key not in left_out}
    if isinstance(written, list) and isinstance(value, Collection) and len(value) == len(written):
        parts = [_fit(each, part) for each, part in zip(value, written, strict=True)]
        return sorted(parts, key=to_json) if isinstance(value, set | frozenset) else parts
    return written


def _parts(value: Any, written: dict[str, Any]) -> Iterable[Any]:
    """The values of which JSON has these, in its order."""
    if isinstance(value, Mapping) and len(value) == len(written):
        return value.values()
    return [getattr(value, name, None) for name in written]  # of a model or a dataclass


def _left_out(model: BaseModel, *, is_payload: bool) -> set[str]:
    fields, given = type(model).model_fields, model.model_fields_set
    return {
        name
        for name, default in _defaults(type(model)).items()
        if name not in given
        and (is_payload or get_origin(fields[name].annotation) is not Literal)
        and _is_same(model.__dict__.get(name), default)
    }


@cache
def _defaults(model: type[BaseModel]) -> dict[str, Any]:
    """The fields with a default that all processes share: a value, or an empty container."""
    found = {}
    for name, field in model.model_fields.items():
        if (factory := field.default_factory) in _CONTAINERS:
            found[name] = cast("Callable[[], Any]", factory)()
        elif field.default is not PydanticUndefined:
            found[name] = field.default
    return found


@cache
def _is_plain(payload: type[BaseModel]) -> bool:
    """True if no field holds sets or other models."""
    schemas = [each["type"] for each in within(payload.__pydantic_core_schema__)]
    return schemas.count("model") == 1 and not {"set", "frozenset", "any"}.intersection(schemas)


def _is_same(value: Any, default: Any) -> bool:
    return value is default or (type(value) is type(default) and bool(value == default))


def _problem(payload: BaseModel, error: ValueError) -> str:
    for name in type(payload).model_fields:
        try:
            payload.model_dump_json(include={name}, by_alias=False, round_trip=True)
        except ValueError as found:
            return f"JSON can't carry its field {name} ({one_line(found)})"
    return f"is no JSON ({one_line(error)})"
