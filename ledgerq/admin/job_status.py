"""Where one job is, and what happened to it. If the database says how the job ended, that counts, not Redis."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Literal, TypeAlias

from arq.connections import ArqRedis
from pydantic_core import from_json
from redis.exceptions import RedisError

from ledgerq.admin.queues import NO_QUEUES, Queues, known_queues, queue_of_job
from ledgerq.admin.status import RunningJob, moment, now_ms, number, read_running, text
from ledgerq.admin.steps import Progress, Step, told_progress, told_step
from ledgerq.broker.connection import connect, require_redis
from ledgerq.broker.keys import (
    failures_key,
    in_progress_key_prefix,
    job_key,
    retry_key_prefix,
    running_key,
)
from ledgerq.config import Config
from ledgerq.database.engine import Sessions, open_database
from ledgerq.errors import LedgerqError, Undecodable
from ledgerq.execution.dead_letter import UNKNOWN_KIND
from ledgerq.store import audit, dead_letters, inbox, outbox, steps
from ledgerq.store.tables import AuditLog, DeadLetter, JobState, OutboxMessage, ProcessedJob
from ledgerq.wire.envelope import Envelope, decode, queue_of
from ledgerq.wire.foreign import foreign_format, foreign_function
from ledgerq.wire.queue_name import queue_key

Where: TypeAlias = Literal[
    "queued", "deferred", "running", "retrying", "staged", "done", "dead", "cancelled", "unknown"
]


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry of the audit log that carries the job's id."""

    at: datetime
    actor: str
    action: str
    entity: str


@dataclass(frozen=True, slots=True)
class JobStatus:
    """The state of one job. A field that is unknown, or does not apply, is None or empty.

    A `staged` job is in the outbox and not on Redis. A `queued` job is due now, a `deferred` job is not due yet; a
    `retrying` job is in the queue and was tried before. `attempts` lists the attempts that failed. `problem` says why
    Redis could not be asked. `note` names another queue on Redis that has a job of this id, or says that only some
    workers can read the job's body.
    """

    job_id: str
    state: Where = "unknown"
    kind: str | None = None
    queue: str | None = None
    attempt: int | None = None
    enqueued_at: datetime | None = None
    staged_at: datetime | None = None
    due_at: datetime | None = None
    ended_at: datetime | None = None
    running_since: datetime | None = None
    worker: str | None = None
    result: Any = None
    reason: str | None = None
    error: str | None = None
    crashes: int = 0
    interruptions: int = 0
    attempts: Sequence[Mapping[str, Any]] = ()
    audit: Sequence[Entry] = ()
    steps: Sequence[Step] = ()
    progress: Progress | None = None
    problem: str | None = None
    note: str | None = None


@dataclass(frozen=True, slots=True)
class _Kept:
    """What the database knows of a job."""

    ended: ProcessedJob | None
    letter: DeadLetter | None
    message: OutboxMessage | None
    entries: Sequence[AuditLog]
    steps: Sequence[Step]
    progress: Progress | None


@dataclass(frozen=True, slots=True)
class _Seen:
    """What Redis knows of a job."""

    now: int = 0
    score: float | None = None
    envelope: Envelope | None = None
    running: RunningJob | None = None
    held: bool = False
    tries: int = 0
    trouble: Mapping[str, str] = field(default_factory=dict)
    written: str | None = None  # the format of the body, if it is not our JSON
    function: str | None = None  # the function that such a body names
    holder: str | None = None  # another queue that has a job of this id on Redis


async def job_status(config: Config, job_id: str, kinds: Queues = NO_QUEUES) -> JobStatus:
    """Look for the job in the database and on Redis. If Redis does not answer, `problem` says so.

    Args:
        config: the settings of Redis and the database.
        job_id: the job's id.
        kinds: the queues of the application's kinds; the job is searched on all of them.

    Raises:
        Unreachable: the database does not answer.
    """
    kept = await _look(config, job_id)
    redis = connect(config.worker)
    seen, problem = _Seen(), None
    named = _queue_named(kept, kinds)
    queue = queue_key(named, config.worker.queue)
    try:
        await require_redis(redis, for_worker=False)
        queues = known_queues(config.worker, kinds, named)
        queue = await queue_of_job(redis, queues, job_id) or queue
        seen = await _look_on_redis(redis, queue, job_id)
    except (LedgerqError, RedisError, OSError) as error:
        problem = str(error)
    finally:
        await redis.aclose(close_connection_pool=True)
    if problem is None and seen.score is None and not seen.held:
        kept = await _look(config, job_id)  # it may have ended between the two looks
    found = _combined(job_id, kept, seen)
    known = queue if kept.letter or kept.message or seen.score is not None else None
    return replace(found, queue=known, problem=problem, note=_note(seen))


async def _look(config: Config, job_id: str) -> _Kept:
    async with open_database(config.database) as database:
        await database.ping()
        return await _look_in_database(database.sessions, job_id)


def _queue_named(kept: _Kept, kinds: Queues) -> str | None:
    if kept.message:
        return kinds.get(kept.message.kind) if kept.message.queue is None else kept.message.queue
    return kept.letter.queue if kept.letter else None


async def _look_in_database(sessions: Sessions, job_id: str) -> _Kept:
    async with sessions() as session:
        return _Kept(
            await inbox.find(session, job_id),
            await dead_letters.find(session, job_id),
            await outbox.find(session, job_id),
            await audit.of_job(session, job_id),
            tuple(map(told_step, (await steps.of_job(session, job_id)).values())),
            told_progress(await steps.progress_of(session, job_id)),
        )


async def _look_on_redis(redis: ArqRedis, queue: str, job_id: str) -> _Seen:
    async with redis.pipeline(transaction=True) as pipe:
        pipe.zscore(queue, job_id)
        pipe.get(job_key(job_id))
        pipe.hget(running_key(queue), job_id)
        pipe.exists(f"{in_progress_key_prefix}{job_id}")
        pipe.get(f"{retry_key_prefix}{job_id}")
        pipe.hgetall(failures_key(queue, job_id))
        score, body, entry, held, tries, trouble = await pipe.execute()
    holder = _holder(queue, body, queued=score is not None)
    if holder is not None:  # the values of arq's keys belong to that queue's job
        body = tries = None
        held = 0
    return _Seen(
        now=await now_ms(redis),
        score=score,
        envelope=_legible(body),
        written=foreign_format(body or b""),
        function=foreign_function(body or b""),
        running=read_running(job_id, entry, held=bool(held)) if entry else None,
        held=bool(held),
        tries=number(text(tries or b"")),
        holder=holder,
        trouble={text(name): text(value) for name, value in trouble.items()},
    )


def _note(seen: _Seen) -> str | None:
    if seen.written is not None:
        return (
            f"its body is {seen.written}: it waits for a worker with App(arq_deserializer=), or for a "
            "stock arq worker"
        )
    if seen.holder is None:
        return None
    return f"on Redis a job of queue {seen.holder} has this id; all queues there share the ids"


def _holder(queue: str, body: bytes | None, *, queued: bool) -> str | None:
    """Another queue that has a job of this id; None if there is none. The body of a stock arq client names no queue."""
    if body is None:
        return None
    named = queue_of(body)
    if named is None:
        return None if queued else "that its body does not name"
    return None if named == queue else repr(named)


def _combined(job_id: str, kept: _Kept, seen: _Seen) -> JobStatus:
    ended, letter, running = kept.ended, kept.letter, seen.running
    found = JobStatus(
        job_id=job_id,
        state=_state(kept, seen),
        kind=_kind(kept, seen),
        attempt=_attempt(kept, seen),
        enqueued_at=moment(seen.envelope.enqueued_ms) if seen.envelope else None,
        staged_at=kept.message.created_at if kept.message else None,
        ended_at=ended.processed_at if ended else letter.buried_at if letter else None,
        result=ended.result if ended else None,
        reason=letter.reason if letter else None,
        error=letter.error if letter else None,
        crashes=number(seen.trouble.get("crashes", "")),
        interruptions=number(seen.trouble.get("interruptions", "")),
        attempts=(letter.attempts if letter else None) or _log(seen.trouble.get("log", "")),
        audit=[
            Entry(e.at, e.actor, e.action, f"{e.entity_type} {e.entity_id}") for e in kept.entries
        ],
        steps=kept.steps,
        progress=kept.progress,
    )
    if found.state == "running" and running:
        return replace(found, running_since=running.since, worker=running.worker)
    if found.state in {"queued", "deferred", "retrying"}:
        return replace(found, due_at=moment(seen.score))
    if found.state == "staged" and kept.message:
        return replace(found, due_at=kept.message.next_dispatch_at)
    return found


def _state(kept: _Kept, seen: _Seen) -> Where:
    if kept.ended:
        by_state: dict[JobState, Where] = {
            JobState.DONE: "done",
            JobState.DEAD: "dead",
            JobState.CANCELLED: "cancelled",
        }
        return by_state[kept.ended.state]
    if kept.letter:
        return "dead"
    if seen.held:
        return "running"
    if seen.score is None:
        return "staged" if kept.message else "unknown"
    # a worker's entry that is not held any more: the worker died, or let the lease slip
    if seen.tries or seen.trouble or seen.running:
        return "retrying"
    return "deferred" if seen.score > seen.now else "queued"


def _kind(kept: _Kept, seen: _Seen) -> str | None:
    named = (
        kept.letter and kept.letter.kind,
        kept.ended and kept.ended.kind,
        kept.message and kept.message.kind,
        seen.envelope.kind if seen.envelope else seen.function,
    )
    return next((kind for kind in named if kind and kind != UNKNOWN_KIND), None)


def _attempt(kept: _Kept, seen: _Seen) -> int | None:
    """The number of the attempt that ended the job, or that runs, or that failed last."""
    if kept.ended and kept.ended.attempt:
        return kept.ended.attempt
    if kept.letter:
        return kept.letter.attempt
    return (seen.running and seen.running.attempt) or seen.tries or None


def _legible(body: bytes | None) -> Envelope | None:
    try:
        return decode(body) if body else None
    except Undecodable:
        return None


def _log(lines: str) -> list[dict[str, Any]]:
    """The failed attempts, from one JSON object a line. A line that is not JSON is shown as an error text."""
    found = []
    for line in filter(None, lines.split("\n")):
        try:
            entry = from_json(line)
        except ValueError:
            entry = None
        found.append(entry if isinstance(entry, dict) else {"error": line})
    return found
