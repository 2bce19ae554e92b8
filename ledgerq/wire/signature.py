"""What a handler's annotations say: its payload and its result; and what can't be a job, with the cure."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any, get_args, get_origin, get_type_hints

from pydantic import PydanticSchemaGenerationError, PydanticUserError, TypeAdapter
from pydantic.errors import PydanticInvalidForJsonSchema

from ledgerq.errors import DefinitionError
from ledgerq.wire.ambiguous import why_ambiguous
from ledgerq.wire.payload import Payload, result_type


def read_handler(handler: Callable[..., Any], context: type) -> type[Any]:
    """The payload class of `async def handler(context: JobContext, payload: CloseOrder) -> int`.

    Raises:
        DefinitionError: it is no such function.
    """
    name = _name(handler)
    _require_coroutine_function(handler, name)
    hints, (first, second) = _hints(handler, name), _parameters(handler, name)
    _require_context(hints.get(first), context, f"{name}({first})")
    payload = hints.get(second)
    require_payload(payload, f"{name}({second})")
    assert isinstance(payload, type)  # noqa: S101 - as was required
    require_result(hints, result_type(payload), name)
    return payload


def read_handler_of_many(
    handler: Callable[..., Any], context: type, payload: type[Payload[Any]]
) -> None:
    """Look at a function of many contexts and many payloads of this kind.

    Raises:
        DefinitionError: it is no such function.
    """
    name = _name(handler)
    _require_coroutine_function(handler, name)
    hints, (first, second) = _hints(handler, name), _parameters(handler, name)
    _require_context(_element(hints.get(first)), context, f"{name}({first})", many=True)
    if _element(hints.get(second)) is not payload:
        raise DefinitionError(
            f"{name}({second})",
            f"must be annotated as Sequence[{payload.__name__}]",
            "a function for many takes the payloads of its own kind",
        )
    if "return" not in hints:
        raise _no_result(name)


def require_payload(payload: object, where: str) -> None:
    """Refuse what no job can carry.

    Raises:
        DefinitionError: it is no payload class, or one without a kind.
    """
    if not isinstance(payload, type) or not issubclass(payload, Payload) or payload is Payload:
        raise DefinitionError(
            where,
            "must be annotated with a class of Payload",
            'as in: class CloseOrder(Payload[int], kind="close_order")',
        )
    if getattr(payload, "kind", None) is None:
        raise DefinitionError(
            payload.__qualname__,
            "names no kind",
            f'write: class {payload.__name__}(Payload[…], kind="…")',
        )


def require_result(hints: dict[str, Any], promised: Any, name: str) -> None:
    """Refuse a result that JSON can't carry, or that the payload does not promise.

    Raises:
        DefinitionError: so it is, or the annotation is missing.
    """
    if "return" not in hints:
        raise _no_result(name)
    answer = hints["return"]
    if promised is not Any and answer not in {promised, Any}:
        raise DefinitionError(
            f"{name}() -> {_shown(answer)}",
            f"its payload promises {_shown(promised)}",
            "let Payload[…] and the handler name the same type",
        )
    try:
        adapter = TypeAdapter(answer)
        adapter.json_schema(mode="serialization")
    except (PydanticSchemaGenerationError, PydanticInvalidForJsonSchema, PydanticUserError):
        raise DefinitionError(
            f"{name}() -> {_shown(answer)}",
            "JSON can't carry such a result",
            "answer with numbers, texts, lists, dicts, dataclasses or models; or with None",
        ) from None
    if promised is not Any and (problem := why_ambiguous(adapter)):
        raise DefinitionError(
            f"{name}() -> {_shown(answer)}",
            f"{problem}: producers could not read it back",
            "let each place have one type",
        )


def _no_result(name: str) -> DefinitionError:
    cure = "annotate it, as in -> int; a handler that answers nothing: -> None"
    return DefinitionError(f"{name}()", "does not say what it answers", cure)


def _require_coroutine_function(handler: Callable[..., Any], name: str) -> None:
    if not callable(handler):
        raise DefinitionError(name, "is no function", "put @job above an async def")
    if not inspect.iscoroutinefunction(handler):
        raise DefinitionError(
            name,
            "is a plain def, which ledgerq runs in a thread, outside the transaction, only where the job says so; this "
            "version has no way to say so",
            "write async def",
        )


def _parameters(handler: Callable[..., Any], name: str) -> tuple[str, str]:
    names = [
        each.name
        for each in inspect.signature(handler).parameters.values()
        if each.default is each.empty or each.kind is each.VAR_POSITIONAL
    ]
    if len(names) != 2:  # noqa: PLR2004 - as the message says
        raise DefinitionError(
            f"{name}({', '.join(names)})",
            "must take two arguments, a context and a payload",
            "as in: async def close_order(context: JobContext, order: CloseOrder) -> int",
        )
    return names[0], names[1]


def _hints(handler: Callable[..., Any], name: str) -> dict[str, Any]:
    try:
        return get_type_hints(handler)
    except NameError as error:
        raise DefinitionError(
            name,
            f"an annotation names {error.name}, which is not there when the module is imported",
            "import it above the function, not under TYPE_CHECKING; define a class at the top level",
        ) from None


def _require_context(found: object, context: type, where: str, *, many: bool = False) -> None:
    if found is context or get_origin(found) is context:
        return
    wanted = f"Sequence[{context.__name__}]" if many else context.__name__
    raise DefinitionError(
        where, f"must be annotated as {wanted}", "the first argument is the context"
    )


def _element(hint: object) -> object:
    """Of a sequence or list, what it holds."""
    if get_origin(hint) not in {Sequence, list}:
        return None
    return get_args(hint)[0]


def _name(handler: object) -> str:
    module = getattr(handler, "__module__", "")
    return f"{module}.{getattr(handler, '__qualname__', repr(handler))}".lstrip(".")


def _shown(hint: object) -> str:
    return getattr(hint, "__name__", None) or str(hint)
