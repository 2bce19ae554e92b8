"""What a function answers, by its annotation: to JSON, and from JSON into the same type again."""

from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from inspect import iscoroutinefunction, unwrap
from types import FunctionType
from typing import Any, Generic, TypeVar, get_args, get_origin, get_type_hints
from weakref import WeakKeyDictionary

from pydantic import PydanticUserError, TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError, to_json, to_jsonable_python

from ledgerq.errors import DefinitionError
from ledgerq.wire.ambiguous import holds_secret, why_ambiguous

T = TypeVar("T")

_AWAITED = {Awaitable, Coroutine}


@dataclass(frozen=True, slots=True)
class AnswerType(Generic[T]):
    """Converts values of one type to JSON's types and back. Without an `adapter`, `from_json` returns its argument."""

    adapter: TypeAdapter[Any] | None = None

    def as_json(self, answer: T) -> Any:
        """The answer in JSON's types, from which `from_json` makes an equal answer.

        An answer of another type is not refused: it is converted by the rules of its own class.

        Raises:
            PydanticSerializationError: JSON can't carry the answer.
        """
        if self.adapter is None:
            return to_jsonable_python(answer)
        try:
            return self.adapter.dump_python(
                answer, mode="json", by_alias=False, round_trip=True, warnings="error"
            )
        except PydanticSerializationError:
            return to_jsonable_python(answer, by_alias=False)

    def from_json(self, value: Any) -> T:
        """The value, which was read from JSON, converted to the answer's type.

        Raises:
            ValidationError: it does not fit the type. The error holds the value, which may be a secret.
        """
        if self.adapter is None:
            return value  # type: ignore[no-any-return]
        # as JSON, because from JSON a strict model takes dates and UUIDs as texts
        return self.adapter.validate_json(to_json(value), by_alias=True, by_name=True)  # type: ignore[no-any-return]

    def keeps(self, value: T, kept: Any) -> bool:
        """True if `kept`, the value in JSON's types, can be read back as an equal value; False also if it can't be read."""
        try:
            return bool(self.from_json(kept) == value)
        except ValidationError:
            return False


def answer_type(function: Callable[..., Any]) -> AnswerType[Any]:
    """The type in a function's return annotation, as an `AnswerType`; for any JSON value if there is no usable annotation.

    Raises:
        DefinitionError: JSON can't carry such a type, or the type holds a secret, which is never stored.
    """
    while isinstance(function, partial):
        function = function.func
    function = getattr(function, "__func__", function)
    if hasattr(function, "cache_info"):  # functools.cache hides the annotations
        function = unwrap(function)
    if not isinstance(function, FunctionType):
        function = getattr(type(function), "__call__", function)  # noqa: B004 - it is looked at
    if not getattr(function, "__annotations__", None):
        return AnswerType()
    known = _KNOWN.get(function)
    if known is None:
        known = _KNOWN[function] = _type_of(function)
    return known


_KNOWN: WeakKeyDictionary[Callable[..., Any], AnswerType[Any]] = WeakKeyDictionary()


def _type_of(function: Callable[..., Any]) -> AnswerType[Any]:
    try:
        answer = get_type_hints(function).get("return", Any)
    except (NameError, TypeError):
        return AnswerType()
    if not iscoroutinefunction(function) and get_origin(answer) in _AWAITED:
        answer = get_args(answer)[-1]
    if answer is Any:
        return AnswerType()
    where = f"{function.__qualname__}() -> {getattr(answer, '__name__', answer)}"
    adapter = require_json(
        answer,
        where,
        "JSON can't carry such an answer of a step",
        "wrap it in a function that answers with what the job needs: numbers, texts, lists, dicts, dataclasses, models",
    )
    if holds_secret(adapter.core_schema):  # it would come back as asterisks
        raise DefinitionError(
            where,
            "holds a secret, which is not written down",
            "answer with what the job needs, not with a secret",
        )
    if problem := why_ambiguous(adapter):
        raise DefinitionError(
            where, f"{problem}: it could not be read back", "let each place have one type"
        )
    return AnswerType(adapter)


def require_json(hint: Any, where: str, problem: str, cure: str) -> TypeAdapter[Any]:
    """The adapter of a type that JSON can carry.

    Raises:
        DefinitionError: JSON can't carry it; with this place, problem and cure.
    """
    try:
        adapter = TypeAdapter[Any](hint)
        adapter.json_schema(mode="serialization")
    except PydanticUserError as error:
        if error.code == "typed-dict-version":
            cure = "take TypedDict from typing_extensions; that of typing can't be read before Python 3.12"
        raise DefinitionError(where, problem, cure) from None
    return adapter


def type_like(value: T) -> AnswerType[T]:
    """The `AnswerType` that converts values of this value's class; for None, one that takes any JSON value."""
    return AnswerType() if value is None else AnswerType(TypeAdapter(type(value)))
