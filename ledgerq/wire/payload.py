"""What a job carries, as a strict model: its wire name, its fields, and the type of the answer."""

import typing
from functools import cache
from inspect import get_annotations
from typing import Any, ClassVar, Generic, Unpack

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError, to_json, to_jsonable_python
from typing_extensions import TypeVar

from ledgerq.errors import DefinitionError, UnexpectedResult
from ledgerq.wire.names import CRON_PREFIX, MAX_KIND
from ledgerq.wire.queue_name import checked_queue

_OWN = ("kind", "queue")

R = TypeVar("R", default=Any)


class Payload(BaseModel, Generic[R]):
    """What a job carries. Producers import it, so it says all that they need to know.

    ```python
    class CloseOrder(Payload[int], kind="close_order"):
        order_id: UUID
    ```

    The type in brackets is that of the answer. `kind` is the name on the wire: it stays when the class is renamed. `queue`
    is where the jobs of the kind wait; without one, on the process's default queue. The model is strict: a number is not a
    text, an unknown field is an error, and no error repeats a value.

    Raises:
        DefinitionError: kind or queue is not such as can travel, or a field has the name of one of them.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, hide_input_in_errors=True)

    kind: ClassVar[str]
    queue: ClassVar[str | None] = None

    def __init_subclass__(
        cls, *, kind: str | None = None, queue: str | None = None, **options: Unpack[ConfigDict]
    ) -> None:
        """Take the class's own words out of its head."""
        super().__init_subclass__(**options)
        if kind is not None:
            cls.kind = kind
        if queue is not None:
            cls.queue = queue
        for name in _OWN:
            if "ClassVar" not in str(get_annotations(cls).get(name, "ClassVar")):
                raise DefinitionError(
                    f"{cls.__qualname__}.{name}",
                    f"is a field, and {name} is what every payload says of its class",
                    "give the field another name",
                )
        _require_kind(cls.__qualname__, vars(cls).get("kind"))
        require_queue(f"{cls.__qualname__}(queue=)", vars(cls).get("queue"))


def _require_kind(owner: str, kind: object) -> None:
    """Kinds are printed, stored and typed."""
    if kind is None:
        return
    problem = None
    if not isinstance(kind, str) or not 1 <= len(kind) <= MAX_KIND or not kind.isprintable():
        problem = f"must have 1 to {MAX_KIND} printable characters"
    elif kind.startswith(CRON_PREFIX):
        problem = f"begins with {CRON_PREFIX}, which stands for jobs of the schedule"
    if problem:
        raise DefinitionError(f"{owner}(kind=)", problem, "choose another one")


def require_queue(where: str, queue: str | None) -> None:
    """Refuse a name that can be no queue's.

    Raises:
        DefinitionError: it is one; names the place.
    """
    if queue is None:
        return
    try:
        checked_queue(queue)
    except ValueError as error:
        raise DefinitionError(where, str(error), "choose another one") from None


def as_json(payload: type[Payload[Any]], answer: Any) -> Any:
    """The handler's answer as JSON has it, so that `answer_of` makes the same answer of it again.

    An answer that is not of the type that the payload names is taken as it is.
    """
    adapter = _adapter(payload)
    if adapter is None:
        return to_jsonable_python(answer)
    try:
        return adapter.dump_python(
            answer, mode="json", by_alias=False, round_trip=True, warnings="error"
        )
    except PydanticSerializationError:
        return to_jsonable_python(answer, by_alias=False)


def answer_of(job_id: str, payload: type[Payload[Any]], result: Any) -> Any:
    """What JSON carried, as the type that the payload names.

    Raises:
        UnexpectedResult: it is not of that type; the error has no value of the answer.
    """
    adapter = _adapter(payload)
    if adapter is None:
        return result
    try:
        # as JSON: there a strict model takes a date or a UUID by its text
        return adapter.validate_json(to_json(result), by_alias=True, by_name=True)
    except ValidationError as error:
        told = error.errors(include_url=False, include_input=False)[0]["msg"]
        raise UnexpectedResult(job_id, payload.kind, told) from None


@cache
def _adapter(payload: type[Payload[Any]]) -> TypeAdapter[Any] | None:
    """None if any answer will do."""
    named = result_type(payload)
    return None if named is Any else TypeAdapter(named)


@cache
def result_type(payload: type[Payload[Any]]) -> Any:
    """The type in the brackets of `Payload[…]`; `Any` if there is none. None is its type, as for `get_type_hints`."""
    answer = _named_in(payload, {})
    return type(None) if answer is None else answer


def _named_in(payload: type[Any], known: dict[Any, Any]) -> Any:
    """The type that a class hands to `Payload[…]`, with the type variables of generic classes between replaced."""
    generic = vars(payload).get("__pydantic_generic_metadata__") or {}
    if origin := generic.get("origin"):
        args = [_replaced(each, known) for each in generic["args"]]
        if origin is Payload:
            return args[0]
        known = dict(zip(origin.__pydantic_generic_metadata__["parameters"], args, strict=True))
    for base in payload.__bases__:
        if issubclass(base, Payload) and base is not Payload:
            return _named_in(base, known)
    return Any


def _replaced(hint: Any, known: dict[Any, Any]) -> Any:
    """The type with what is known of its variables; a variable that is not known is `Any`."""
    if isinstance(hint, TypeVar | typing.TypeVar):
        return known.get(hint, Any)
    variables = getattr(hint, "__parameters__", ())
    if any(each in known for each in variables):
        return hint[tuple(known.get(each, Any) for each in variables)]
    return hint
