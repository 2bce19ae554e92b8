"""Reads the payload and result types from a handler's annotations; refuses an unfit handler, and names the cure."""

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from ledgerq.errors import DefinitionError
from ledgerq.text import described
from ledgerq.wire.ambiguous import holds_secret, why_ambiguous
from ledgerq.wire.answers import require_json
from ledgerq.wire.payload import Payload, result_type

_MAX_PROBLEM = 200
_CONTEXT_AND_PAYLOAD = ("context", "payload")


def read_handler(
    handler: Callable[..., Any], context: type, outside: "tuple[type[Any], Any] | None" = None
) -> type[Any]:
    """Check a handler; answers with the class of its payload.

    Its form is `async def close_order(context: JobContext, payload: CloseOrder) -> int`, with any result that JSON carries.

    Args:
        handler: the function.
        context: the class of its first argument.
        outside: payload class and answer type of the kind's function that works outside of the database; the handler must
            take the same payload, and that answer as its third argument. None: the kind has no such function.

    Raises:
        DefinitionError: the handler has another form, or JSON can't carry its result.
    """
    name = _name(handler)
    _require_coroutine_function(handler, name)
    hints = _hints(handler, name)
    names = _parameters(handler, name, 2 if outside is None else 3)
    payload = _payload_of(hints, context, name, names)
    require_result(hints, result_type(payload), name)
    if outside is not None:
        for argument, wanted in zip(names[1:], outside, strict=True):
            found = hints.get(argument)
            if found is not wanted and found != wanted:
                raise DefinitionError(
                    f"{name}({argument})",
                    f"must be annotated as {_shown(wanted)}, as its function outside has it",
                    "let both name the same types",
                )
    return payload


def _payload_of(
    hints: dict[str, Any], context: type, name: str, names: Sequence[str]
) -> type[Payload[Any]]:
    """The payload class, if the function's first two arguments are a context and a payload."""
    first, second = names[:2]
    _require_context(hints.get(first), context, f"{name}({first})")
    payload = hints.get(second)
    require_payload(payload, f"{name}({second})")
    assert isinstance(payload, type)  # noqa: S101 - as was required
    return payload


def read_outside(
    function: Callable[..., Any], context: type, *, in_thread: bool = False
) -> tuple[type[Any], Any]:
    """Check a job's `outside` function; returns its payload class and the type that it returns.

    Its form is `async def charge(outside: Outside, order: ChargeOrder) -> Receipt`; with `in_thread`, a plain `def`.

    Raises:
        DefinitionError: the function has another form.
    """
    name = _name(function)
    problem = _what_else(function)
    if problem is None and in_thread is inspect.iscoroutinefunction(function):
        problem = "is an async def, which runs in no thread" if in_thread else "is a plain def"
    if problem:
        cure = "write async def; or a plain def, with in_thread=True; or give it to outside.step"
        raise DefinitionError(f"{name}: job(outside=)", problem, cure)
    hints = _hints(function, name)
    payload = _payload_of(hints, context, name, _parameters(function, name, 2))
    if "return" not in hints:
        raise _no_result(name)
    return payload, hints["return"]


def read_handler_of_many(
    handler: Callable[..., Any], context: type, payload: type[Payload[Any]]
) -> None:
    """Check a kind's function for many jobs: it takes a sequence of contexts and a sequence of this kind's payloads.

    Raises:
        DefinitionError: the function has another form.
    """
    name = _name(handler)
    _require_coroutine_function(handler, name)
    hints, (first, second) = _hints(handler, name), _parameters(handler, name, 2)
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
    """Refuse an annotation that is not a payload class with a kind. `where` is the place that the error names.

    Raises:
        DefinitionError: `payload` is no payload class, or a payload class without a kind.
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
    """Refuse a result type that JSON can't carry, or that differs from the payload class's result type, `promised`.

    Raises:
        DefinitionError: the result type is refused, or the handler has no annotation for its result.
    """
    if "return" not in hints:
        raise _no_result(name)
    answer = hints["return"]
    if promised is not Any and answer is not Any and not _fits(answer, promised):
        raise DefinitionError(
            f"{name}() -> {_shown(answer)}",
            f"its payload promises {_shown(promised)}",
            "let Payload[…] and the handler name the same type",
        )
    adapter = require_json(
        answer,
        f"{name}() -> {_shown(answer)}",
        "JSON can't carry such a result",
        "answer with numbers, texts, lists, dicts, dataclasses or models; or with None",
    )
    if holds_secret(adapter.core_schema):
        raise DefinitionError(
            f"{name}() -> {_shown(answer)}",
            "holds a secret: producers would read asterisks",
            "answer with what they need, not with a secret",
        )
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
    if problem := _what_else(handler):
        raise DefinitionError(name, problem, "write an async def that calls it, with @job above")
    if not inspect.iscoroutinefunction(handler):
        raise DefinitionError(
            name,
            "is a plain def, which would stop all jobs of the worker while it runs; ledgerq runs one in a thread, outside of "
            "the transaction, only where the job says so",
            "write async def; what is slow goes to a function of @job(outside=…), which may run it in a thread",
        )


def _what_else(handler: Callable[..., Any]) -> str | None:
    """What a thing is that is no function; None if it is one."""
    if isinstance(handler, type):
        return "is a class"
    if isinstance(handler, partial):
        return "is a functools.partial, which has no annotations"
    if inspect.isasyncgenfunction(handler):
        return "is an async generator: it has a yield, and a job answers once"
    if not inspect.isroutine(handler) and not inspect.iscoroutinefunction(handler):
        return "is an object with __call__, which has no name of its own"
    return None


def _parameters(handler: Callable[..., Any], name: str, count: int) -> list[str]:
    needed = [
        each
        for each in inspect.signature(handler).parameters.values()
        if each.default is each.empty or each.kind is each.VAR_POSITIONAL
    ]
    names = [each.name for each in needed]
    by_name = [each.name for each in needed if each.kind is each.KEYWORD_ONLY]
    if by_name:
        raise DefinitionError(
            f"{name}({by_name[0]})",
            "can be given by its name only, and ledgerq gives its arguments by position",
            "remove the * before it, or give it a default",
        )
    if len(names) != count:
        both = "two arguments, a context and a payload"
        all_three = "three arguments: a context, a payload and what its function outside answers"
        raise DefinitionError(
            f"{name}({', '.join(names)})",
            f"must take {both if count == len(_CONTEXT_AND_PAYLOAD) else all_three}",
            "as in: async def close_order(context: JobContext, order: CloseOrder) -> int",
        )
    return names


def _hints(handler: Callable[..., Any], name: str) -> dict[str, Any]:
    try:
        return get_type_hints(handler)
    except NameError as error:
        raise DefinitionError(
            name,
            f"an annotation names {error.name}, which is not there when the module is imported",
            "import it above the function, not under TYPE_CHECKING; define a class at the top level",
        ) from None
    except Exception as error:  # noqa: BLE001 - annotations are code
        raise DefinitionError(
            name,
            f"an annotation can't be read: {described(error, _MAX_PROBLEM)}",
            "write the annotations as Python has them",
        ) from None


def _require_context(found: object, context: type, where: str, *, many: bool = False) -> None:
    if found is context or get_origin(found) is context:
        return
    wanted = f"Sequence[{context.__name__}]" if many else context.__name__
    raise DefinitionError(
        where, f"must be annotated as {wanted}", "the first argument is the context"
    )


def _element(hint: object) -> object:
    """The type of the items in `Sequence[…]` or `list[…]`; None for any other annotation."""
    if get_origin(hint) not in {Sequence, list}:
        return None
    return get_args(hint)[0]


def _name(handler: object) -> str:
    module = getattr(handler, "__module__", "")
    return f"{module}.{getattr(handler, '__qualname__', repr(handler))}".lstrip(".")


def _shown(hint: object) -> str:
    if not get_args(hint) and (name := getattr(hint, "__name__", None)):
        return str(name)
    return str(hint).replace("typing.", "")


def _fits(answer: Any, promised: Any) -> bool:
    """True if the types are the same, however they are written, or the promised one is a union with the other in it."""
    if _written_plainly(answer) == _written_plainly(promised):
        return True
    return get_origin(promised) in {Union, UnionType} and any(
        _fits(answer, each) for each in get_args(promised)
    )


def _written_plainly(hint: Any) -> Any:
    """`List[int]` as `list[int]` is, and `Union[int, str]` as `str | int`; only for comparison."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is None or origin is Literal:
        return hint
    parts = tuple(_written_plainly(each) for each in args)
    return (Union, frozenset(parts)) if origin in {Union, UnionType} else (origin, parts)
