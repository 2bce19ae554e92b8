"""What a service runs: its jobs, its schedule, its tables, and what its worker does at its start and its end.

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
from ledgerq.store.audited import FlushRecorder
from ledgerq.wire.arq_formats import Deserializer, Serializer
from ledgerq.wire.names import CRON_PREFIX

Hook = Callable[[dict[Any, Any]], Awaitable[Any]]  # of arq: it is given the `ctx`


class Named(Protocol):
    """What `arq.func(…)` and `arq.cron(…)` make."""

    name: str


ArqFunction = Callable[..., Awaitable[Any]] | Named | str


@dataclass(frozen=True, kw_only=True)
class App:
    """The table of contents of a service. It has no side effects: a worker, a command or a test makes use of it.

    ```python
    app = App(jobs=[close_order], metadata=[SQLModel.metadata], resources=open_resources)
    ```

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
        on_startup: arq's startup hook, in place of `ledgerq.workers.startup`: it builds the engine.
        on_shutdown: arq's shutdown hook, in place of `ledgerq.workers.shutdown`: it disposes the engine.
        arq_functions: the service's own arq functions, as arq takes them: coroutine functions, `arq.func(…)`, dotted
            names. They run by arq's rules and with arq's defaults, beside the jobs; `ctx` is what `on_startup` made of it.
        arq_cron_jobs: the service's own `arq.cron(…)` jobs; their clock is UTC.
        arq_serializer: with what arq clients of the service write jobs, if not JSON, such as `pickle.dumps`.
        arq_deserializer: the other way round, such as `pickle.loads`, which runs code that it finds in a job. Without it
            no body but JSON is ever decoded: a pickled job stays on the queue, and the log says why.

    Raises:
        DefinitionError: two kinds or functions have one name, one of `jobs` was not made by `@job`, or a class can't be
            audited as it is asked for.
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
        jobs = [kind for kind in self.jobs if kind is not prune_processed_jobs]
        schedule = [each for each in self.schedule if each is not EVERY_HOUR]
        if self.forget_ended_jobs:
            jobs.append(prune_processed_jobs)
            schedule.append(EVERY_HOUR)
        _check(jobs, schedule, self.metadata)
        metadata, audited = tuple(self.metadata), tuple(self.audited)
        recorder = FlushRecorder(audited) if audited else None
        for name, value in {
            "jobs": tuple(jobs),
            "schedule": tuple(schedule),
            "metadata": metadata,
            "arq_functions": tuple(self.arq_functions),
            "arq_cron_jobs": tuple(self.arq_cron_jobs),
            "audited": audited,
            "tables": Tables(metadata, self.migrations, self.schema, recorder),
        }.items():
            object.__setattr__(self, name, value)
        self.registry()
        self._check_arq()

    def registry(self, resources: Any = None) -> Registry:
        """The kinds by name, and what their handlers are given, for one process."""
        return Registry(self.jobs, resources)

    def _check_arq(self) -> None:
        """arq itself would let the last function of a name take the jobs of all."""
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
    """The name by which arq's clients enqueue it."""
    if isinstance(function, str):
        return function
    return getattr(function, "name", None) or str(getattr(function, "__qualname__", function))


def _check(jobs: Iterable[Any], schedule: Iterable[Recurring], metadata: object) -> None:
    for kind in jobs:
        if not isinstance(kind, Kind):
            raise DefinitionError(
                f"App(jobs=): {getattr(kind, '__qualname__', kind)}",
                "is no kind of job",
                "put @job above the function, and name it here",
            )
    names = {kind.name for kind in jobs}
    for entry in schedule:
        if entry.payload.kind not in names:
            raise DefinitionError(
                f"App(schedule=): {entry.payload.__qualname__}",
                f"its kind {entry.payload.kind!r} is none of App(jobs=)",
                "name its job there",
            )
    if isinstance(metadata, MetaData):
        raise DefinitionError(
            "App(metadata=)", "is one MetaData", "give a list: [SQLModel.metadata]"
        )
