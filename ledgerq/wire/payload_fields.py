"""A payload's fields as they travel, and what keeps a payload class from travelling."""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, Literal, TypeAlias, TypeVar, cast, get_origin

from pydantic import BaseModel, RootModel
from pydantic_core import PydanticUndefined, to_json

from ledgerq.errors import DefinitionError, InvalidRequest
from ledgerq.text import one_line
from ledgerq.wire.ambiguous import holds_secret, within

T = TypeVar("T")
# as pydantic takes it: a name, index or key → True, or what to leave out of the part
Exclude: TypeAlias = dict[Any, Any]
_CONTAINERS: tuple[Any, ...] = (list, dict, set, frozenset, tuple)


def fields_as_json(payload: BaseModel) -> bytes:
    """The fields as JSON. A field that is a set becomes a sorted list: every process writes the same payload alike.

    A field that nobody set, and that has the default of its class, is left out: the worker has this default as well. Also
    in a model within, but for a `Literal`, by which the members of a union are told apart. A value of a `default_factory`
    travels, unless that is list, dict or set: another call of the factory would make another one.

    Raises:
        InvalidRequest: JSON can't carry a field's value; names the field.
    """
    if _sets(type(payload)):
        return to_json(fields_as_values(payload))
    return _dumped(payload, _json)


def fields_as_values(payload: BaseModel) -> dict[str, Any]:
    """The same in JSON's types.

    Raises:
        InvalidRequest: JSON can't carry a field's value; names the field.
    """
    written = _dumped(payload, _values)
    if not isinstance(written, dict):
        raise InvalidRequest(
            "payload", "must be a JSON object: it is made by a serializer of its own"
        )
    return written


def require_no_secret(payload: type[BaseModel]) -> None:
    """Refuse a payload class with a secret, such as pydantic's SecretStr.

    Raises:
        DefinitionError: a field holds a secret.
    """
    if payload.__pydantic_complete__ and _holds_secret(payload):  # else when it is complete
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
    return payload.__pydantic_serializer__.to_json(
        payload, exclude=_of_model(payload), by_alias=False, round_trip=True
    )


def _values(payload: BaseModel) -> Any:
    written = payload.__pydantic_serializer__.to_python(
        payload, mode="json", exclude=_of_model(payload), by_alias=False, round_trip=True
    )
    for name in _sets(type(payload)) if isinstance(written, dict) else ():
        if isinstance(written.get(name), list):
            written[name].sort(key=to_json)
    to_json(written)  # which texts there may not be is looked at only here
    return written


def _of_model(model: BaseModel, keep: Collection[str] = ()) -> Exclude | None:
    """What is left out of a model: unset defaults, but for the fields in `keep`."""
    found: Exclude = {name: True for name in _unset_defaults(model) if name not in keep}
    parts = ((name, model.__dict__.get(name)) for name in _with_models(type(model)))
    return _of_parts(found, parts)


def _left_out(value: Any) -> Exclude | None:
    """What is left out of a value in the payload."""
    if isinstance(value, RootModel):
        return None
    if isinstance(value, BaseModel):
        return _of_model(value, _tags(type(value)))
    if isinstance(value, Mapping) and "__all__" not in value:  # which pydantic takes for all keys
        return _of_parts({}, value.items())
    if isinstance(value, list | tuple):
        return _of_parts({}, enumerate(value))
    if is_dataclass(value):
        return _of_parts(
            {}, ((each.name, getattr(value, each.name, None)) for each in fields(value))
        )
    return None


def _of_parts(found: Exclude, parts: Iterable[tuple[Any, Any]]) -> Exclude | None:
    for key, part in parts:
        if key not in found and (inner := _left_out(part)):
            found[key] = inner
    return found or None


def _unset_defaults(model: BaseModel) -> list[str]:
    given, values = model.model_fields_set, model.__dict__
    return [
        name
        for name, default in _defaults(type(model)).items()
        if name not in given and _is_same(values.get(name), default)
    ]


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
def _tags(model: type[BaseModel]) -> frozenset[str]:
    """The fields by which the members of a union are told apart."""
    each_field = model.model_fields.items()
    return frozenset(name for name, field in each_field if get_origin(field.annotation) is Literal)


@cache
def _with_models(model: type[BaseModel]) -> tuple[str, ...]:
    """The fields that may hold other models."""
    holding = {"model", "dataclass", "definition-ref"}
    return tuple(
        name
        for name, schema in _fields_of(model).items()
        if any(part["type"] in holding for part in within(schema))
    )


@cache
def _sets(payload: type[BaseModel]) -> tuple[str, ...]:
    """The fields that are sets, without a serializer of their own."""
    fields_of = _fields_of(payload)
    return tuple(name for name, schema in fields_of.items() if _is_set(schema))


def _is_set(schema: Any) -> bool:
    while isinstance(schema, dict) and "serialization" not in schema:
        if schema["type"] in {"set", "frozenset"}:
            return True
        schema = schema.get("schema")
    return False


def _fields_of(model: type[BaseModel]) -> Mapping[str, Any]:
    """The core schemas of the model's fields."""
    for schema in within(model.__pydantic_core_schema__):
        if schema["type"] == "model" and schema["cls"] is model:
            inner = next(each for each in within(schema["schema"]) if "fields" in each)
            return cast("Mapping[str, Any]", inner["fields"])
    return {}


def _is_same(value: Any, default: Any) -> bool:
    if value is default:
        return True
    try:
        return type(value) is type(default) and bool(value == default)
    except Exception:  # noqa: BLE001 - the value's own code, of an array maybe
        return False


def _problem(payload: BaseModel, error: ValueError) -> str:
    for name in type(payload).model_fields:
        try:
            payload.model_dump_json(include={name}, by_alias=False, round_trip=True)
        except ValueError as found:
            return f"JSON can't carry its field {name} ({one_line(found)})"
    return f"is no JSON ({one_line(error)})"
