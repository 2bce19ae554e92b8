"""What the worker does while Redis or the database does not answer: it claims nothing, asks again, and says so once."""

from dataclasses import dataclass, field

import structlog

from ledgerq.backoff import Backoff
from ledgerq.database.engine import Database
from ledgerq.text import one_line
from ledgerq.worker.poller import Poller

log = structlog.stdlib.get_logger("ledgerq.worker")


@dataclass(slots=True)
class Outage:
    """Failures in a row, and the pauses between them."""

    poller: Poller
    database_suspected: bool = False  # a job lost its connection
    _backoff: Backoff = field(default_factory=Backoff)

    def suspect_database(self) -> None:
        """A job lost its connection: claim nothing more until the database answers."""
        self.database_suspected = True

    async def for_database(self, database: Database) -> bool:
        """True if the database answers, or nobody doubts it; else it has been waited for a while."""
        if not self.database_suspected:
            return True
        try:
            await database.ping()
        except Exception as error:  # noqa: BLE001 - whatever it is, it is no answer
            await self.after(error, "database.unavailable")
            return False
        self.database_suspected = False
        return True

    async def after(self, error: BaseException, event: str) -> None:
        """Wait a while, longer each time; the first failure is logged."""
        if self._backoff.failures == 0:
            log.warning(event, error=one_line(error))
        await self.poller.sleep(self._backoff.next())

    def is_over(self) -> None:
        """It worked."""
        if self._backoff.failures:
            log.info("worker.recovered", failures=self._backoff.failures)
            self._backoff.reset()
