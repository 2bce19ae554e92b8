"""Recurring jobs. Each field of a recurring job's payload must have a default.

```python
each_ten_seconds = Recurring(SendReport, minute=None, second=frozenset(range(0, 60, 10)))
```
"""

from dataclasses import dataclass
from typing import Any

from ledgerq.wire.payload import Payload


@dataclass(frozen=True, slots=True)
class Recurring:
    """A job that starts at each time, in UTC, whose hour, minute and second are in these sets; None: at all of them.

    Each such time starts one job, even if many workers run.

    ```python
    App(jobs=[send_report], schedule=[Recurring(SendReport, hour=frozenset({6}))])  # daily at 6:00:00
    ```
    """

    payload: type[Payload[Any]]
    hour: frozenset[int] | None = None
    minute: frozenset[int] | None = frozenset({0})
    second: frozenset[int] | None = frozenset({0})

    def __post_init__(self) -> None:
        self.payload()  # a payload that needs more than its defaults fails here, at start
