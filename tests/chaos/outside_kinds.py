"""Test-only kinds that work outside of the database: steps at the party, rows between them, and a loop over pages."""

import asyncio
import http.client
import json
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from random import Random
from typing import Any
from urllib.parse import urlsplit

import httpx
import structlog
from pydantic import BaseModel, PrivateAttr
from sqlalchemy import text

from ledgerq.job import JobContext, Kind
from ledgerq.outside import Outside
from tests.chaos import held
from tests.chaos.effects import Effects, leave

PAGES = 3
PATIENCE = 150.0  # seconds: longer than any pause of a worker, and than a call is held
CALLS = ("charge", *(f"page-{number}" for number in range(PAGES)), "mail", "end")  # in this order
EFFECTS = ("charge", "mail")  # steps with an effect at the party
RECORDS = {
    "charge": "done",
    "row": "done",
    "pages": "open",
    "mail": "done",
}  # of a job that is done

log = structlog.stdlib.get_logger("ledgerq.chaos")


class ChaosOutside(Effects, kind="chaos_outside"):
    """Calls a party that knows idempotency keys."""

    url: str
    _decoded: float = PrivateAttr(default_factory=time.monotonic)

    @property
    def decoded(self) -> float:
        """A moment before this run of the job has read which steps are recorded."""
        return self._decoded


class ChaosOutsideOnce(ChaosOutside, kind="chaos_outside_once"):
    """Calls the party's second endpoint, which knows no keys, at most once."""


class ChaosWaits(Effects, kind="chaos_waits"):
    """Asks for one step, and is done."""

    url: str


class Said(BaseModel):
    """What the party answers."""

    serial: int
    step: str


def some_outside(random: Random, project: int, url: str) -> ChaosOutside:
    """Two of three with keys throughout."""
    kind = random.choice((ChaosOutside, ChaosOutside, ChaosOutsideOnce))
    return kind(project_id=project, effects=random.randrange(1, 3), url=url)


def expected_outside(payload: object) -> dict[str, Any]:
    """How a job of this payload must end, for the producer's history."""
    if not isinstance(payload, ChaosOutside):
        return {}
    in_doubt = ("in_doubt",) if isinstance(payload, ChaosOutsideOnce) else ()
    return {"ends": "either", "reasons": ("failed", *in_doubt)}


@dataclass(frozen=True, slots=True)
class _Run:
    """One run of a job's `outside` function, in its task."""

    job_id: str
    decoded: float
    task: "asyncio.Task[Any] | None"

    def headers(self, key: str) -> dict[str, str]:
        """Of a call, which is under way from now on: the run's task must have no connection."""
        if self.task and (held_now := held.connections_of(self.task)):
            what = f"{held_now} connections are held in a step"
            log.error("chaos.leak", job_id=self.job_id, what=what)
        return {"Idempotency-Key": key, "Worker": str(os.getpid()), "Decoded": repr(self.decoded)}


async def _ask(client: httpx.AsyncClient, where: str, key: str, run: _Run) -> Said:
    answer = await client.post(where, headers=run.headers(key))
    return Said.model_validate(answer.raise_for_status().json())


def _ask_in_thread(where: str, key: str, run: _Run) -> Said:
    """A plain function: it goes on to its end, whatever happens to its job."""
    to = urlsplit(where)
    connection = http.client.HTTPConnection(to.hostname or "", to.port, timeout=PATIENCE)
    try:
        connection.request("POST", to.path, headers=run.headers(key))
        answer = connection.getresponse()
        if answer.status != http.HTTPStatus.OK:
            raise OSError(f"the party answers {answer.status}")
        return Said.model_validate(json.load(answer))
    finally:
        connection.close()


async def _add_row(context: JobContext, name: str) -> str:
    await context.session.execute(
        text("INSERT INTO outside_row VALUES (:job_id, :name)"),
        {"job_id": context.origin.job_id, "name": name},
    )
    return name


async def _go_outside(outside: Outside[httpx.AsyncClient], job: ChaosOutside) -> list[int]:
    client, run = outside.resources, _Run(outside.job_id, job.decoded, asyncio.current_task())
    keyed = f"{job.url}/keyed/{outside.job_id}"
    charged = await outside.step(
        "charge", _ask, client, f"{keyed}/charge", outside.key("charge"), run
    )
    await outside.transaction("row", _add_row, "row")
    page = outside.cursor("pages", start=0)
    while page < PAGES:
        name = f"page-{page}"
        await outside.call(_ask, client, f"{keyed}/{name}", outside.key(name), run)
        page += 1
        await outside.advance("pages", page, _add_row, name)
        await outside.progress(page, of=PAGES)
    once = isinstance(job, ChaosOutsideOnce)
    where = f"{job.url}/plain/{outside.job_id}/mail" if once else f"{keyed}/mail"
    mailed = await outside.step(
        "mail", _ask_in_thread, where, outside.key("mail"), run, at_most_once=once
    )
    await outside.call(_ask, client, f"{keyed}/end", outside.key("end"), run)
    return [charged.serial, mailed.serial]


async def _wait(outside: Outside[httpx.AsyncClient], job: ChaosWaits) -> int:
    run = _Run(outside.job_id, time.monotonic(), asyncio.current_task())
    where, key = f"{job.url}/keyed/{outside.job_id}/charge", outside.key("charge")
    return (await outside.step("charge", _ask, outside.resources, where, key, run)).serial


async def _waited(context: JobContext, job: ChaosWaits, serial: int) -> list[int]:
    return await leave(context, job)


async def _outside(context: JobContext, job: ChaosOutside, serials: list[int]) -> list[int]:
    await leave(context, job)
    return serials


@asynccontextmanager
async def open_client() -> AsyncIterator[httpx.AsyncClient]:
    """The application's resources: a client for the party."""
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(trust_env=False, timeout=PATIENCE, limits=limits) as client:
        yield client


OUTSIDE_KINDS: tuple[Kind[Any, Any], ...] = (
    Kind(ChaosOutside, _outside, outside=_go_outside, timeout=300),
    Kind(ChaosOutsideOnce, _outside, outside=_go_outside, timeout=300),
    Kind(ChaosWaits, _waited, outside=_wait, timeout=300),
)
