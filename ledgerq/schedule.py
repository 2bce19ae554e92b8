"""Recurring jobs. Each field of a recurring job's payload must have a default.

```python
each_ten_seconds = Recurring(SendReport, minute=None, second=range(0, 60, 10))
```
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

from pydantic import ValidationError

from ledgerq.errors import DefinitionError
from ledgerq.wire.payload import Payload
from ledgerq.wire.signature import require_payload

Ticks: TypeAlias = int | Iterable[int] | None  # one, some, or every one


@dataclass(frozen=True, slots=True, init=False)
class Recurring:
    """A kind and the ticks, in UTC, at which a job of it starts. Each tick starts one job, even if many workers run.

    ```python
    App(jobs=[send_report], schedule=[Recurring(SendReport, hour=6, minute=30)])  # daily at 6:30:00
    ```

    Args:
        payload: the class of the kind's payload; every field has a default.
        hour: one, or some of 0 to 23; None, the default, is every hour.
        minute: one, or some of 0 to 59; None is every minute. The default is minute 0.
        second: one, or some of 0 to 59; None is every second. The default is second 0.

    Raises:
        DefinitionError: there is no such hour, minute or second; or a field of the payload has no default.
    """

    payload: type[Payload[Any]]
    hour: frozenset[int] | None
    minute: frozenset[int] | None
    second: frozenset[int] | None

    def __init__(
        self,
        payload: type[Payload[Any]],
        hour: Ticks = None,
        minute: Ticks = 0,
        second: Ticks = 0,
    ) -> None:
        require_payload(payload, "Recurring(payload)")
        object.__setattr__(self, "payload", payload)
        name = payload.__qualname__
        for field, ticks, last in (
            ("hour", hour, 23),
            ("minute", minute, 59),
            ("second", second, 59),
        ):
            object.__setattr__(self, field, _ticks(f"Recurring({name}, {field}=)", ticks, last))
        try:
            payload()
        except ValidationError as error:
            fields = ", ".join(str(each["loc"][0]) for each in error.errors() if each["loc"])
            raise DefinitionError(
                f"Recurring({name})",
                f"its payload is not complete by its defaults: {fields}",
                "give each field a default; the schedule fills in nothing",
            ) from None


def _ticks(where: str, ticks: Ticks, last: int) -> frozenset[int] | None:
    if ticks is None:
        return None
    try:
        known = frozenset([ticks] if isinstance(ticks, int) else ticks)
    except TypeError:
        known = frozenset()
    wrong = [each for each in known if type(each) is not int or not 0 <= each <= last]
    if wrong or not known:
        problem = f"has no {wrong[0]!r}" if wrong else "names none"
        raise DefinitionError(
            where, problem, f"give one or some of 0 to {last}, or None for every one"
        )
    return known
