"""What a function answers, by its annotation: to JSON, and from JSON into the same type again."""

from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from inspect import iscoroutinefunction
from types import FunctionType
from typing import Any, Generic, TypeVar, get_args, get_origin, get_type_hints
from weakref import WeakKeyDictionary

from pydantic import PydanticSchemaGenerationError, PydanticUserError, TypeAdapter, ValidationError
from pydantic.errors import PydanticInvalidForJsonSchema
from pydantic_core import PydanticSerializationError, to_json

from ledgerq.errors import DefinitionError

T = TypeVar("T")

_AWAITED = {Awaitable, Coroutine}


@dataclass(frozen=True, slots=True)
class AnswerType(Generic[T]):
    """A type as JSON carries it. Without an adapter any JSON will do."""

    adapter: TypeAdapter[Any] | None = None

    def as_json(self, answer: T) -> Any:
        """The answer, ready for JSON; as it is, if it is not of its type: then JSON decides."""
        if self.adapter is None:
            return answer
        try:
            return self.adapter.dump_python(
                answer, mode="json", warnings="error", by_alias=False, round_trip=True
            )
        except (PydanticSerializationError, ValueError):
            return answer

    def from_json(self, value: Any) -> T:
        """The value in its type.

        Raises:
            ValueError: it is not of that type.
        """
        if self.adapter is None:
            return value  # type: ignore[no-any-return]
        try:
            return self.adapter.validate_json(to_json(value), by_name=True, by_alias=True)  # type: ignore[no-any-return]
        except ValidationError as error:
            told = error.errors(include_url=False, include_input=False)[0]
            raise ValueError(
                f"{told['msg']} at {'.'.join(map(str, told['loc'])) or 'the top'}"
            ) from None

    def keeps(self, value: T, kept: Any) -> bool:
        """True if the value is the same after JSON."""
        try:
            return bool(self.from_json(kept) == value)
        except ValueError:
            return False


def answer_type(function: Callable[..., Any]) -> AnswerType[Any]:
    """The type that the function's annotation names.

    Raises:
        DefinitionError: JSON can't carry such a type.
    """
    while isinstance(function, partial):
        function = function.func
    function = getattr(function, "__func__", function)
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
    try:
        adapter = TypeAdapter[Any](answer)
        schema = adapter.json_schema(mode="serialization")
        if '"writeOnly"' in str(schema).replace("'", '"'):  # a secret would come back as asterisks
            raise DefinitionError(
                f"{function.__qualname__}() -> {getattr(answer, '__name__', answer)}",
                "holds a secret, which is not written down",
                "answer with what the job needs, not with a secret",
            )
    except (PydanticSchemaGenerationError, PydanticInvalidForJsonSchema, PydanticUserError):
        raise DefinitionError(
            f"{function.__qualname__}() -> {getattr(answer, '__name__', answer)}",
            "JSON can't carry such an answer of a step",
            "wrap it in a function that answers with what the job needs: numbers, texts, lists, dicts, dataclasses, models",
        ) from None
    return AnswerType(adapter)


def type_like(value: T) -> AnswerType[T]:
    """The type of a value that JSON is to carry; of None, any."""
    return AnswerType() if value is None else AnswerType(TypeAdapter(type(value)))
