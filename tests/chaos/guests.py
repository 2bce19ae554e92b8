"""Guests: kinds of jobs that misbehave. Each leaves all its tasks or none, and how it must end is known before."""

from random import Random
from typing import Any

import structlog
from sqlalchemy import text

from ledgerq.job import JobContext, Kind
from tests.chaos.effects import Effects, leave
from tests.chaos.habits import HABITS, SETTINGS, TENANT, WORK_MEM, Habit, Visit, tell_leak


class Guest(Effects, kind="chaos_guest"):
    """A job of a transaction of its own that misbehaves between its two tasks."""

    what: str


class QuickGuest(Guest, kind="chaos_guest_quick"):
    """The same for jobs that share a transaction."""


class SettingGuest(Guest, kind="chaos_guest_setting"):
    """… and leave settings in it: from the first of them on, each worker gives such jobs transactions of their own."""


KINDS: tuple[type[Guest], ...] = (Guest, QuickGuest, SettingGuest)


def habits_of(kind: type[Guest]) -> list[str]:
    """What guests of this kind do. Those that block, or wait for others, share no transaction."""
    if kind is SettingGuest:
        return list(SETTINGS)
    return [name for name, habit in HABITS.items() if kind is Guest or habit.batchable]


def every_guest(project: int) -> list[Guest]:
    """One of each, and one neighbour beside each that shares a transaction."""
    made: list[Guest] = []
    for kind in KINDS:
        for what in habits_of(kind):
            made.append(kind(project_id=project, effects=2, what=what))
            if kind is not Guest:
                made.append(kind(project_id=project, effects=2, what="nothing"))
    return made


def some_guest(random: Random, project: int) -> Guest:
    """One of them; every fourth of those that share a transaction does nothing wrong."""
    kind = random.choices(KINDS, (5, 4, 1))[0]
    names = habits_of(kind)
    what = random.choices(names, [HABITS[name].weight for name in names])[0]
    if kind is not Guest and random.random() < 0.25:
        what = "nothing"
    return kind(project_id=project, effects=2, what=what)


def expected(payload: object) -> dict[str, Any]:
    """How a job of this payload must end, for the producer's history."""
    if not isinstance(payload, Guest):
        return {}
    habit = HABITS[payload.what]
    return {"ends": habit.ends, "reasons": habit.reasons}


async def _handle(context: JobContext, guest: Guest) -> Any:
    """One task, then what it is known for, then the rest."""
    visit = Visit(context)
    try:
        await _look_around(context)
        made = await leave(context, guest, most=1)
        answer = await _habit(guest).do(visit)
        made += await leave(context, guest, most=guest.effects - 1)
        return made if answer is None else answer
    finally:
        visit.over.set()


def _habit(guest: Guest) -> Habit:
    return HABITS[guest.what]


async def _look_around(context: JobContext) -> None:
    """Nothing of a neighbour, or of who had the connection before, is to be seen; and leave something."""
    if TENANT.get() is not None:
        tell_leak(context, "a context variable")
    if "guest" in structlog.contextvars.get_contextvars():
        tell_leak(context, "a log line's variable")
    if context.session.info:
        tell_leak(context, "session.info")
    if not context.session.autoflush:
        tell_leak(context, "session.autoflush")
    asked = text("SELECT setting FROM pg_settings WHERE name = 'work_mem'")
    if await context.session.scalar(asked) == WORK_MEM:
        tell_leak(context, "a setting")
    TENANT.set(str(context.origin.job_id))
    structlog.contextvars.bind_contextvars(guest=context.origin.job_id)
    context.session.info["guest"] = context.origin.job_id
    context.session.autoflush = False


GUEST_KINDS = (
    Kind(Guest, _handle),
    Kind(QuickGuest, _handle, shares_commit=True),
    Kind(SettingGuest, _handle, shares_commit=True),
)
