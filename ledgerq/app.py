"""What a service runs: its jobs, its schedule, its tables, and what its worker does at its start and its end."""

from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from arq.cron import CronJob
from arq.typing import WorkerCoroutine
from arq.worker import Function, func
from sqlalchemy import MetaData

from ledgerq.audit import Audited
from ledgerq.database.engine import Tables
from ledgerq.database.own_schema import SCHEMA
from ledgerq.errors import DefinitionError
from ledgerq.execution.registry import Registry
from ledgerq.job import Kind
from ledgerq.retention import EVERY_HOUR, prune_processed_jobs
from ledgerq.schedule import Recurring
from ledgerq.store.audited import FlushRecorder

Hook = Callable[[dict[Any, Any]], Awaitable[Any]]  # of arq: it is given the `ctx`


@dataclass(frozen=True, kw_only=True)
class App:
    """The table of contents of a service. It has no side effects: a worker, a command or a test makes use of it.

        app = App(jobs=[close_order], metadata=[SQLModel.metadata], resources=open_resources)

    Args:
        jobs: every kind of job there is, as `@job` made them; two of one name are refused.
        schedule: what runs by the clock.
        metadata: of the service's own tables; errors name their columns, `health` checks grants on them.
        audited: the classes whose changes leave audit entries by themselves: `Order`, or
            `Audited(Card, mask={"number"})` to leave out or mask columns.
        migrations: the folder of Alembic migrations that make them; a worker refuses to start on an older revision.
        schema: the PostgreSQL schema in which ledgerq's own tables stand. On SQLite there is one schema for all.
        resources: an async context manager: what it yields is `context.resources` of each job. A worker enters it at its
            startup, when the engine is built, and leaves it at its shutdown, before the engine is disposed.
        forget_ended_jobs: prune the receipts of jobs that ended more than 90 days ago, every hour.
        arq_functions: a service's own arq functions, which the worker runs beside the jobs, by arq's rules.
        arq_cron_jobs: the service's arq cron jobs; their times are UTC.
        arq_serializer: what the service's arq clients write jobs with, if it is not JSON; such a job's result is written with it.
        arq_deserializer: the other way. Without it a pickled job is left on the queue, and never unpickled.
        on_startup: arq's startup hook, in place of `ledgerq.workers.startup`: it builds the engine.
        on_shutdown: arq's shutdown hook, in place of `ledgerq.workers.shutdown`: it disposes the engine.

    Raises:
        DefinitionError: two kinds or functions have one name, or one of `jobs` was not made by `@job`.
        DefinitionError: two kinds have one name, one of `jobs` was not made by `@job`, or a class can't be audited as it
            is asked for.
        SettingError: the schema is no plain identifier.
    """

    jobs: Iterable[Kind[Any]]
    schedule: Iterable[Recurring] = ()
    metadata: Iterable[MetaData] = ()
    audited: Iterable[type[Any] | Audited] = ()
    migrations: Path | None = None
    schema: str = SCHEMA
    resources: Callable[[], AbstractAsyncContextManager[Any]] | None = None
    forget_ended_jobs: bool = True
    arq_functions: Iterable[Function | WorkerCoroutine] = ()
    arq_cron_jobs: Iterable[CronJob] = ()
    arq_serializer: Callable[[dict[str, Any]], bytes] | None = None
    arq_deserializer: Callable[[bytes], dict[str, Any]] | None = None
    on_startup: Hook | None = None
    on_shutdown: Hook | None = None
    tables: Tables = field(init=False)

    def __post_init__(self) -> None:
        jobs = [kind for kind in self.jobs if kind is not prune_processed_jobs]
        schedule = [each for each in self.schedule if each is not EVERY_HOUR]
        if self.forget_ended_jobs:
            jobs.append(prune_processed_jobs)
            schedule.append(EVERY_HOUR)
        for each in jobs:
            if not isinstance(each, Kind):
                raise DefinitionError(
                    f"App(jobs=): {getattr(each, '__qualname__', each)}",
                    "is no kind of job",
                    "put @job above the function, and name it here",
                )
        metadata, audited = tuple(self.metadata), tuple(self.audited)
        recorder = FlushRecorder(audited) if audited else None
        for name, value in {
            "jobs": tuple(jobs),
            "schedule": tuple(schedule),
            "metadata": metadata,
            "arq_functions": self._functions(jobs),
            "arq_cron_jobs": tuple(self.arq_cron_jobs),
            "audited": audited,
            "tables": Tables(metadata, self.migrations, self.schema, recorder),
        }.items():
            object.__setattr__(self, name, value)
        self.registry()

    def _functions(self, jobs: Iterable[Kind[Any]]) -> tuple[Function, ...]:
        functions, names = [func(each) for each in self.arq_functions], {kind.name for kind in jobs}
        for each in functions:
            if each.name in names:
                raise DefinitionError(
                    f"App(arq_functions=): {each.name}", "is the name of two", "rename one of them"
                )
            names.add(each.name)
        return tuple(functions)

    def registry(self, resources: Any = None) -> Registry:
        """The kinds by name, and what their handlers are given, for one process."""
        return Registry(self.jobs, resources)
