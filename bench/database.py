"""The database layer beside the naive way, in one run: `make bench-database`.

Prints, for each read and write, the statements that it sends and the milliseconds that it takes: the
median of some rounds in which the two take turns, on one PostgreSQL with fsync on.
"""

import asyncio
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from sqlalchemy import event, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from db import task_bulk, task_reads, tasks, workers
from db.database import open_database
from db.inputs import NewTask, NewWorker, TaskChanges
from db.models import Project, Task, Worker
from db.schema import migrate
from db.task_reads import TaskFilter
from ledgerq import embedded
from ledgerq.database.engine import Database
from ledgerq.database.settings import DatabaseConfig
from ledgerq.database.transaction import transaction
from ledgerq.store import audit
from ledgerq.store.audit import Origin
from ledgerq.store.tables import AuditLog

ROUNDS = 5
CREATED = 200
LISTED = 50
TREE = 1_000
HISTORY = 1_000
ORIGIN = Origin(actor="bench")

Work = Callable[[], Awaitable[Any]]


@dataclass(slots=True)
class Way:
    """One way of doing something, and what it cost."""

    name: str
    work: Work
    milliseconds: list[float] = field(default_factory=list)
    statements: int = 0

    @property
    def median(self) -> float:
        return statistics.median(self.milliseconds)


class Bench:
    """A filled database, and each thing to do with it in two or three ways."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._sessions = database.sessions
        self._sent = 0
        event.listen(database.engine.sync_engine, "before_cursor_execute", self._count)

    def _count(self, *_: Any) -> None:
        self._sent += 1

    async def fill(self) -> None:
        """A project with people, a list, a tree of subtasks and a task with a long history."""
        async with transaction(self._sessions) as session:
            project = Project(name="bench")
            session.add(project)
            await session.flush()
            self._project = project.id
            self._people = [
                (await workers.create(session, ORIGIN, NewWorker(name=f"W{n}"))).id
                for n in range(20)
            ]
            ids = await task_bulk.create_many(session, ORIGIN, self._news(LISTED * 4))
        self._root = ids[0]
        parents = [self._root]
        for start in range(0, TREE, 10):
            news = [
                NewTask(title=str(n), project_id=self._project, parent_task_id=parents[start // 10])
                for n in range(start, start + 10)
            ]
            async with transaction(self._sessions) as session:
                parents += await task_bulk.create_many(session, ORIGIN, news)
        self._old = ids[1]
        async with transaction(self._sessions) as session:
            for n in range(HISTORY - 1):
                await tasks.update(session, ORIGIN, self._old, TaskChanges(title=f"title {n}"))

    def _news(self, number: int) -> list[NewTask]:
        people = self._people
        return [
            NewTask(
                title=f"Task {n}",
                project_id=self._project,
                assignee_id=people[n % len(people)],
                created_by_id=people[-1 - n % len(people)],
                tags=["bench"],
            )
            for n in range(number)
        ]

    def comparisons(self) -> dict[str, list[Way]]:
        """What is compared: the naive way first."""
        return {
            f"create {CREATED} tasks with audit": [
                Way("a transaction for each", self._create_each_alone),
                Way("ORM, one transaction", self._create_by_orm),
                Way("bulk, one transaction", self._create_in_bulk),
            ],
            f"a page of {LISTED} with relations": [
                Way("a query for each relation", self._page_naively),
                Way("task_reads.page", self._page),
            ],
            f"a tree of {TREE} subtasks": [
                Way("a query for each task", self._tree_naively),
                Way("task_reads.tree", self._tree),
            ],
            f"a history of {HISTORY} entries": [
                Way("a query for each entry", self._history_naively),
                Way("audit.history", self._history),
            ],
        }

    async def run(self) -> dict[str, list[Way]]:
        """All of it, the ways taking turns, after one round that does not count."""
        compared = self.comparisons()
        for ways in compared.values():
            for number in range(ROUNDS + 1):
                for way in ways:
                    self._sent, started = 0, time.perf_counter()
                    await way.work()
                    if number:
                        way.milliseconds.append((time.perf_counter() - started) * 1000)
                    way.statements = self._sent
        return compared

    async def _create_each_alone(self) -> None:
        for new in self._news(CREATED):
            async with transaction(self._sessions) as session:
                await tasks.create(session, ORIGIN, new)

    async def _create_by_orm(self) -> None:
        async with transaction(self._sessions) as session:
            for new in self._news(CREATED):
                await tasks.create(session, ORIGIN, new)

    async def _create_in_bulk(self) -> None:
        async with transaction(self._sessions) as session:
            await task_bulk.create_many(session, ORIGIN, self._news(CREATED))

    async def _page_naively(self) -> None:
        async with self._sessions() as session:
            newest = select(Task).order_by(col(Task.id).desc()).limit(LISTED)
            for task in (await session.scalars(newest)).all():
                for table, key in (
                    (Project, task.project_id),
                    (Worker, task.assignee_id),
                    (Worker, task.created_by_id),
                ):
                    if key is not None:
                        await _one(session, table, key)

    async def _page(self) -> None:
        async with self._sessions() as session:
            page = await task_reads.page(
                session, TaskFilter(project_id=self._project), limit=LISTED
            )
            assert len(page.items) == LISTED

    async def _tree_naively(self) -> None:
        async with self._sessions() as session:
            waiting, seen = [self._root], 0
            while waiting:
                children = select(Task).where(col(Task.parent_task_id) == waiting.pop())
                found = (await session.scalars(children)).all()
                seen += len(found)
                waiting += [task.id for task in found]
            assert seen == TREE

    async def _tree(self) -> None:
        async with self._sessions() as session:
            assert (await task_reads.tree(session, self._root)).subtasks

    async def _history_naively(self) -> None:
        async with self._sessions() as session:
            ids = select(col(AuditLog.id)).where(
                col(AuditLog.entity_type) == "task", col(AuditLog.entity_id) == str(self._old)
            )
            for entry_id in (await session.scalars(ids)).all():
                await _one(session, AuditLog, entry_id)

    async def _history(self) -> None:
        async with self._sessions() as session:
            found = await audit.history(session, "task", self._old, limit=HISTORY)
            assert len(found) == HISTORY


async def _one(session: AsyncSession, table: type[Any], key: int) -> None:
    """A row by its id, asked for even if the session has seen it: as a naive loop does."""
    await session.scalar(select(table).where(table.id == key))


def show(compared: dict[str, list[Way]], console: Console) -> None:
    """A table: statements, milliseconds, and how many times faster than the naive way."""
    table = Table("what", "how", "statements", "ms", "ratio to the first")
    for what, ways in compared.items():
        for number, way in enumerate(ways):
            ratio = ways[0].median / way.median
            table.add_row(
                "" if number else what,
                way.name,
                str(way.statements),
                f"{way.median:.1f}",
                f"{ratio:.1f}x",
            )
        table.add_section()
    console.print(table)


async def measure(config: DatabaseConfig) -> dict[str, list[Way]]:
    """Fill a database and run everything on it."""
    async with open_database(config) as database:
        bench = Bench(database)
        await bench.fill()
        return await bench.run()


def main() -> None:
    """Run on a PostgreSQL of its own."""
    with (
        tempfile.TemporaryDirectory(prefix="ledgerq-") as folder,
        embedded.postgresql(Path(folder) / "postgresql") as url,
    ):
        config = DatabaseConfig(url=url)
        migrate(config)
        show(asyncio.run(measure(config)), Console(width=110))


if __name__ == "__main__":
    main()
