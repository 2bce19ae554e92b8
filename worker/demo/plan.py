"""The jobs that the demo's producer enqueues: a small company's work. The same seed makes the same jobs."""

import random
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta

from db.models import TaskPriority, TaskStatus, WorkerType
from jobs.kinds import ChangeTaskStatus, CreateProject, CreateTask, CreateWorker, DeleteTask

MIN_JOBS = 10

_PROJECTS = ("Website", "Zürich office", "移动应用", "Data platform", "Аудит 2026", "Tooling 🛠")
_PEOPLE = ("Ada", "Björn", "Chloé", "大輔", "Елена", "Fatima")
_VERBS = ("Draft", "Review", "Fix", "Measure", "Translate", "Ship", "Überprüfe", "修正")
_THINGS = ("the invoice import", "login page", "Q3 report", "naïve cache", "看板", "backup 💾")
_TAGS = ("backend", "frontend", "urgent?", "größe", "日本語", "ops", "design", "customer:acme")
_MOVES = (TaskStatus.IN_PROGRESS, TaskStatus.BLOCKED, TaskStatus.CANCELLED)


class Plan:
    """How many of the `jobs` are of each kind, and the payload of each."""

    def __init__(self, jobs: int, *, seed: int) -> None:
        self._random = random.Random(seed)
        self.projects = max(1, jobs // 100)
        self.workers = max(1, jobs // 50)
        self.changes = jobs // 10
        self.deletions = jobs // 50
        rest = jobs - self.projects - self.workers - self.changes - self.deletions
        self.subtasks = rest // 4
        self.tasks = rest - self.subtasks

    def create_projects(self) -> Iterator[CreateProject]:
        for number in range(self.projects):
            name = f"{self._random.choice(_PROJECTS)} {number + 1}"
            yield CreateProject(name=name, description=f"All about {name}.")

    def create_workers(self) -> Iterator[CreateWorker]:
        for number in range(self.workers):
            kind = self._random.choice(tuple(WorkerType))
            yield CreateWorker(name=f"{self._random.choice(_PEOPLE)} {number + 1}", type=kind)

    def create_tasks(self, projects: Sequence[int], workers: Sequence[int]) -> Iterator[CreateTask]:
        for number in range(self.tasks):
            yield self._task(number + 1, self._random.choice(projects), workers)

    def create_subtasks(
        self, parents: Sequence[tuple[int, CreateTask]], workers: Sequence[int]
    ) -> Iterator[CreateTask]:
        for number in range(self.subtasks):
            parent_id, parent = self._random.choice(parents)
            task = self._task(self.tasks + number + 1, parent.project_id, workers)
            yield task.model_copy(update={"parent_task_id": parent_id})

    def change_statuses(self, tasks: Sequence[int]) -> Iterator[ChangeTaskStatus]:
        for task_id in self._random.sample(tasks, self.changes):
            yield ChangeTaskStatus(task_id=task_id, status=self._random.choice(_MOVES))

    def delete_tasks(self, tasks: Sequence[int]) -> Iterator[DeleteTask]:
        for task_id in self._random.sample(tasks, self.deletions):
            yield DeleteTask(task_id=task_id)

    def _task(self, number: int, project_id: int, workers: Sequence[int]) -> CreateTask:
        pick = self._random
        due = datetime(2027, 1, 1, tzinfo=UTC) + timedelta(hours=pick.randrange(10_000))
        return CreateTask(
            title=f"{pick.choice(_VERBS)} {pick.choice(_THINGS)} №{number}",
            description=None if pick.random() < 0.5 else "Step by step.\nThen again: “quoted”.",  # noqa: PLR2004
            project_id=project_id,
            priority=pick.choice(tuple(TaskPriority)),
            tags=pick.sample(_TAGS, pick.randrange(4)),
            assignee_id=pick.choice(workers),
            created_by_id=pick.choice(workers),
            due_at=due,
        )
