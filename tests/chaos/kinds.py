"""Test-only kinds of jobs, beside the product's: each leaves a known number of tasks, or none."""

import os
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from sqlalchemy import text

from jobs.kinds import CATALOGUE
from ledgerq.app import App
from ledgerq.errors import RetryLater, SerializationFailure
from ledgerq.execution.registry import Registry
from ledgerq.job import JobContext, Kind
from tests.chaos.effects import Effects, leave
from tests.chaos.guests import GUEST_KINDS
from tests.chaos.outside_kinds import OUTSIDE_KINDS, open_client
from worker.app import app

_raised: dict[str, int] = {}  # job → how often this process has failed it


class ChaosEffects(Effects, kind="chaos_effects"):
    """Leaves its tasks, flushed one by one, with a pause between them."""

    pause: float = 0.0


class ChaosBlock(Effects, kind="chaos_block"):
    """Blocks the event loop half-way."""

    seconds: float


class ChaosKill(Effects, kind="chaos_kill"):
    """Kills its own worker half-way: `times` times, counted by files in a folder, or for ever."""

    folder: str
    times: int | None = None


class ChaosFlaky(Effects, kind="chaos_flaky"):
    """Fails in its first attempts, after its effects."""

    failures: int


class ChaosConflict(Effects, kind="chaos_conflict"):
    """Is told by the database, after its effects or halfway, that another transaction came first."""

    sqlstate: str
    times: int


async def _effects(context: JobContext, job: ChaosEffects) -> list[int]:
    return await leave(context, job, job.pause)


async def _block(context: JobContext, job: ChaosBlock) -> list[int]:
    made = await leave(context, job)
    time.sleep(job.seconds)  # noqa: ASYNC251 - the fault
    return made


async def _kill(context: JobContext, job: ChaosKill) -> list[int]:
    made = await leave(context, job)
    deaths = Path(job.folder)
    number = len(list(deaths.glob(f"{context.origin.job_id}.*")))  # noqa: ASYNC240 - it dies anyway
    if job.times is None or number < job.times:
        (deaths / f"{context.origin.job_id}.{number}").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return made


async def _flaky(context: JobContext, job: ChaosFlaky) -> list[int]:
    made = await leave(context, job)
    if (context.origin.attempt or 1) <= job.failures:
        raise RetryLater(0.05)
    return made


async def _conflict(context: JobContext, job: ChaosConflict) -> list[int]:
    key = str(context.origin.job_id)
    _raised[key] = _raised.get(key, 0) + 1
    if _raised[key] <= job.times and job.sqlstate == "halfway":
        await leave(context, job, most=1)
        raise SerializationFailure
    made = await leave(context, job)
    if _raised[key] <= job.times:
        state = "40001" if job.sqlstate == "40001" else "40P01"
        await context.session.execute(
            text(f"DO $$ BEGIN RAISE EXCEPTION 'injected' USING ERRCODE = '{state}'; END $$")
        )
    return made


CHAOS_KINDS = (
    Kind(ChaosEffects, _effects),
    Kind(ChaosBlock, _block),
    Kind(ChaosKill, _kill),
    Kind(ChaosFlaky, _flaky),
    Kind(ChaosConflict, _conflict),
)


def registry(resources: Any = None) -> Registry:
    """The product's kinds, these, and those that misbehave."""
    return chaos_app().registry(resources)


def chaos_app() -> App:
    """The application, with these."""
    kinds: list[Kind[Any, Any]] = [*CATALOGUE, *CHAOS_KINDS, *GUEST_KINDS, *OUTSIDE_KINDS]
    return replace(app, jobs=kinds, resources=open_client)
