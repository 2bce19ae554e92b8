"""Checks the arguments of reads and writes before the driver sees them: ids, limits, lists, texts, times.

An id that no row can have finds no row. A limit, text or time that the database can't take is refused; the error names
the argument.

```python
def page(after: int | None, limit: int) -> tuple[int, int]:
    require_limit(limit)  # 1 to MAX_ROWS
    return cursor(after), limit
```
"""

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import TypeVar

from ledgerq.errors import Refused

MAX_ID = 2**63 - 1
MAX_ROWS = 500  # in a page
MAX_PRUNED = 1_000_000  # rows that one pruning statement deletes
DEFAULT_QUEUE = "default"  # stands for the default queue, whose key on Redis is LEDGERQ_QUEUE
MAX_IN_A_LIST = 10_000  # a statement has 32,767 parameters at most

T = TypeVar("T")


def is_id(value: object) -> bool:
    """True if the value is a whole number that can be the id of a row: 1 to MAX_ID."""
    return type(value) is int and 1 <= value <= MAX_ID


def cursor(value: int | None) -> int:
    """The id after or before which a page begins, cut to the range 0 to MAX_ID; None is 0."""
    return min(max(value or 0, 0), MAX_ID)


def require_limit(limit: int, most: int = MAX_ROWS) -> None:
    """Refuse a number of rows that is not 1 to `most`: one statement must not hold up the others.

    Raises:
        Refused: the limit is out of range, or no int.
    """
    if type(limit) is not int or not 1 <= limit <= most:
        raise Refused("limit", f"must be 1 to {most}")


def is_storable(text: str) -> bool:
    """True if a row may hold this text: PostgreSQL stores neither NUL nor half a surrogate pair."""
    try:
        text.encode()  # at the speed of C
    except UnicodeEncodeError:
        return False
    return "\x00" not in text


def storable(texts: Iterable[str]) -> list[str]:
    """The texts that a row may hold, sorted, each once."""
    return [text for text in sorted(set(texts)) if is_storable(text)]


def require_moment(field: str, moment: datetime) -> None:
    """Refuse a time that no database can hold.

    Raises:
        Refused: the time has no time zone, or is not between the years 1 and 9999 in UTC.
    """
    if moment.tzinfo is None:
        raise Refused(field, "must say which time zone it is in")
    try:
        in_range(moment)
    except ValueError as error:
        raise Refused(field, str(error)) from None


def chunks(values: Sequence[T]) -> Iterator[Sequence[T]]:
    """The values in slices of MAX_IN_A_LIST at most: one statement takes no more of them."""
    for start in range(0, len(values), MAX_IN_A_LIST):
        yield values[start : start + MAX_IN_A_LIST]


def in_range(moment: datetime) -> datetime:
    """The moment in UTC.

    Raises:
        ValueError: in UTC the moment is before the year 1 or after 9999.
    """
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("must be between the years 1 and 9999, in UTC") from None
