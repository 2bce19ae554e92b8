"""Converts a handler's result to JSON that the database can store; refuses any other result with an error."""

import math
import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sized
from dataclasses import fields, is_dataclass
from typing import Any

from pydantic import BaseModel
from pydantic_core import to_json

from ledgerq.errors import InvalidResult, ResultTooLarge
from ledgerq.wire.answers import AnswerType
from ledgerq.wire.payload import Payload, answers_of

_ANY: AnswerType[Any] = AnswerType()
_MAX_ID = 2**63
_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
_MAY_BE_NO_NUMBER = (b"NaN", b"Infinity")
_MAX_DEPTH = 100  # levels of nesting; JSON parsers stop at about 200
_MAX_DIGITS = 4000  # of a whole number; Python's parser stops at 4,300
_MAX_BITS = int(_MAX_DIGITS * math.log2(10))
_TEXTS = (str, bytes, bytearray, bool)


def holds_nul(encoded: bytes) -> bool:
    """True if a text in this JSON holds NUL, which no database keeps."""
    return b"\\u0000" in encoded and _NUL.search(encoded) is not None


def storable_result(result: Any, limit: int, payload: type[Payload[Any]] | None = None) -> Any:
    """The result in JSON's types: a model becomes a dictionary, a date a text. With `payload`, by its result type.

    Raises:
        InvalidResult: JSON can't carry the result, or the database can't store it.
        ResultTooLarge: the result has more than `limit` bytes of JSON.
    """
    if result is None or (type(result) is int and -_MAX_ID <= result <= _MAX_ID):
        return result  # the answer of most jobs
    return storable_answer(result, limit, _ANY if payload is None else answers_of(payload))


def storable_answer(answer: Any, limit: int, kind: AnswerType[Any]) -> Any:
    """An answer, converted to JSON's types by `kind`. Raises `InvalidResult`, or `ResultTooLarge` above `limit` bytes."""
    try:
        _check(answer, 0)
        value = kind.as_json(answer)
        encoded = to_json(value)
        if len(encoded) > 2 * _MAX_DEPTH or any(word in encoded for word in _MAY_BE_NO_NUMBER):
            _check(value, 0)  # a model's own serializer may write other values than its fields hold
    except InvalidResult:
        raise
    except Exception as error:  # noqa: BLE001 - the result's own code runs here
        raise InvalidResult(f"is not JSON: {type(error).__name__}: {str(error)[:300]}") from None
    if len(encoded) > limit:
        raise ResultTooLarge(len(encoded), limit)
    if holds_nul(encoded):
        raise InvalidResult("holds a NUL character, which no database keeps")
    return value


def _check(value: Any, depth: int) -> None:
    """Refuse iterators that may have no end, and nesting or numbers that JSON parsers refuse; each error has a cure."""
    if value is None or isinstance(value, _TEXTS):
        return
    if isinstance(value, int | float):
        _check_number(value)
        return
    if isinstance(value, Iterator) and not isinstance(value, Sized):
        kind = type(value).__name__
        raise InvalidResult(f"holds a {kind}, which may have no end; answer with a list of it")
    parts = _parts(value)
    if parts and depth == _MAX_DEPTH:
        raise InvalidResult(f"is nested more than {_MAX_DEPTH} deep; answer with something flatter")
    for each in parts:
        _check(each, depth + 1)


def _check_number(value: float) -> None:
    if isinstance(value, int):
        if value.bit_length() > _MAX_BITS:
            raise InvalidResult(
                f"holds a number of more than {_MAX_DIGITS} digits; answer with its text"
            )
    elif not math.isfinite(value):
        raise InvalidResult(f"holds {value}, which JSON does not have; answer with null or a text")


def _parts(value: Any) -> Iterable[Any]:
    """The items of a container, or the values in the fields of a model or dataclass; empty for any other value."""
    if isinstance(value, Mapping):
        return value.values()
    if isinstance(value, list | tuple | set | frozenset | deque):
        return value
    if isinstance(value, BaseModel):
        return value.__dict__.values()
    if is_dataclass(value) and not isinstance(value, type):
        return [getattr(value, each.name) for each in fields(value)]
    return ()
