"""`Payload`, the base class of what jobs carry: fields, the name of the kind, and the type of the result."""

import typing
from functools import cache
from inspect import get_annotations
from typing import Any, ClassVar, Generic, Unpack

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from typing_extensions import TypeVar

from ledgerq.errors import DefinitionError, UnexpectedResult
from ledgerq.wire.answers import AnswerType
from ledgerq.wire.names import CRON_PREFIX, MAX_KIND
from ledgerq.wire.queue_name import checked_queue

_OWN = ("kind", "queue", "keep_result")

R = TypeVar("R", default=Any)


class Payload(BaseModel, Generic[R]):
    """The fields that a job of one kind carries. Producers and workers import the same payload class.

    ```python
    class CloseOrder(Payload[int], kind="close_order"):
        order_id: UUID
    ```

    The type in brackets is the type of the handler's result. `kind` names the kind in each body: keep the name when you
    rename the class. `queue` is the queue on which the jobs of the kind wait. Without `queue` they wait on the default
    queue of the process that puts them on Redis. `keep_result` is for how many seconds Redis keeps a result, in place of
    the worker's LEDGERQ_KEEP_RESULT; with 0 it keeps none, and only the database has the result. The model is strict: a
    number is not accepted for a text, an unknown field is an error, and no error repeats a value.

    Raises:
        DefinitionError: `kind`, `queue` or `keep_result` is not valid, or a field has one of these names.
    """

    model_config = ConfigDict(
        strict=True,
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
        ser_json_inf_nan="constants",  # not null, which would be another value: see `Request.fields`
    )

    kind: ClassVar[str]
    queue: ClassVar[str | None] = None
    keep_result: ClassVar[int | None] = None

    def __init_subclass__(
        cls,
        *,
        kind: str | None = None,
        queue: str | None = None,
        keep_result: int | None = None,
        **options: Unpack[ConfigDict],
    ) -> None:
        """Read `kind`, `queue` and `keep_result` from the class statement, and check them."""
        super().__init_subclass__(**options)
        if kind is not None:
            cls.kind = kind
        if queue is not None:
            cls.queue = queue
        if keep_result is not None:
            cls.keep_result = keep_result
        for name in _OWN:
            if "ClassVar" not in str(get_annotations(cls).get(name, "ClassVar")):
                raise DefinitionError(
                    f"{cls.__qualname__}.{name}",
                    f"is a field, and {name} is what every payload says of its class",
                    "give the field another name",
                )
        _require_kind(cls.__qualname__, vars(cls).get("kind"))
        require_queue(f"{cls.__qualname__}(queue=)", vars(cls).get("queue"))
        _require_seconds(f"{cls.__qualname__}(keep_result=)", vars(cls).get("keep_result"))


def _require_seconds(where: str, seconds: object) -> None:
    """Refuse what is no whole number of seconds from 0 up. None passes."""
    if seconds is not None and not (type(seconds) is int and seconds >= 0):
        raise DefinitionError(where, "must be whole seconds, 0 or more", "give 0 to keep none")


def _require_kind(owner: str, kind: object) -> None:
    """Refuse a kind that can't be printed, stored and typed. None passes."""
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
    """Refuse a name that is not valid for a queue. None passes.

    Raises:
        DefinitionError: the name is not valid. The error begins with `where`.
    """
    if queue is None:
        return
    try:
        checked_queue(queue)
    except ValueError as error:
        raise DefinitionError(where, str(error), "choose another one") from None


def answer_of(job_id: str, payload: type[Payload[Any]], result: Any) -> Any:
    """A job's result, converted from JSON to the result type that the payload class names.

    Raises:
        UnexpectedResult: the result does not fit the type; the error shows no value of it.
    """
    try:
        return answers_of(payload).from_json(result)
    except ValidationError as error:
        told = error.errors(include_url=False, include_input=False)[0]["msg"]
        raise UnexpectedResult(job_id, payload.kind, told) from None


@cache
def answers_of(payload: type[Payload[Any]]) -> AnswerType[Any]:
    """What turns results of this payload class into JSON and back: by the type in `Payload[…]`, any without one."""
    named = result_type(payload)
    return AnswerType() if named is Any else AnswerType(TypeAdapter(named))


@cache
def result_type(payload: type[Payload[Any]]) -> Any:
    """The type in the brackets of `Payload[…]`; `Any` without brackets; `NoneType` for `Payload[None]`."""
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
