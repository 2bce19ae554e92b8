"""What a handler is given beside its payload: one job in its transaction."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Generic

from typing_extensions import TypeVar

from ledgerq import staging
from ledgerq.database.session import LedgerqSession
from ledgerq.staging import Sender, StagedJob
from ledgerq.store import audit, unique_keys
from ledgerq.store.audit import Change, Origin
from ledgerq.wire.payload import Payload
from ledgerq.wire.request import Unique

S = TypeVar("S", default=Any)  # what App(resources=…) yields

_ONE_AT_A_TIME = timedelta(hours=1)  # after a next part was lost, how long go_on stages no other


@dataclass(frozen=True, slots=True)
class JobContext(Generic[S]):
    """What a handler gets beside the payload: the job's transaction, its origin, the time, the resources.

    A handler adds and changes rows through `session`, flushes when it needs an id, and never commits: ledgerq does, after
    the handler has returned. If the handler raises, everything is rolled back. `origin` says who asked for the job.
    `now` is the UTC time at which this attempt began; use it in place of the clock. `resources` is what
    `App(resources=)` yields.

    ```python
    async def close_order(context: JobContext, close: CloseOrder) -> int:
        order = await context.session.get_one(Order, close.order_id, with_for_update=True)
        await context.stage(SendInvoice(order_id=order.id))  # born if this job commits
        return order.number
    ```
    """

    session: LedgerqSession
    origin: Origin
    now: datetime
    resources: S = field(default=None, repr=False)  # type: ignore[assignment]
    _client: Sender | None = field(default=None, repr=False)

    async def stage(
        self,
        payload: Payload[Any],
        *,
        job_id: str | None = None,
        delay: timedelta = timedelta(0),
        ordering_key: str | None = None,
        unique: Unique | None = None,
        queue: str | None = None,
    ) -> StagedJob:
        """Stage a job that exists if, and only if, this job commits. It gets this job's actor and trace id.

        Arguments and errors are those of `ledgerq.staging.stage`.
        """
        return await staging.stage(
            self.session,
            payload,
            job_id=job_id,
            delay=delay,
            actor=self.origin.actor,
            trace_id=self.origin.trace_id or None,
            ordering_key=ordering_key,
            unique=unique,
            queue=queue,
            client=self._client,
        )

    async def record(self, *changes: Change) -> None:
        """Write audit entries that commit with this job.

        Raises:
            Refused: a change can't be stored in the audit log; the error names the field.
        """
        await audit.record(self.session, self.origin, *changes)

    async def go_on(self, payload: Payload[Any], *, more: bool) -> str | None:
        """For work in parts, each a job of its own: if there is `more`, stage `payload` as the next part.

        Returns the id of the job that does the next part; None if `more` is False. Only one next part of a kind waits at a
        time: if one was staged in the last hour and has not run, nothing is staged, and that part's id is returned.
        """
        if self.origin.job_id is not None:
            await unique_keys.release(self.session, [self.origin.job_id])  # this part waits no more
        if not more:
            return None
        return (await self.stage(payload, unique=Unique("next", _ONE_AT_A_TIME))).job_id
