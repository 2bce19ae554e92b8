"""Stands for the worker of one delivery: notes what the job calls outside, and dies at the moment that a test says.

A worker dies at a commit. Before it: what the transaction wrote is rolled back. After it: all of that stands. A dead
worker commits nothing more and calls nothing more.
"""

import asyncio
import functools
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Literal, TypeVar, get_args

from sqlalchemy.ext.asyncio import async_sessionmaker

from ledgerq.database.engine import Sessions
from ledgerq.database.session import LedgerqSession
from ledgerq.job import JobContext, Kind
from ledgerq.outside import Outside
from ledgerq.runtime.calls import Calls
from ledgerq.testing.outside_calls import OutsideCall

T = TypeVar("T")
OfJob = Literal["before commit", "after commit"]
OfStep = Literal["before record", "after record"]
Moment = Literal[OfJob, OfStep]


class WorkerCrashed(Exception):
    """Simulates the death of a worker's process; see `JobTester.crash`."""


@dataclass(slots=True)
class _Doing:
    """What an `outside` function does now: the step's or cursor's name, and whether its next commit is its record."""

    name: str | None
    ready: bool


_DOING: ContextVar[_Doing | None] = ContextVar("ledgerq_doing", default=None)


class Worker:
    """Stands in a test for the worker that runs a job once, or jobs in one transaction; it can die at a chosen moment.

    Args:
        calls: the list to which the job's calls outside of the database are added.
        moment: when the worker dies, for example `"before commit"`; None: the worker does not die.
        step: the step or cursor whose record is meant, if the moment is before or after a record.

    Raises:
        ValueError: there is no such moment, or it has no step, or lacks one.
    """

    def __init__(
        self, calls: list[OutsideCall], moment: Moment | None = None, step: str | None = None
    ) -> None:
        if moment is not None:
            _check(moment, step)
        self.calls, self._moment, self._step = calls, moment, step
        self.ahead = timedelta(0)  # by which the test's clock is ahead, for `context.now`
        self.is_dead = False
        self.steps: dict[str, None] = {}  # names that this run has come to, in their order
        self._task: asyncio.Task[Any] | None = None
        self._own: Any = None  # the session of the job's own transaction

    async def live(self, work: Coroutine[Any, Any, T]) -> T | None:
        """What the work answers; None if this worker has died in it."""
        self._task = asyncio.create_task(work)
        try:
            answer = await self._task
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not self.is_dead or (task and task.cancelling()):
                raise
            return None
        return None if self.is_dead else answer

    def watching(self, kind: Kind[Any, Any]) -> Kind[Any, Any]:
        """The kind with functions that tell this worker what they do."""
        handle: Callable[..., Awaitable[Any]] = kind.handle

        @functools.wraps(handle)
        async def watched(context: JobContext[Any], *given: Any) -> Any:
            self._own = context.session.sync_session
            return await handle(self.by_clock(context), *given)

        changed: dict[str, Any] = {"handle": watched}
        if many := kind.handle_many:
            changed["handle_many"] = lambda contexts, payloads: many(
                [self.by_clock(each) for each in contexts], payloads
            )
        if outside := kind.outside:
            changed["outside"] = lambda given, payload: outside(
                _WatchedOutside(given, self), payload
            )
        return replace(kind, **changed)

    def by_clock(self, context: JobContext[Any]) -> JobContext[Any]:
        """The context with the time of the test's clock."""
        return replace(context, now=context.now + self.ahead)

    def sessions(self, sessions: Sessions) -> Sessions:
        """The sessions for this worker's jobs: after the moment at which it dies, they commit nothing more."""
        if self._moment is None:
            return sessions
        worker = self

        class Mortal(LedgerqSession):
            """Raises `WorkerCrashed` at the commit: before it or after it."""

            async def commit(self) -> None:
                worker.require_life()
                dies = worker.dies_with(self)
                if dies and worker.dies_before:
                    worker.die()
                await super().commit()
                if dies:
                    worker.die()

        options = {**sessions.kw}
        bind = options.pop("bind")
        return async_sessionmaker(bind, class_=Mortal, **options)

    @property
    def dies_before(self) -> bool:
        """True if the commit is not made any more."""
        return self._moment is not None and self._moment.startswith("before")

    def dies_with(self, session: LedgerqSession) -> bool:
        """True if this session's commit is the one at which the worker dies."""
        doing = _DOING.get()
        if self._step is None or doing is None:
            return self._step is None and session.sync_session is self._own
        return doing.ready and doing.name == self._step

    def die(self) -> None:
        """Die: what runs is cancelled, as soon as it notices.

        Raises:
            WorkerCrashed: always.
        """
        self.is_dead = True
        if self._task:
            self._task.cancel()
        self.require_life()

    def require_life(self) -> None:
        """Raise `WorkerCrashed` if this worker has died at its moment."""
        if self.is_dead:
            raise WorkerCrashed(self._moment)

    @property
    def missed(self) -> str:
        """For an error: why the job was done before the commit at which the worker was to die."""
        if self._step in self.steps:
            return f"has not recorded {self._step!r} in this run: an earlier attempt did"
        told = ", ".join(map(repr, self.steps)) or "none"
        return f"has no step {self._step!r}; its steps in this run: {told}"

    @contextmanager
    def doing(self, name: str | None, *, ready: bool = False) -> Iterator[None]:
        """Within the block, commits count as those of step `name` (None: of no step); `ready`: the next one records it.

        If the worker dies in the block, the block raises `asyncio.CancelledError`, as in a real cancellation.
        """
        if name is not None:
            self.steps[name] = None
        token = _DOING.set(_Doing(name, ready))
        try:
            self.require_life()
            yield
        except WorkerCrashed:
            raise asyncio.CancelledError from None  # which the job's own code does not catch
        finally:
            _DOING.reset(token)


class _WatchedOutside(Outside[Any]):
    """The same run of the job, told to its worker."""

    def __init__(self, run: Outside[Any], worker: Worker) -> None:
        self.__dict__.update(vars(run))  # what ends the one ends the other
        self._worker = worker
        self._calls = _WatchedCalls(self._calls, worker, self.attempt)

    def _context(self, session: LedgerqSession) -> JobContext[Any]:
        return self._worker.by_clock(super()._context(session))

    async def call(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        with self._worker.doing(None):
            return await super().call(function, *args, **kwargs)

    async def step(
        self, name: str, function: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> Any:
        with self._worker.doing(name):
            return await super().step(name, function, *args, **kwargs)

    async def transaction(
        self, name: str, function: Callable[..., Awaitable[Any]], /, *args: Any, **kwargs: Any
    ) -> Any:
        with self._worker.doing(name, ready=True):
            return await super().transaction(name, function, *args, **kwargs)

    async def advance(
        self,
        name: str,
        value: Any,
        function: Callable[..., Awaitable[Any]],
        /,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        with self._worker.doing(name, ready=True):
            await super().advance(name, value, function, *args, **kwargs)


class _WatchedCalls(Calls):
    """Calls that are noted."""

    def __init__(self, calls: Calls, worker: Worker, attempt: int) -> None:
        self._made, self._worker, self._attempt = calls, worker, attempt

    async def make(
        self, seconds: float | None, function: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> Any:
        doing = _DOING.get()
        assert doing  # noqa: S101 - `step` and `call` have set it
        made = OutsideCall(doing.name, _name_of(function), args, kwargs, self._attempt)
        self._worker.calls.append(made)
        answer = await self._made.make(seconds, function, *args, **kwargs)
        doing.ready = True
        return answer


def _name_of(function: Callable[..., Any]) -> str:
    while isinstance(function, functools.partial):
        function = function.func
    return getattr(function, "__name__", type(function).__name__)


def _check(moment: str, step: str | None) -> None:
    if moment not in {*get_args(OfJob), *get_args(OfStep)}:
        told = " or ".join(map(repr, (*get_args(OfJob), *get_args(OfStep))))
        raise ValueError(f"moment: there is no {moment!r}; say {told}")
    if moment in get_args(OfStep) and step is None:
        raise ValueError(f"step: {moment!r} is a step's moment; say which, as in step='charge'")
    if moment in get_args(OfJob) and step is not None:
        raise ValueError(
            f"step: {moment!r} is the job's moment; for a step's say 'before record' or 'after record'"
        )
