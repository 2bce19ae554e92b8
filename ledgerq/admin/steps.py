"""The steps of a job as an operator sees them, and what an operator decides about one that is in doubt."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from ledgerq.database.engine import Sessions
from ledgerq.database.transaction import in_transaction
from ledgerq.errors import InvalidRequest, NotBuried
from ledgerq.store import audit, dead_letters, steps
from ledgerq.store.audit import Change, Origin
from ledgerq.store.tables import JobProgress, JobStep, StepState
from ledgerq.text import cut, shown

_SAID = {StepState.BEGUN: "in doubt", StepState.OPEN: "goes on", StepState.DONE: "done"}
_MAX_REASON = 1000


@dataclass(frozen=True, slots=True)
class Step:
    """A step outside of the database. `answer` is what it answered, its beginning if that is long."""

    name: str
    state: str
    begun: datetime
    changed: datetime
    attempt: int
    answer: Any


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the job said it was."""

    done: int
    of: int | None
    note: str | None
    at: datetime


def told_step(step: JobStep) -> Step:
    """A step for a person."""
    answer = step.result if step.error is None else step.error
    said = _SAID[step.state]
    return Step(step.name, said, step.begun_at, step.changed_at, step.attempt, shown(answer))


def told_progress(told: JobProgress | None) -> Progress | None:
    """The progress for a person, if the job told any."""
    return Progress(told.done, told.total, told.note, told.at) if told else None


async def resolve(
    sessions: Sessions,
    job_id: str,
    name: str,
    *,
    happened: bool,
    answer: Any,
    actor: str,
    reason: str,
) -> None:
    """Say of a step in doubt whether it happened. The job goes on from there when it is replayed.

    Args:
        sessions: of the database.
        job_id: the job, which has a dead letter.
        name: of the step.
        happened: True keeps `answer` as what it answered; False removes the step, so that the job does it again.
        answer: as JSON has it.
        actor: who decides, for the audit log.
        reason: why, for the audit log.

    Raises:
        NotBuried: the job has no dead letter.
        InvalidRequest: no step of that name is in doubt; names those that are.
    """

    async def once(session: AsyncSession) -> None:
        letter = await dead_letters.find(session, job_id)
        if letter is None:
            raise NotBuried([job_id])
        known = await steps.of_job(session, job_id)
        doubtful = [each.name for each in known.values() if each.state is StepState.BEGUN]
        if name not in doubtful:
            there = f"in doubt are: {', '.join(doubtful)}" if doubtful else "none is in doubt"
            raise InvalidRequest("step", f"{name!r} is not in doubt; {there}")
        if happened:
            await steps.keep_answer(session, job_id, name, answer)
        else:
            await steps.remove(session, job_id, name)
        said = {"step": name, "happened": happened, "reason": cut(reason, _MAX_REASON)}
        origin = Origin(actor, job_id, letter.kind, trace_id=letter.trace_id)
        await audit.record(session, origin, Change("job", job_id, "resolve", {}, said))

    await in_transaction(sessions, once)
