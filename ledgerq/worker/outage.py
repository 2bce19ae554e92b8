"""What the worker does during an outage of Redis or the database: it claims nothing, tries again, and logs it once."""

from dataclasses import dataclass, field

import structlog

from ledgerq.backoff import Backoff
from ledgerq.database.engine import Database
from ledgerq.text import one_line
from ledgerq.worker.poller import Poller

log = structlog.stdlib.get_logger("ledgerq.worker")


@dataclass(slots=True)
class Outage:
    """Counts how often Redis or the database failed to answer in a row, and pauses each time, longer and longer."""

    poller: Poller
    database_suspected: bool = False  # a job lost its connection, or was held up
    _backoff: Backoff = field(default_factory=Backoff)

    def suspect_database(self) -> None:
        """Make the worker claim no job until the database has answered a ping. To be called when a job was interrupted."""
        self.database_suspected = True

    async def for_database(self, database: Database) -> bool:
        """Ping the database if `suspect_database` was called. True unless the ping fails: then pause, and return False."""
        if not self.database_suspected:
            return True
        try:
            await database.ping()
        except Exception as error:  # noqa: BLE001 - any error means no answer
            await self.after(error, "database.unavailable")
            return False
        self.database_suspected = False
        return True

    async def after(self, error: BaseException, event: str) -> None:
        """Pause after a failure, longer after each failure until `is_over` is called. Log only the first one, as `event`."""
        if self._backoff.failures == 0:
            log.warning(event, error=one_line(error))
        await self.poller.sleep(self._backoff.next())

    def is_over(self) -> None:
        """Reset the pauses after a success; log the recovery if there were failures."""
        if self._backoff.failures:
            log.info("worker.recovered", failures=self._backoff.failures)
            self._backoff.reset()
