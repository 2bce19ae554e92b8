"""What the worker does while Redis or the database does not answer: it claims nothing, asks again, and says so once."""

from dataclasses import dataclass, field

import structlog

from db.engine import Database
from jobs.text import one_line
from worker.pace import Pace
from worker.patience import Patience

log = structlog.stdlib.get_logger("ledgerq.worker")


@dataclass(slots=True)
class Waiting:
    """Failures in a row, and the pauses between them."""

    pace: Pace
    database_in_doubt: bool = False  # a job lost its connection
    _patience: Patience = field(default_factory=Patience)

    async def for_database(self, database: Database) -> bool:
        """True if the database answers, or nobody doubts it; else it has been waited for a while."""
        if not self.database_in_doubt:
            return True
        try:
            await database.ping()
        except Exception as error:  # noqa: BLE001 - whatever it is, it is no answer
            await self.after(error, "worker.paused")
            return False
        self.database_in_doubt = False
        return True

    async def after(self, error: BaseException, event: str) -> None:
        """Wait a while, longer each time; the first failure is logged."""
        if self._patience.failures == 0:
            log.warning(event, error=one_line(error))
        await self.pace.sleep(self._patience.next())

    def is_over(self) -> None:
        """It worked."""
        if self._patience.failures:
            log.info("worker.goes_on", failures=self._patience.failures)
            self._patience.reset()
