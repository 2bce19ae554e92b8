"""ledgerq behind the same verbs as the peers: product defaults, every guarantee on.

`BENCH_STAGED=1` puts jobs into the outbox in transactions of their own instead of on Redis, and leaves them to the
workers' relays. With `BENCH_STAGED=client` the producer puts them on Redis too, right after each commit.
`BENCH_HANDLER=own` or `shared` creates tasks by a plain handler: see `bench.strangers`.
`BENCH_ENTRIES` is how many tasks one job creates, `BENCH_BYTES` how long their descriptions are.
"""

import os
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta

from bench.kinds import Call, Noop, Plain, Wait
from bench.peers import common
from bench.peers.common import Jobs
from db.database import open_database
from db.inputs import NewTask
from db.models import TaskStatus
from jobs.kinds import BulkCreateTasks, ChangeTaskStatus, CreateTask
from ledgerq.client import JobClient
from ledgerq.config import WorkerConfig
from ledgerq.database.engine import Sessions
from ledgerq.database.settings import DatabaseConfig
from ledgerq.database.transaction import transaction
from ledgerq.settings import load
from ledgerq.staging import stage_many
from ledgerq.wire.payload import Payload
from ledgerq.wire.request import Request

STAGED = os.environ.get("BENCH_STAGED", "")
HANDLER = os.environ.get("BENCH_HANDLER", "")
ENTRIES = int(os.environ.get("BENCH_ENTRIES", "1"))
BYTES = int(os.environ.get("BENCH_BYTES", "0"))
STAGED_AT_ONCE = 500


def _payload(kind: str, argument: str | int) -> Payload:
    match kind, argument:
        case "create", str():
            return _creating(argument)
        case "move", int():
            return ChangeTaskStatus(task_id=argument, status=TaskStatus.IN_PROGRESS)
        case "call", str():
            return Call(title=argument)
        case "wait", int():
            return Wait(number=argument)
        case _:
            return Noop(number=int(argument))


def _creating(title: str) -> Payload:
    if HANDLER:
        return Plain(title=title)
    if ENTRIES > 1:
        tasks = [NewTask(title=f"{title} {n}", project_id=1) for n in range(ENTRIES)]
        return BulkCreateTasks(tasks=tasks)
    # random: no compression makes it much shorter
    described = os.urandom(BYTES // 2).hex() if BYTES else None
    return CreateTask(title=title, project_id=1, description=described)


class OnRedis:
    """Enqueues by the typed client."""

    def __init__(self, client: JobClient) -> None:
        self._client = client

    async def one(self, kind: str, argument: str | int) -> None:
        await self._client.enqueue(_payload(kind, argument), actor="bench")

    async def many(self, jobs: Jobs) -> None:
        await self._client.enqueue_many(_requests(jobs.kind, jobs.arguments, jobs.delay))


class Staged:
    """Stages in the producer's transaction; `client` then puts the jobs on Redis, None leaves them to a relay."""

    def __init__(self, sessions: Sessions, client: JobClient | None) -> None:
        self._sessions, self._client = sessions, client

    async def one(self, kind: str, argument: str | int) -> None:
        async with transaction(self._sessions) as session:
            await stage_many(session, _requests(kind, [argument]), client=self._client)

    async def many(self, jobs: Jobs) -> None:
        for chunk in jobs.chunks(STAGED_AT_ONCE):
            async with transaction(self._sessions) as session:
                wanted = _requests(jobs.kind, chunk, jobs.delay)
                await stage_many(session, wanted, client=self._client)
        if self._client:
            await self._client.sent()


def _requests(kind: str, arguments: Sequence[str | int], delay: float = 0) -> Iterator[Request]:
    later = timedelta(seconds=delay)
    return (Request(_payload(kind, each), delay=later, actor="bench") for each in arguments)


class Ours:
    """ledgerq, as a peer among peers."""

    def prepare(self) -> None:
        """The template is migrated: nothing to make."""

    def worker(self) -> None:
        """The worker of the benchmark's own kinds; `ledgerq worker` runs those of the task manager."""
        common.run_command("python", "-m", "bench.strangers")

    @asynccontextmanager
    async def producer(self) -> AsyncIterator[OnRedis | Staged]:
        async with JobClient.open(load(WorkerConfig)) as client:
            if not STAGED:
                yield OnRedis(client)
                return
            async with open_database(load(DatabaseConfig)) as database:
                yield Staged(database.sessions, client if STAGED == "client" else None)


if __name__ == "__main__":
    common.main(Ours())
