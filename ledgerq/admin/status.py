"""How many jobs are queued, running, staged and ended. The cost of counting does not grow with the queue's length."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from arq.connections import ArqRedis
from redis.exceptions import RedisError

from ledgerq.admin.queues import NO_QUEUES, Queues, known_queues
from ledgerq.broker.connection import connect, require_redis
from ledgerq.broker.keys import failures_key, in_progress_key_prefix, retry_key_prefix, running_key
from ledgerq.broker.presence import Wait, living_workers, waits
from ledgerq.config import Config
from ledgerq.database.engine import Sessions, open_database
from ledgerq.errors import LedgerqError
from ledgerq.store import dead_letters, inbox, outbox
from ledgerq.store.tables import JobState
from ledgerq.wire.queue_name import carried_to

SAMPLE = 1000  # deferred jobs that are read one by one, to count retries


@dataclass(frozen=True, slots=True)
class RunningJob:
    """A job that a worker of ledgerq runs. `held` is False if its lease has run out: the worker is dead."""

    job_id: str
    worker: str
    since: datetime | None
    attempt: int | None
    held: bool


@dataclass(frozen=True, slots=True)
class Queue:
    """The jobs of one queue on Redis.

    `queued` counts the jobs that are due now, those that a stock arq worker runs among them: arq marks each running job
    by a key of its own, and finding these keys would mean scanning all keys. `deferred` counts the jobs that are due
    later, `retrying` those of the first thousand of them that were tried before. `waits` lists what jobs have waited
    for in the last minute, and that somebody must repair.
    """

    queued: int
    deferred: int
    retrying: int
    running: Sequence[RunningJob]
    workers: Sequence[str]
    waits: Sequence[Wait] = ()


@dataclass(frozen=True, slots=True)
class Ledger:
    """The jobs in the database. `staged` counts jobs that have not ended; `staged_by_queue` has them by queue key."""

    staged: int
    oldest_staged: datetime | None
    done: int
    cancelled: int
    dead: int
    letters: int
    staged_by_queue: Mapping[str, int] = field(default_factory=dict, compare=False)


@dataclass(frozen=True, slots=True)
class Status:
    """The jobs on Redis and in the database. `queue` is the default queue; `queues` holds each queue by its key.

    If Redis does not answer, `queue` is None, `queues` is empty, and `problem` says why.
    """

    queue: Queue | None
    ledger: Ledger
    problem: str | None = None
    queues: Mapping[str, Queue] = field(default_factory=dict, compare=False)


async def status(config: Config, kinds: Queues = NO_QUEUES) -> Status:
    """Count the jobs on Redis and in the database.

    Args:
        config: the settings of Redis and the database.
        kinds: the queues of the application's kinds.

    Raises:
        Unreachable: the database does not answer.
    """
    async with open_database(config.database) as database:
        await database.ping()
        ledger = await look_at_ledger(database.sessions, config.worker.queue, kinds)
    redis = connect(config.worker)
    try:
        await require_redis(redis, for_worker=False)
        names = known_queues(config.worker, kinds, *ledger.staged_by_queue)
        queues = {queue: await look_at_queue(redis, queue) for queue in names}
        return Status(queues[config.worker.queue], ledger, None, queues)
    except (LedgerqError, RedisError, OSError) as error:
        return Status(None, ledger, str(error))
    finally:
        await redis.aclose(close_connection_pool=True)


async def look_at_ledger(sessions: Sessions, default: str, kinds: Queues = NO_QUEUES) -> Ledger:
    """Count outbox rows, by queue, and receipts, by state. `default` is the default queue's key."""
    staged: Counter[str] = Counter()
    async with sessions() as session:
        for name, kind, number in await outbox.count_by_queue(session):
            staged[_carried_to(name, kind, kinds, default)] += number
        ended = await inbox.count(session)
        return Ledger(
            staged=staged.total(),
            staged_by_queue=dict(staged),
            oldest_staged=await outbox.oldest(session),
            done=ended.get(JobState.DONE, 0),
            cancelled=ended.get(JobState.CANCELLED, 0),
            dead=ended.get(JobState.DEAD, 0),
            letters=await dead_letters.count(session),
        )


async def look_at_queue(redis: ArqRedis, queue: str) -> Queue:
    """Count the jobs on a queue; what is due is decided by the clock of Redis."""
    now = await now_ms(redis)
    async with redis.pipeline(transaction=True) as pipe:
        pipe.zcount(queue, "-inf", now)
        pipe.zcount(queue, f"({now}", "+inf")
        pipe.zrangebyscore(queue, f"({now}", "+inf", start=0, num=SAMPLE)
        pipe.hgetall(running_key(queue))
        queued, held_back, sample, entries = await pipe.execute()
    running = await _running(redis, entries)
    claimed = {each.job_id for each in running if each.held}
    later = [job_id for job_id in map(text, sample) if job_id not in claimed]
    return Queue(
        queued=queued,
        deferred=max(0, held_back - len(claimed)),
        retrying=sum(await _tried(redis, queue, later)),
        running=running,
        workers=await living_workers(redis, queue),
        waits=tuple(await waits(redis, queue)),
    )


async def now_ms(redis: ArqRedis) -> int:
    """The time in milliseconds, by the clock of Redis."""
    seconds, microseconds = await redis.time()
    return int(seconds) * 1000 + int(microseconds) // 1000


def read_running(job_id: str, entry: bytes, *, held: bool) -> RunningJob:
    """Parse a worker's entry for a job that it runs: `token|since|attempt|worker`."""
    _, since, attempt, worker = (*text(entry).split("|", 3), "", "", "")[:4]
    return RunningJob(job_id, worker, moment(number(since)), number(attempt) or None, held)


def moment(ms: float | None) -> datetime | None:
    """The time of a number of milliseconds since 1970; None if it is no time."""
    try:
        return datetime.fromtimestamp(ms / 1000, UTC) if ms else None
    except (OverflowError, ValueError, OSError):
        return None


def number(value: str) -> int:
    """The text as a whole number; 0 if it is not one."""
    return int(value) if value.isdecimal() else 0


def text(value: bytes) -> str:
    r"""The bytes as text for a terminal; each byte that is not UTF-8 becomes its escape, such as `\xff`."""
    return value.decode(errors="backslashreplace")


async def _running(redis: ArqRedis, entries: Mapping[bytes, bytes]) -> list[RunningJob]:
    ids = sorted(entries)
    held = await redis.mget([in_progress_key_prefix.encode() + each for each in ids]) if ids else []
    return [
        read_running(text(job_id), entries[job_id], held=token is not None)
        for job_id, token in zip(ids, held, strict=True)
    ]


async def _tried(redis: ArqRedis, queue: str, job_ids: Sequence[str]) -> list[bool]:
    """For each of these jobs, True if it was tried before, or its worker died or was interrupted."""
    async with redis.pipeline(transaction=False) as pipe:
        for job_id in job_ids:
            pipe.exists(f"{retry_key_prefix}{job_id}", failures_key(queue, job_id))
        return [bool(found) for found in await pipe.execute()]


def _carried_to(name: str | None, kind: str, kinds: Queues, default: str) -> str:
    """The key of the queue to which the relay carries a job. As for the relay, an invalid name is the default queue."""
    try:
        return carried_to(name, kind, kinds, default)
    except ValueError:
        return default
