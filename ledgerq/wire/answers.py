"""What a function answers, by its annotation: to JSON, and from JSON into the same type again."""

from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from functools import lru_cache, partial
from inspect import iscoroutinefunction
from typing import Any, Generic, TypeVar, get_args, get_origin, get_type_hints

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
            return self.adapter.dump_python(answer, mode="json", warnings="error")
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
            return self.adapter.validate_json(to_json(value))  # type: ignore[no-any-return]
        except ValidationError as error:
            told = error.errors(include_url=False, include_input=False)[0]
            raise ValueError(
                f"{told['msg']} at {'.'.join(map(str, told['loc'])) or 'the top'}"
            ) from None


def answer_type(function: Callable[..., Any]) -> AnswerType[Any]:
    """The type that the function's annotation names.

    Raises:
        DefinitionError: JSON can't carry such a type.
    """
    while isinstance(function, partial):
        function = function.func
    function = getattr(function, "__func__", function)
    if not hasattr(function, "__annotations__"):
        function = type(function).__call__
    return _type_of(function)


@lru_cache(maxsize=1_000)
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
        adapter.json_schema(mode="serialization")
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
