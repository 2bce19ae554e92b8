"""What a service runs: its jobs, its schedule, its tables, and what its worker does at its start and its end."""

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import MetaData

from ledgerq import retention
from ledgerq.database.engine import Tables
from ledgerq.database.own_schema import SCHEMA
from ledgerq.execution.registry import Registry
from ledgerq.job import Kind
from ledgerq.schedule import Recurring

Hook = Callable[[dict[Any, Any]], Awaitable[Any]]  # of arq: it is given the `ctx`


@dataclass(frozen=True, kw_only=True)
class App:
    """The table of contents of a service. It has no side effects: a worker, a command or a test makes use of it.

        app = App(jobs=[close_order.KIND], metadata=[SQLModel.metadata], migrations=Path("migrations"))

    Args:
        jobs: every kind of job there is; two of one name are refused.
        schedule: what runs by the clock.
        metadata: of the service's own tables; errors name their columns, `health` checks grants on them.
        migrations: the folder of Alembic migrations that make them; a worker refuses to start on an older revision.
        schema: the PostgreSQL schema in which ledgerq's own tables stand. On SQLite there is one schema for all.
        forget_ended_jobs: prune the receipts of jobs that ended more than 90 days ago, every hour.
        on_startup: arq's startup hook, in place of `ledgerq.workers.startup`: it builds the engine.
        on_shutdown: arq's shutdown hook, in place of `ledgerq.workers.shutdown`: it disposes the engine.

    Raises:
        ValueError: two kinds have one name.
        SettingError: the schema is no plain identifier.
    """

    jobs: Iterable[Kind[Any]]
    schedule: Iterable[Recurring] = ()
    metadata: Iterable[MetaData] = ()
    migrations: Path | None = None
    schema: str = SCHEMA
    forget_ended_jobs: bool = True
    on_startup: Hook | None = None
    on_shutdown: Hook | None = None
    tables: Tables = field(init=False)

    def __post_init__(self) -> None:
        jobs = [kind for kind in self.jobs if kind is not retention.KIND]
        schedule = [each for each in self.schedule if each is not retention.EVERY_HOUR]
        if self.forget_ended_jobs:
            jobs.append(retention.KIND)
            schedule.append(retention.EVERY_HOUR)
        metadata = tuple(self.metadata)
        for name, value in {
            "jobs": tuple(jobs),
            "schedule": tuple(schedule),
            "metadata": metadata,
            "tables": Tables(metadata, self.migrations, self.schema),
        }.items():
            object.__setattr__(self, name, value)
        self.registry()

    def registry(self) -> Registry:
        """The kinds by name, for one process."""
        return Registry(self.jobs)
