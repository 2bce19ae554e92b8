"""The steps of a job as an operator sees them, and what an operator decides about one that is in doubt."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from ledgerq.database.engine import Sessions
from ledgerq.database.transaction import in_transaction
from ledgerq.errors import InvalidRequest, NotBuried, StepUnusable
from ledgerq.execution.retry import Policy
from ledgerq.store import audit, dead_letters, steps
from ledgerq.store.audit import Change, Origin
from ledgerq.store.tables import DeadLetter, JobProgress, JobStep, StepState
from ledgerq.text import shown
from ledgerq.wire.request import checked_words
from ledgerq.wire.result import storable_result

_SAID = {StepState.BEGUN: "in doubt", StepState.OPEN: "goes on", StepState.DONE: "done"}


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
    """Decide whether a step of a dead job has happened, if that is in doubt or its answer is of no use. Replay the job then.

    Args:
        sessions: the session factory.
        job_id: the job, which has a dead letter.
        name: of the step.
        happened: True keeps `answer` as what it answered; False removes the step, so that the job does it: only if that is
            in doubt. A step whose answer is of no use has happened.
        answer: a value of JSON's types; not looked at if `happened` is False.
        actor: who decides, for the audit log.
        reason: why, for the audit log.

    Raises:
        NotBuried: the job has no dead letter.
        InvalidRequest: actor or reason are not valid; the job has no step of that name (the error names the job's steps);
            or nothing is to be decided: the name is a cursor's, or the step was done and has an answer; or the step was
            done, and `happened` is False.
        InvalidResult, ResultTooLarge: the answer can't be kept.
    """
    actor, reason = checked_words(actor, reason)

    async def once(session: AsyncSession) -> None:
        await dead_letters.lock(session, [job_id])  # one person decides at a time
        letter = await dead_letters.find(session, job_id)
        if letter is None:
            raise NotBuried([job_id])
        step = await steps.find(session, job_id, name, lock=True)  # a worker may record its answer
        if step is None:
            known = await steps.of_job(session, job_id)
            raise InvalidRequest("step", steps.missing(name, known))
        if not _is_open(step, letter):
            raise InvalidRequest("step", _settled(step))
        if not happened and step.state is StepState.DONE:
            raise InvalidRequest("step", _happened(step))
        if happened:
            kept = storable_result(answer, Policy().max_result)
            await steps.keep_answer(session, job_id, name, kept)
        else:
            await steps.remove(session, job_id, [name])
        said = {"step": name, "happened": happened, "reason": reason}
        origin = Origin(actor, job_id, letter.kind, trace_id=letter.trace_id)
        await audit.record(session, origin, Change("job", job_id, "resolve", {}, said))

    await in_transaction(sessions, once)


def _is_open(step: JobStep, letter: DeadLetter) -> bool:
    """True if a person has to decide on the step: no answer is recorded, or none that the job could go on with."""
    fields = [each.get("field") for each in letter.problems or [] if isinstance(each, dict)]
    is_unusable = letter.reason == StepUnusable.reason and f"step {step.name}" in fields
    is_done = step.state is StepState.DONE
    return step.state is StepState.BEGUN or (is_done and (step.error is not None or is_unusable))


def _settled(step: JobStep) -> str:
    if step.state is StepState.OPEN:
        return f"{step.name!r} is a cursor: no call of it is in doubt"
    return f"{step.name!r} was done, and its answer is kept; {_again(step)}"


def _happened(step: JobStep) -> str:
    return f"{step.name!r} was done, only its answer is of no use: give one with --happened; {_again(step)}"


def _again(step: JobStep) -> str:
    replay = f"ledgerq dead replay {step.job_id} --from-step {step.name}"
    return f"to have it done again, and the steps that began after it: {replay}"
