"""What a job carries, as a strict model: its wire name, its fields, and the type of the answer."""

from functools import cache
from inspect import get_annotations
from typing import Any, ClassVar, Generic, Unpack

from pydantic import BaseModel, ConfigDict, TypeAdapter
from typing_extensions import TypeVar

from ledgerq.errors import DefinitionError
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


def answer_of(payload: type[Payload[Any]], result: Any) -> Any:
    """What JSON carried, as the type that the payload names.

    Raises:
        ValidationError: it is not of that type.
    """
    adapter = _adapter(payload)
    return result if adapter is None else adapter.validate_python(result)


@cache
def _adapter(payload: type[Payload[Any]]) -> TypeAdapter[Any] | None:
    """None if any answer will do."""
    named = result_type(payload)
    return None if named is Any else TypeAdapter(named)


@cache
def result_type(payload: type[Payload[Any]]) -> Any:
    """The type in the brackets of `Payload[…]`; `Any` if there is none. None is its type, as for `get_type_hints`."""
    for base in payload.__mro__:
        generic = vars(base).get("__pydantic_generic_metadata__") or {}
        if generic.get("origin") is Payload:
            [answer] = generic["args"]
            if isinstance(answer, TypeVar):
                return Any
            return type(None) if answer is None else answer
    return Any
