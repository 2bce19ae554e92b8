"""Recurring jobs, as data. A scheduled kind's payload must be complete by its defaults.

```python
each_ten_seconds = Recurring(SendReport, minute=None, second=frozenset(range(0, 60, 10)))
```
"""

from dataclasses import dataclass
from typing import Any

from ledgerq.wire.payload import Payload


@dataclass(frozen=True, slots=True)
class Recurring:
    """A kind and the ticks at which it runs, UTC; None means every one. Each tick runs once.

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
