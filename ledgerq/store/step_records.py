"""Records the steps of one job, each in a transaction of its own, beside an entry in the audit log."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, TypeVar

import structlog

from ledgerq.backoff import Backoff
from ledgerq.database import transaction
from ledgerq.database.engine import Sessions
from ledgerq.database.fence import Fence
from ledgerq.database.session import LedgerqSession
from ledgerq.database.sqlstate import is_transient
from ledgerq.database.turns import turn
from ledgerq.errors import InDoubt, InvalidRequest
from ledgerq.runtime.calls import whatever_comes
from ledgerq.runtime.cancellation import cancellations
from ledgerq.runtime.lag import stalled_by_others
from ledgerq.runtime.process_name import process_name
from ledgerq.store import audit, inbox, steps
from ledgerq.store.audit import Change, Origin
from ledgerq.store.audited import set_origin
from ledgerq.store.tables import JobStep, StepState
from ledgerq.text import cut, one_line, storable

T = TypeVar("T")
E = TypeVar("E", bound=Exception)
Work = Callable[[LedgerqSession], Awaitable[Any]]
Recording = Callable[[LedgerqSession], Awaitable[JobStep | None]]

MAX_NOTE = 200  # characters
_PROGRESS = 1.0  # seconds between two that are written

log = structlog.stdlib.get_logger("ledgerq.jobs")


class JobIsOver(Exception):
    """A step comes too late: its job was cancelled, or has ended elsewhere. Raised in the job's `outside` function."""

    def __init__(self, job_id: str, name: str) -> None:
        super().__init__(
            f"job {job_id} has ended, or goes on elsewhere: step {name} is not recorded"
        )


@dataclass(slots=True)
class StepRecords:
    """The steps of one job in one run.

    Args:
        sessions: of the database.
        origin: the job, for the audit log.
        payload_hash: of the job's payload; each record keeps it.
        known: the steps that were recorded before this run, by name.
    """

    sessions: Sessions
    origin: Origin
    payload_hash: bytes
    known: Mapping[str, JobStep]
    recorded_at: int = 0  # the attempt that last recorded a step
    stopped_by: Exception | None = None  # why the job can't go on, even if its function goes on
    _told: float = 0  # when progress was written, by time.monotonic
    _places: dict[str, Any] = field(init=False)  # of the cursors

    def __post_init__(self) -> None:
        self._places = {name: step.result for name, step in self.known.items()}
        self.recorded_at = last_recorded(self.known)

    @property
    def job_id(self) -> str:
        """The job's id."""
        return str(self.origin.job_id)

    @property
    def is_over(self) -> bool:
        """True if the job has ended, or goes on in another worker."""
        return isinstance(self.stopped_by, JobIsOver)

    def stop(self, why: E) -> E:
        """Note the error that ends the job, even if the job's function catches it; the first one counts. Returns `why`."""
        self.stopped_by = self.stopped_by or why
        return why

    def require_going_on(self) -> None:
        """If a step has raised an error that ends the job, raise it again: the job's function may have caught it.

        Raises:
            JobIsOver, InDoubt, StepUnusable: the same error.
        """
        if self.stopped_by is not None:
            raise self.stopped_by

    async def begin(self, name: str, begun: datetime) -> JobStep:
        """Commit the record that an at-most-once step begins, before its call. Returns it, or the record of its end if done.

        Raises:
            InDoubt: another delivery of the job has begun the step, and no answer is recorded.
            JobIsOver: the job has ended.
        """
        values = self._values(name, StepState.BEGUN, begun)

        async def once(session: LedgerqSession) -> JobStep | None:
            if await steps.add(session, values):
                return JobStep(**values)
            found = await steps.find(session, self.job_id, name)
            own = found and (found.begun_at, found.worker) == (begun, values["worker"])
            if found and found.state is StepState.BEGUN and not own:  # its commit was not heard of
                raise self.stop(InDoubt(name))
            return found

        return await self._in_the_end(once, name)

    async def finish(self, name: str, begun: datetime, result: Any, problem: str | None) -> JobStep:
        """Record a step's `result`, or in `problem` why it can't be kept. Returns the step's record, maybe an earlier one.

        Raises:
            JobIsOver: the job has ended: the step is not recorded, and an entry in the audit log says that it has happened.
        """
        values = self._values(name, StepState.DONE, begun, result, problem)

        async def once(session: LedgerqSession) -> JobStep | None:
            if await steps.add_and_tell(session, values, self.origin, self._done(name)):
                return JobStep(**values)
            # who gives the job up, because the step is in doubt, waits for the answer, or this one for the burial
            found = await steps.find(session, self.job_id, name, lock=True)
            if found and found.state is not StepState.BEGUN:
                return found
            is_new = found is not None and await steps.change(
                session, self.job_id, name, None, _end_of(values)
            )
            told = self._done(name, recorded=is_new)
            await audit.record(session, self.origin, told)
            return JobStep(**values) if is_new else None

        return await whatever_comes(self._in_the_end(once, name))

    async def in_transaction(self, name: str, work: Work) -> JobStep:
        """Call `work` and record the step in one transaction; returns the record. A recorded step is not done again.

        Raises:
            JobIsOver: the job has ended.
        """
        values = self._values(name, StepState.DONE, datetime.now(UTC))

        async def once(session: LedgerqSession) -> JobStep | None:
            if not await steps.add(session, values):
                return await steps.find(session, self.job_id, name)
            result = await self._fenced(session, work)
            await steps.keep_answer(session, self.job_id, name, result)
            await audit.record(session, self.origin, self._done(name))
            return JobStep(**{**values, "result": result})

        return self._required(await self._while_it_runs(once), name)

    async def advance(self, name: str, value: Any, work: Work) -> None:
        """Call `work` in the transaction that moves the cursor `name` from the value that this run knows to `value`.

        Raises:
            InvalidRequest: the cursor has this value already.
            JobIsOver: the job has ended, or another delivery of it has moved the cursor.
        """
        is_first, before = name not in self._places, self._places.get(name)
        if not is_first and value == before:
            raise InvalidRequest(f"cursor {name}", "stays where it was; a page moves it")
        values = self._values(name, StepState.OPEN, datetime.now(UTC), value)

        async def once(session: LedgerqSession) -> JobStep | None:
            if is_first:
                moved = await steps.add(session, values)
            else:
                moved = await steps.change(
                    session,
                    self.job_id,
                    name,
                    before,
                    {"result": value, "attempt": values["attempt"]},
                )
            if not moved:
                return None
            await self._fenced(session, work)
            await audit.record(session, self.origin, self._done(name))
            return JobStep(**values)

        self._required(await self._while_it_runs(once), name)
        self._places[name] = value

    def key(self, name: str) -> str:
        """The idempotency key of a step: of the job, its payload and the name."""
        parts = (self.job_id.encode(), self.payload_hash, name.encode())
        return sha256(b"\0".join(parts)).hexdigest()[:32]

    async def tell_progress(self, done: int, total: int | None, note: str | None) -> None:
        """Write down how far the job is. A report less than a second after the last one is dropped, unless the job is done.

        If the database does not answer, the report is dropped too: the job goes on.
        """
        now = time.monotonic()
        if now - self._told < _PROGRESS and done != total:
            return
        self._told = now
        said = None if note is None else cut(storable(note), MAX_NOTE)
        try:
            async with turn(self.sessions), transaction.transaction(self.sessions) as session:
                await steps.tell_progress(session, self.job_id, done, total, said)
        except Exception as error:
            if not is_transient(error):
                raise
            log.debug("step.progress_not_told", job_id=self.job_id, error=one_line(error))

    def _values(
        self,
        name: str,
        state: StepState,
        begun: datetime,
        result: Any = None,
        problem: str | None = None,
    ) -> dict[str, Any]:
        return {
            "job_id": self.job_id, "name": name, "state": state, "payload_hash": self.payload_hash, "result": result,
            "error": problem, "attempt": self.origin.attempt or 1, "worker": process_name(), "begun_at": begun,
        }  # fmt: skip

    async def _fenced(self, session: LedgerqSession, work: Work) -> Any:
        await set_origin(session, self.origin)
        fence = Fence(session, stalled=stalled_by_others(self.job_id))
        try:
            return await fence.run(self.job_id, work)
        except BaseException as error:
            if lost := await fence.why_lost_behind(error):
                raise lost from error
            raise

    async def _while_it_runs(self, work: Recording) -> JobStep | None:
        """A transaction that holds the job's receipt: who would end the job waits for it. None if the job has ended."""

        async def once(session: LedgerqSession) -> JobStep | None:
            kind = self.origin.kind or ""
            if not await inbox.insert_receipt(session, self.job_id, kind, self.payload_hash):
                return None
            await inbox.withdraw_receipt(session, self.job_id)
            return await work(session)

        return await self._commit(once)

    def _done(self, name: str, *, recorded: bool = True) -> Change:
        told = {"step": name, **({} if recorded else {"recorded": False})}
        return Change("job", self.job_id, "step", {}, told)

    async def _in_the_end(self, work: Recording, name: str) -> JobStep:
        """Record it, however long the database is away: without the record the call would be made again."""
        backoff = Backoff()

        while True:
            try:
                found = await self._commit(work)
            except Exception as error:
                if not is_transient(error):
                    raise
                said = one_line(error)
                log.warning("step.not_recorded_yet", step=name, job_id=self.job_id, error=said)
                await asyncio.sleep(backoff.next())
            else:
                return self._required(found, name)

    async def _commit(self, work: Recording) -> JobStep | None:
        """Do it in a transaction. If the task was cancelled during the commit, it ends after it, and calls nothing more."""
        before = cancellations()
        async with turn(self.sessions):
            found = await transaction.in_transaction(self.sessions, work)
        if cancellations() > before:
            raise asyncio.CancelledError
        return found

    def _required(self, step: JobStep | None, name: str) -> JobStep:
        if step is None:
            raise self.stop(JobIsOver(self.job_id, name))
        if step.state is not StepState.BEGUN:
            self.recorded_at = max(self.recorded_at, step.attempt)
        return step


def last_recorded(known: Mapping[str, JobStep]) -> int:
    """The attempt that last recorded one of these steps; 0 if none has."""
    done = (each.attempt for each in known.values() if each.state is not StepState.BEGUN)
    return max(done, default=0)


def _end_of(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: values[name] for name in ("state", "result", "error", "attempt", "worker")}
