"""What an argument of a read or a write may be, checked before the driver sees it: ids, limits, lists, texts, times.

A number that no row can have finds no row. What is no number, no text or no time for the database is refused
by its name.

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
MAX_PRUNED = 1_000_000  # in one statement that removes what is old
DEFAULT_QUEUE = "default"  # the word for the default queue, whatever its key on Redis is
MAX_IN_A_LIST = 10_000  # a statement has 32,767 parameters at most

T = TypeVar("T")


def is_id(value: object) -> bool:
    """True if a row may have this id."""
    return type(value) is int and 1 <= value <= MAX_ID


def cursor(value: int | None) -> int:
    """The id that a page begins after or before, brought into the range of ids."""
    return min(max(value or 0, 0), MAX_ID)


def require_limit(limit: int, most: int = MAX_ROWS) -> None:
    """Refuse to read or remove more rows in one go than is good for the others.

    Raises:
        Refused: the limit is out of range.
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
    """Those that a row may hold, each once, in their order."""
    return [text for text in sorted(set(texts)) if is_storable(text)]


def require_moment(field: str, moment: datetime) -> None:
    """Refuse a time that no database can hold.

    Raises:
        Refused: it has no time zone, or is not between the years 1 and 9999 in UTC.
    """
    if moment.tzinfo is None:
        raise Refused(field, "must say which time zone it is in")
    try:
        in_range(moment)
    except ValueError as error:
        raise Refused(field, str(error)) from None


def chunks(values: Sequence[T]) -> Iterator[Sequence[T]]:
    """The values, so many at a time as a statement can take."""
    for start in range(0, len(values), MAX_IN_A_LIST):
        yield values[start : start + MAX_IN_A_LIST]


def in_range(moment: datetime) -> datetime:
    """The moment in UTC.

    Raises:
        ValueError: in UTC it is before the year 1 or after 9999.
    """
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("must be between the years 1 and 9999, in UTC") from None
