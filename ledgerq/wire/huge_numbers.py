"""Numbers in JSON that are too large for a float: JSON allows 1e400, Python reads infinity, PostgreSQL refuses it."""

import math
import re

_MAY_BE_HUGE = re.compile(rb"[eE]\+?[0-9]{3}")
_HUGE_DIGITS = 300  # a number with this many digits may be too large for a float
_IS_HUGE = re.compile(rb"[0-9]{300}")


def holds_infinite(body: bytes, content: object) -> bool:
    """True if a number in the content, which was read from the body, is infinite."""
    return _may_be_huge(body) and not _finite(content)


def _may_be_huge(body: bytes) -> bool:
    """True if a number in the body may be too large for a float. Two regular expressions are faster than one."""
    if _MAY_BE_HUGE.search(body):
        return True
    return len(body) > _HUGE_DIGITS and _IS_HUGE.search(body) is not None


def _finite(value: object) -> bool:
    """False if a number in the value is infinite: JSON allows 1e400, Python reads infinity, PostgreSQL refuses it."""
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, dict):
        return all(map(_finite, value.values()))
    return not isinstance(value, list) or all(map(_finite, value))
