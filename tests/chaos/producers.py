"""A producer process, `python -m tests.chaos.producers FOLDER NAME SEED RATE PROJECT`: all four ways in.

It writes what it does to its file before and after it does it, so that a kill -9 leaves the truth:
a job that was invoked and has no answer may exist or not.
"""

import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

from arq.connections import ArqRedis, RedisSettings, create_pool
from pydantic import TypeAdapter
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from db.database import open_database
from jobs.kinds import CreateTask
from ledgerq.broker.connection import connect
from ledgerq.client import JobClient
from ledgerq.config import load_config
from ledgerq.database.engine import Sessions
from ledgerq.database.transaction import transaction
from ledgerq.staging import stage
from ledgerq.wire.envelope import Envelope, encode
from ledgerq.wire.payload import Payload
from ledgerq.wire.request import Request
from tests.chaos.guests import expected, some_guest
from tests.chaos.kinds import ChaosBlock, ChaosConflict, ChaosEffects, ChaosFlaky
from tests.chaos.outside_kinds import expected_outside, some_outside
from tests.chaos.poison import invalid_body, invalid_payload

POISON = 0.05
GUESTS = 0.11  # of the jobs that are no poison, so 10 % of all
OUTSIDE = 0.12  # of the jobs that are neither, so 10 % of all
ROLLED_BACK = 0.05
EARLY = 0.2  # of the jobs that their producer sends: they come to a worker before the commit, or instead of it
STORMS = 0.01
STORM = 50  # deliveries of one job
LONGEST_PAUSE = 0.05  # seconds between two effects of a job
_LONGEST_PAUSE = float(os.environ.get("CHAOS_LONGEST_PAUSE", LONGEST_PAUSE))
ANY = TypeAdapter(dict[str, Any])


class NoAnswer(Exception):
    """The client can't say whether the job is there."""


class RolledBack(Exception):
    """Raised inside the producer's own transaction, on purpose."""


class Producer:
    """Enqueues, one job after another, each by a way and of a kind that the seed chooses."""

    def __init__(self, file: Path, name: str, seed: int, project: int) -> None:
        self._file = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._name, self._project = name, project
        self._party = os.environ["CHAOS_PARTY"]
        self._random = Random(seed)
        self._number = 0
        self._background: set[asyncio.Task[None]] = set()

    async def run(self, rate: float) -> None:
        """About `rate` jobs a second, until killed."""
        config = load_config()
        redis = connect(config.worker)
        where = redis.connection_pool.connection_kwargs
        settings = RedisSettings(host=where["host"], port=where["port"], conn_retries=1)
        async with open_database(config.database) as database:
            while True:
                started = time.monotonic()
                work = asyncio.create_task(self._one(redis, settings, database.sessions))
                self._background.add(work)
                work.add_done_callback(self._background.discard)
                while len(self._background) > 40:  # a stalled server must not pile up work
                    await asyncio.sleep(0.05)
                await asyncio.sleep(max(0, 1 / rate - (time.monotonic() - started)))

    async def _one(self, redis: ArqRedis, settings: RedisSettings, sessions: Sessions) -> None:
        self._number += 1
        job_id = f"{self._name}-{self._number}"
        source = self._random.choice(("client", "arq", "staged", "staged", "sql"))
        poison = self._random.random() < POISON
        guest = not poison and self._random.random() < GUESTS
        outside = not poison and not guest and self._random.random() < OUTSIDE
        if guest:
            payload: Payload = some_guest(self._random, self._project)
        elif outside:
            payload = some_outside(self._random, self._project, self._party)
        else:
            payload = self._payload()
        if source == "client" and not poison:
            await self._by_client(redis, job_id, payload)
        elif source in {"client", "arq"}:
            await self._by_arq(settings, redis, job_id, payload, poison=poison)
        else:
            await self._in_transaction(redis, sessions, source, job_id, payload, poison=poison)

    def _payload(self) -> Payload:
        pick, project = self._random, self._project
        chance = pick.random()
        if chance < 0.5:
            return CreateTask(title=f"№ {self._number}", project_id=project)
        if chance < 0.8:
            effects, pause = pick.randrange(1, 6), pick.choice((0.0, 0.01, _LONGEST_PAUSE))
            return ChaosEffects(project_id=project, effects=effects, pause=pause)
        if chance < 0.9:
            return ChaosFlaky(project_id=project, effects=2, failures=pick.randrange(1, 3))
        if chance < 0.98:
            state = pick.choice(("40001", "40P01"))
            return ChaosConflict(project_id=project, effects=2, sqlstate=state, times=2)
        return ChaosBlock(project_id=project, seconds=pick.uniform(0.05, 0.5))

    async def _by_client(self, redis: ArqRedis, job_id: str, payload: Payload) -> None:
        storm = self._random.random() < STORMS

        async def enqueue() -> None:
            await JobClient(redis).enqueue(payload, job_id=job_id, actor="chaos")

        await self._told("client", job_id, payload, enqueue)
        if storm:
            await self._deliver_again(redis, job_id, payload)

    async def _deliver_again(self, redis: ArqRedis, job_id: str, payload: Payload) -> None:
        """The same job, half of its deliveries at once, the other half when it may have ended."""
        fields = payload.model_dump(mode="json", exclude_unset=True)
        body = encode(Envelope(payload.kind, fields, actor="chaos"))
        self._say({"event": "again", "id": job_id, "times": STORM})
        for _ in range(2):
            for _ in range(STORM // 2):
                pipe = redis.pipeline()
                pipe.set(f"arq:job:{job_id}", body)
                pipe.zadd("arq:queue", {job_id: time.time() * 1000})
                await _forgiving(pipe.execute())
            await asyncio.sleep(0.5)

    async def _by_arq(
        self,
        settings: RedisSettings,
        redis: ArqRedis,
        job_id: str,
        payload: Payload,
        *,
        poison: bool,
    ) -> None:
        """A stock client with a pool of its own for each job, as a web request might have it."""
        fields = payload.model_dump(mode="json", exclude_unset=True)
        odd_body = poison and self._random.random() < 0.5
        seed = self._random.random()

        async def enqueue() -> None:
            if odd_body:
                async with redis.pipeline() as pipe:
                    pipe.set(f"arq:job:{job_id}", invalid_body(Random(seed)))
                    pipe.zadd("arq:queue", {job_id: time.time() * 1000})
                    await pipe.execute()
                return
            pool = await create_pool(settings, job_serializer=_json, job_deserializer=json.loads)
            try:
                given = invalid_payload(Random(seed), fields) if poison else fields
                job = await pool.enqueue_job(payload.kind, _job_id=job_id, _actor="chaos", **given)
                if job is None:  # known already, or the connection broke: arq does not say which
                    raise NoAnswer
            finally:
                await pool.aclose(close_connection_pool=True)

        await self._told("arq", job_id, payload, enqueue, poison=poison)

    async def _in_transaction(
        self,
        redis: ArqRedis,
        sessions: Sessions,
        source: str,
        job_id: str,
        payload: Payload,
        *,
        poison: bool,
    ) -> None:
        """The job and a row of the producer's own: both or none. Half of the staged jobs are sent by the producer too."""
        fields = payload.model_dump(mode="json", exclude_unset=True)
        given = invalid_payload(self._random, fields) if poison else fields
        rolled_back = self._random.random() < ROLLED_BACK
        source = "sql" if poison else source  # ledgerq.staging takes valid payloads only
        client, direct = JobClient(redis), self._random.random() < 0.5
        early = direct and self._random.random() < EARLY

        async def enqueue() -> None:
            async with transaction(sessions) as session:
                await session.execute(text("INSERT INTO producer_row VALUES (:id)"), {"id": job_id})
                if source == "staged":
                    sent_by = client if direct else None
                    await stage(session, payload, job_id=job_id, actor="chaos", client=sent_by)
                    if early:
                        await _send_before_commit(session, client, payload, job_id)
                else:
                    await session.execute(
                        text(
                            "SELECT ledgerq.enqueue_job(:kind, CAST(:fields AS jsonb), job_id => :id)"
                        ),
                        {"kind": payload.kind, "fields": json.dumps(given), "id": job_id},
                    )
                if rolled_back:
                    raise RolledBack

        await self._told(source, job_id, payload, enqueue, poison=poison)

    async def _told(
        self,
        source: str,
        job_id: str,
        payload: Payload,
        enqueue: Callable[[], Awaitable[None]],
        *,
        poison: bool = False,
    ) -> None:
        """Do it, and write down before and after."""
        about = {"id": job_id, "source": source, "kind": payload.kind, "poison": poison}
        about |= expected(payload) | expected_outside(payload)
        effects = getattr(payload, "effects", 1)
        self._say({"event": "invoke", **about, "effects": effects, "at": time.time()})
        try:
            async with asyncio.timeout(30):
                await enqueue()
            answer = "ok"
        except RolledBack:
            answer = "fail"
        except Exception:  # noqa: BLE001 - whatever it was, nobody knows whether the job exists
            answer = "info"
        self._say({"event": answer, "id": job_id, "at": time.time()})

    def _say(self, line: dict[str, Any]) -> None:
        os.write(self._file, json.dumps(line).encode() + b"\n")


async def _send_before_commit(
    session: AsyncSession, client: JobClient, payload: Payload, job_id: str
) -> None:
    """What no producer may do, and what a transaction that is rolled back by SQL comes to: the worker must drop the job."""
    row = await session.scalar(
        text("SELECT seq FROM ledgerq.outbox_message WHERE job_id = :id"), {"id": job_id}
    )
    request = Request(payload, job_id, actor="chaos")
    queue = client.queue_of(request) or ""
    body = encode(replace(request.envelope, staged=True, row=row or 0, queue=queue))
    client.send_soon(queue, job_id, body)
    await client.sent()
    await asyncio.sleep(0.02)


def _json(content: dict[str, Any]) -> bytes:
    return json.dumps(content).encode()


async def _forgiving(work: Awaitable[Any]) -> None:
    """A delivery more or less does not matter."""
    try:
        await work
    except Exception:  # noqa: BLE001 - as said
        await asyncio.sleep(0.05)


def main() -> None:
    """Produce until killed."""
    folder, name, seed, rate, project = sys.argv[1:]
    producer = Producer(Path(folder) / f"{name}.jsonl", name, int(seed), int(project))
    asyncio.run(producer.run(float(rate)))


if __name__ == "__main__":
    main()
