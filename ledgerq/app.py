"""`App` tells ledgerq what a service has: jobs, schedule, tables, and what its worker does at its start and end.

```python
app = App(
    jobs=[close_order, send_report],
    schedule=[Recurring(SendReport, hour=6)],
    metadata=[SQLModel.metadata],
    audited=[Order],
    resources=open_resources,
)
```
"""

from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from sqlalchemy import MetaData

from ledgerq.audit import Audited
from ledgerq.database.engine import Tables
from ledgerq.database.own_schema import SCHEMA
from ledgerq.errors import DefinitionError
from ledgerq.execution.registry import Registry
from ledgerq.job import Kind
from ledgerq.retention import EVERY_HOUR, prune_processed_jobs
from ledgerq.schedule import Recurring
from ledgerq.staging import Sender
from ledgerq.store.audit_rules import as_listed
from ledgerq.store.audited import FlushRecorder
from ledgerq.wire.arq_formats import Deserializer, Serializer
from ledgerq.wire.names import CRON_PREFIX

Hook = Callable[[dict[Any, Any]], Awaitable[Any]]  # an arq hook, called with arq's `ctx`


class Named(Protocol):
    """A function or cron job as `arq.func(…)` or `arq.cron(…)` returns it."""

    name: str


ArqFunction = Callable[..., Awaitable[Any]] | Named | str


@dataclass(frozen=True, kw_only=True)
class App:
    """All that ledgerq must know of a service. An `App` starts nothing itself: workers, commands and tests use it.

    ```python
    app = App(jobs=[close_order], metadata=[SQLModel.metadata], resources=open_resources)
    ```

    Args:
        jobs: all kinds of job of the service, as `@job` returns them; two kinds of one name are refused.
        schedule: the jobs that start at fixed times.
        metadata: the SQLAlchemy metadata of the service's own tables; errors name the tables' columns, and `health`
            checks the grants on the tables.
        audited: the classes whose changes write audit entries without a call: `Order`, or
            `Audited(Card, mask={"number"})` to leave out or mask columns.
        migrations: the folder of the Alembic migrations that make the service's own tables; a worker starts only if the
            database is at their newest revision. None: workers don't check the revision.
        schema: the PostgreSQL schema in which ledgerq's own tables stand. On SQLite there is one schema for all.
        resources: a function that returns an async context manager, whose value is `context.resources` of each job. A
            worker enters it at its start, when the engine is built, and leaves it at its end, before it disposes the
            engine.
        forget_ended_jobs: delete, every hour, the receipts of jobs that ended more than 90 days ago.
        on_startup: an arq startup hook that replaces `ledgerq.workers.startup`, which builds the engine.
        on_shutdown: an arq shutdown hook that replaces `ledgerq.workers.shutdown`, which disposes the engine.
        arq_functions: the service's own arq functions, as arq takes them: coroutine functions, `arq.func(…)`, dotted
            names. They run beside the jobs, with arq's rules and defaults; they get the `ctx` that `on_startup` filled.
        arq_cron_jobs: the service's own `arq.cron(…)` jobs; their times are UTC.
        arq_serializer: the function with which the service's arq clients write jobs, for example `pickle.dumps`; None
            is JSON.
        arq_deserializer: the function that reads those jobs, for example `pickle.loads`, which runs code that it finds
            in a job. None: only JSON is decoded; a pickled job stays on the queue, and the log says why.

    Raises:
        DefinitionError: two kinds or functions have one name, one of `jobs` was not made by `@job`, or `audited` names
            a class that can't be audited.
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
    on_startup: Hook | None = None
    on_shutdown: Hook | None = None
    arq_functions: Iterable[ArqFunction] = ()
    arq_cron_jobs: Iterable[Named] = ()
    arq_serializer: Serializer | None = None
    arq_deserializer: Deserializer | None = None
    tables: Tables = field(init=False)

    def __post_init__(self) -> None:
        jobs = [kind for kind in _listed("jobs", self.jobs) if kind is not prune_processed_jobs]
        schedule = [each for each in _listed("schedule", self.schedule) if each is not EVERY_HOUR]
        if self.forget_ended_jobs:
            jobs.append(prune_processed_jobs)
            schedule.append(EVERY_HOUR)
        metadata, audited = _listed("metadata", self.metadata), as_listed(self.audited)
        _check(jobs, schedule, metadata)
        if self.resources is not None and not callable(self.resources):
            raise DefinitionError(
                "App(resources=)",
                "is no function",
                "give the function itself, which returns an async context manager",
            )
        recorder = FlushRecorder(audited) if audited else None
        for name, value in {
            "jobs": tuple(jobs),
            "schedule": tuple(schedule),
            "metadata": metadata,
            "arq_functions": _listed("arq_functions", self.arq_functions),
            "arq_cron_jobs": _listed("arq_cron_jobs", self.arq_cron_jobs),
            "audited": audited,
            "tables": Tables(metadata, self.migrations, self.schema, recorder),
        }.items():
            object.__setattr__(self, name, value)
        self.registry()
        self._check_arq()

    def registry(self, resources: Any = None, client: Sender | None = None) -> Registry:
        """The kinds by name, and what one process has for their handlers: the resources, and a client to stage with."""
        return Registry(self.jobs, resources, client)

    def _check_arq(self) -> None:
        """Refuse an arq function whose name is taken: arq would give the jobs of both to the last one."""
        kinds = {name for kind in self.jobs for name in (kind.name, f"{CRON_PREFIX}{kind.name}")}
        seen = set[str]()
        for each in (*self.arq_functions, *self.arq_cron_jobs):
            name = arq_name(each)
            if name in kinds or name in seen:
                problem = "has the name of a kind of job" if name in kinds else "is there twice"
                raise DefinitionError(
                    f"arq function {name!r}", problem, "give it another one: arq.func(…, name=…)"
                )
            seen.add(name)
        if self.arq_serializer and not self.arq_deserializer:
            raise DefinitionError(
                "App(arq_serializer=)", "is of no use alone", "give arq_deserializer= too"
            )


def arq_name(function: ArqFunction) -> str:
    """The name by which arq's clients enqueue the function."""
    if isinstance(function, str):
        return function
    return getattr(function, "name", None) or str(getattr(function, "__qualname__", function))


def _listed(argument: str, given: Any) -> tuple[Any, ...]:
    """What an argument lists.

    Raises:
        DefinitionError: it is one thing, not some.
    """
    try:
        return tuple(given)
    except TypeError:
        problem = f"is one {type(given).__name__}, not a list"
        raise DefinitionError(f"App({argument}=)", problem, "put it into brackets: […]") from None


def _check(jobs: Iterable[Any], schedule: Iterable[Any], metadata: Iterable[Any]) -> None:
    for kind in jobs:
        if not isinstance(kind, Kind):
            raise DefinitionError(
                f"App(jobs=): {getattr(kind, '__qualname__', kind)}",
                "is no kind of job",
                "put @job above the function, and name it here",
            )
    names = {kind.name for kind in jobs}
    for entry in schedule:
        if not isinstance(entry, Recurring):
            raise DefinitionError(
                f"App(schedule=): {getattr(entry, '__qualname__', type(entry).__name__)}",
                "says no times",
                "write Recurring(Payload, hour=…)",
            )
        if entry.payload.kind not in names:
            raise DefinitionError(
                f"App(schedule=): {entry.payload.__qualname__}",
                f"its kind {entry.payload.kind!r} is none of App(jobs=)",
                "name its job there",
            )
    for each in metadata:
        if not isinstance(each, MetaData):
            raise DefinitionError(
                f"App(metadata=): {getattr(each, '__qualname__', type(each).__name__)}",
                "is no MetaData",
                "give a list of them: [SQLModel.metadata]",
            )
