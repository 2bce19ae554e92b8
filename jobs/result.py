"""What a handler answers, as JSON can carry it and the database keep it; anything else is the result's own error."""

import re
from typing import Any

from pydantic_core import from_json, to_json, to_jsonable_python

from jobs.errors import InvalidResult, ResultTooLarge

_MAX_ID = 2**63
_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
_MAY_BE_NO_NUMBER = (b"NaN", b"Infinity")


def holds_nul(encoded: bytes) -> bool:
    """True if a text in this JSON holds NUL, which no database keeps."""
    return b"\\u0000" in encoded and _NUL.search(encoded) is not None


def storable_result(result: Any, limit: int) -> Any:
    """The result as JSON has it.

    Raises:
        InvalidResult: JSON can't carry it, or the database not keep it.
        ResultTooLarge: it has more than `limit` bytes.
    """
    if result is None or (type(result) is int and -_MAX_ID <= result <= _MAX_ID):
        return result  # the answer of most jobs
    try:
        value = to_jsonable_python(result)
        encoded = to_json(value)
        if any(word in encoded for word in _MAY_BE_NO_NUMBER):
            from_json(encoded, allow_inf_nan=False)
    except Exception as error:  # noqa: BLE001 - the result's own code runs here
        raise InvalidResult(f"is not JSON: {type(error).__name__}: {str(error)[:300]}") from None
    if len(encoded) > limit:
        raise ResultTooLarge(len(encoded), limit)
    if holds_nul(encoded):
        raise InvalidResult("holds a NUL character, which no database keeps")
    return value
