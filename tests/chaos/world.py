"""Everything that one run of the suite has: servers, proxy, workers, producers, and what happened when."""

import asyncio
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import redis as redis_sync

from db.database import open_database
from db.schema import migrate
from ledgerq.broker.keys import in_progress_key_prefix, running_key
from ledgerq.database.settings import DatabaseConfig
from tests.chaos import checker
from tests.chaos.fleet import Fleet, fleet, lease_setting, settings
from tests.chaos.history import History
from tests.chaos.party import Party, party
from tests.chaos.proxy import Hop, Proxy, proxy
from tests.chaos.servers import PostgreSQL, Redis, servers
from tests.chaos.start import Started, start
from tests.support import new_project

PARTY = "CHAOS_PARTY"  # where a producer finds the URL
SAMPLE = 0.05  # seconds between two looks at what is claimed


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault as it was done. A fault that lasts is over at `healed`."""

    name: str
    at: float
    healed: float
    victims: frozenset[str] = frozenset()  # names of the processes that it hit, if not all

    @property
    def takes_workers(self) -> bool:
        """True if it ended or paused workers themselves."""
        return "worker" in self.name and not self.name.startswith("cut")


@dataclass(slots=True)
class Producers:
    """Producer processes, killed and started again under new names."""

    folder: Path
    environment: dict[str, str]
    project: int
    rate: float
    seed: int
    _process: Started | None = None
    _count: int = 0

    def start(self) -> None:
        """One more producer, with job ids of its own."""
        self._count += 1
        name = f"p{self._count}"
        arguments = (str(self.folder), name, str(self.seed + self._count), str(self.rate))
        words = ("-m", "tests.chaos.producers", *arguments, str(self.project))
        self._process = start(words, self.environment, self.folder / f"{name}.log")

    @property
    def have_sent(self) -> bool:
        """True once one of them has."""
        return any(told.stat().st_size for told in self.folder.glob("p*.jsonl"))

    def ensure(self) -> None:
        """A producer may end too, when a server does not answer at its start."""
        if self._process is None or self._process.poll() is not None:
            self.start()

    def kill(self) -> None:
        """kill -9."""
        if self._process:
            self._process.kill()
            self._process.wait()


@dataclass(slots=True)
class World:
    """The parts, for the faults to break."""

    folder: Path
    random: Random
    redis: Redis
    postgresql: PostgreSQL
    proxy: Proxy
    to_redis: Hop
    to_postgresql: Hop
    fleet: Fleet
    producers: Producers
    party: Party
    history: History
    lease: float
    project: int
    faults: list[Fault] = field(default_factory=list)
    destroyed: list[float] = field(default_factory=list)  # when Redis lost data by our hand
    claims: list[tuple[float, dict[str, str]]] = field(default_factory=list)
    _sampling: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def fault(self, name: str, victims: frozenset[str] = frozenset()) -> Iterator[None]:
        """Note a fault that lasts as long as the block."""
        at = time.time()
        try:
            yield
        finally:
            self.faults.append(Fault(name, at, time.time(), victims))

    def note(
        self, name: str, at: float | None = None, victims: frozenset[str] = frozenset()
    ) -> None:
        """Note a fault of a moment."""
        moment = at or time.time()
        self.faults.append(Fault(name, moment, moment, victims))

    def sample_for_ever(self) -> None:
        """Note which jobs are claimed, by whom, until the world ends."""
        client = self.redis.client(timeout=1)
        while not self._sampling.wait(SAMPLE):
            with suppress(redis_sync.RedisError, OSError):
                claimed = claims(client)
                self.claims.append((time.time(), claimed))

    def heal(self) -> None:
        """Whatever is broken works again."""
        self.proxy.resume()
        self.redis.signal(signal.SIGCONT)
        if not self.redis.answers():
            self.redis.kill()
            self.redis.start()
        with self.redis.client() as client:
            client.config_set("maxmemory", 0)
            client.execute_command("REPLICAOF", "NO", "ONE")
        if not self.postgresql.answers():
            self.postgresql.kill()
            self.postgresql.start()
        for member in self.fleet.living():
            if member.stopped:
                self.fleet.unpause(member)

    def drain(self, seconds: float) -> float:
        """Wait until every job that must end has ended; how long that took."""
        started = time.monotonic()
        while (waited := time.monotonic() - started) < seconds and self.unfinished():
            time.sleep(0.3)
        return waited

    def unfinished(self) -> list[str]:
        """The jobs that must end and have not."""
        self.history.update()
        rows = self.postgresql.fetch(
            "SELECT job_id FROM producer_row WHERE NOT EXISTS "
            "(SELECT FROM ledgerq.processed_job AS done WHERE done.job_id = producer_row.job_id)"
        )
        ended = {
            row["job_id"]
            for row in self.postgresql.fetch("SELECT job_id FROM ledgerq.processed_job")
        }
        last = max(self.destroyed, default=0)
        waiting = [
            job.job_id
            for job in self.history.jobs.values()
            if job.answer == "ok" and not job.in_database and job.invoked > last
            and job.job_id not in ended
        ]  # fmt: skip
        return [row["job_id"] for row in rows] + waiting


def claims(client: redis_sync.Redis) -> dict[str, str]:
    """The jobs that are claimed now, and the worker of each, where the engine says it."""
    running: dict[bytes, bytes] = client.hgetall(running_key("arq:queue"))  # type: ignore[assignment]
    if running:
        return {
            job.decode(errors="replace"): said.decode().rpartition("|")[2]
            for job, said in running.items()
        }
    keys = client.scan_iter(f"{in_progress_key_prefix}*", count=1000)
    return {key.decode(errors="replace").removeprefix(in_progress_key_prefix): "" for key in keys}


@contextmanager
def world(
    folder: Path, seed: int, *, lease: float, rate: float, workers: int = 3, **more: str
) -> Iterator[World]:
    """Servers, schema, project, proxy and workers; producers are started by who needs them.

    Args:
        folder: for data and logs.
        seed: of every choice.
        lease: of the workers, in seconds, where they have the setting.
        rate: jobs a second that a producer enqueues.
        workers: how many.
        more: settings of the workers and the producers.
    """
    with servers(folder) as (redis, postgresql), proxy() as through, party(Random(seed)) as other:
        to_redis = through.hop("redis", ("127.0.0.1", redis.port))
        to_postgresql = through.hop("postgresql", postgresql.socket)
        environment = settings(to_postgresql.port, to_redis.port, **lease_setting(lease), **more)
        migrate(DatabaseConfig(url=environment["DATABASE_URL"]))
        postgresql.execute(checker.SETUP)
        project = new_project_at(environment["DATABASE_URL"])
        told = folder / "history"
        told.mkdir()
        producers = Producers(told, {**environment, PARTY: other.url}, project, rate, seed)
        with fleet(folder / "logs", environment, workers) as running:
            made = World(
                folder, Random(seed), redis, postgresql, through, to_redis, to_postgresql, running,
                producers, other, History(told), lease, project,
            )  # fmt: skip
            sampler = threading.Thread(target=made.sample_for_ever, daemon=True, name="sampler")
            sampler.start()
            try:
                yield made
            finally:
                producers.kill()
                made._sampling.set()
                made.heal()


def new_project_at(url: str) -> int:
    """A project for tasks to be in; its id."""

    async def create() -> int:
        async with open_database(DatabaseConfig(url=url)) as database:
            return await new_project(database.sessions)

    return asyncio.run(create())
