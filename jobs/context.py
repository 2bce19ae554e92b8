"""What a handler is given: the scope of one job."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncSession

from db.audit import Origin


@dataclass(frozen=True, slots=True)
class JobContext:
    """One job in its transaction.

    A handler adds and changes rows through `session`, flushes when it needs an id, and never
    commits: the flow does, after the handler returns. It takes the time from `now`.
    """

    session: AsyncSession
    origin: Origin
    now: datetime
