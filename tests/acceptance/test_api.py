"""The example service, through real HTTP, against a real worker process."""

import asyncio
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI
from httpx import ASGITransport, AsyncClient, AsyncHTTPTransport, ConnectError, Response

from db.database import build_database
from db.models import Project, Task
from examples.api.app import create_app
from ledgerq.broker.connection import connect
from ledgerq.client import JobClient
from ledgerq.config import Config, WorkerConfig
from ledgerq.database.engine import Sessions
from ledgerq.database.settings import DatabaseConfig
from ledgerq.store.tables import AuditLog
from tests.acceptance.processes import ROOT, environment, worker_process
from tests.support import count, eventually, new_project, new_task


@pytest.fixture
async def http(config: Config, place: str) -> AsyncIterator[AsyncClient]:
    """The service behind a real server, in this process."""
    server = uvicorn.Server(uvicorn.Config(create_app(config), uds=place, log_config=None))
    serving = asyncio.create_task(server.serve())
    async with speaking_to(place) as client:
        yield client
    server.should_exit = True
    await serving


@pytest.fixture
async def http_process(config: Config, place: str) -> AsyncIterator[AsyncClient]:
    """The service in a process of its own, as it is started."""
    command = [sys.executable, "-m", "uvicorn", "--factory", "examples.api.app:create_app"]
    service = subprocess.Popen(  # noqa: ASYNC220 - it starts at once
        [*command, "--uds", place], cwd=ROOT, env=environment(config)
    )
    try:
        async with speaking_to(place) as client:
            yield client
    finally:
        service.terminate()
        assert service.wait(20) in {0, -15}


@pytest.fixture
def place() -> Iterator[str]:
    """The service's socket: a free port may be another's before it is used."""
    with tempfile.TemporaryDirectory() as folder:
        yield f"{folder}/http.sock"


@asynccontextmanager
async def speaking_to(place: str) -> AsyncIterator[AsyncClient]:
    """A client of the service there, once it answers."""
    transport = AsyncHTTPTransport(uds=place)
    async with AsyncClient(transport=transport, base_url="http://service", timeout=30) as client:
        await eventually(lambda: answers(client))
        yield client


async def answers(client: AsyncClient) -> bool:
    try:
        return (await client.get("/openapi.json")).status_code == 200
    except ConnectError:
        return False


async def ended(http: AsyncClient, accepted: Response) -> dict[str, Any]:
    """The job's last word."""

    async def done_or_dead() -> dict[str, Any] | None:
        job: dict[str, Any] = (await http.get(accepted.headers["location"])).json()
        return job if job["status"] in {"done", "dead"} else None

    job: dict[str, Any] = await eventually(done_or_dead)
    return job


async def test_a_task_is_accepted_done_and_shown(
    http_process: AsyncClient, config: Config, sessions: Sessions
) -> None:
    """202 with the job, then the task with all that belongs to it, its place in lists, its history."""
    http = http_process
    project = (await http.post("/projects", json={"name": "Zürich", "key": "ZRH"})).json()
    body = {
        "title": "移动 🛠",
        "project_id": project["id"],
        "tags": ["größe"],
        "status": "in_progress",
        "priority": "high",
        "due_at": "2027-01-01T00:00:00Z",
    }
    accepted = await http.post("/tasks", json=body)
    assert accepted.status_code == 202
    assert (await http.get(accepted.headers["location"])).json()["status"] == "queued"
    with worker_process(config):
        job = await ended(http, accepted)
        child = {"title": "child", "project_id": project["id"], "parent_task_id": job["result"]}
        await ended(http, await http.post("/tasks", json=child))
    assert job["status"] == "done"
    task = (await http.get(f"/tasks/{job['result']}")).json()
    assert (task["title"], task["tags"], task["project"]["key"]) == ("移动 🛠", ["größe"], "ZRH")
    assert [each["title"] for each in task["subtasks"]] == ["child"]
    listed = (await http.get("/tasks", params={"tag": "größe", "with_total": True})).json()
    assert (listed["total"], listed["items"][0]["id"]) == (1, job["result"])
    (entry,) = (await http.get(f"/tasks/{job['result']}/history")).json()
    assert (entry["actor"], entry["job_id"]) == ("service:api", job["job_id"])
    assert await count(sessions, Task) == 2


async def test_the_same_key_is_the_same_job(http: AsyncClient, sessions: Sessions) -> None:
    """A client that repeats its request does not repeat its task."""
    body = {"title": "x", "project_id": await new_project(sessions)}
    answers = [await http.post("/tasks?idempotency_key=k", json=body) for _ in range(2)]
    assert len({answer.json()["job_id"] for answer in answers}) == 1


async def test_one_key_with_two_payloads_is_a_conflict(
    http: AsyncClient, config: Config, sessions: Sessions
) -> None:
    """409 with the field, while the first job waits and after it is done; keys that can't be are 422."""
    project = await new_project(sessions)
    one, other = ({"title": title, "project_id": project} for title in ("one", "other"))
    first = await http.post("/tasks?idempotency_key=k", json=one)
    for _ in range(2):
        answer = await http.post("/tasks?idempotency_key=k", json=other)
        assert (answer.status_code, answer.json()["field"]) == (409, "idempotency_key")
        with worker_process(config):
            await ended(http, first)
    for key in ("x" * 101, "", "a%00b", "a%1Bb", "a%0A", "%E2%80%AE"):
        answer = await http.post(f"/tasks?idempotency_key={key}", json=one)
        assert answer.status_code == 422, key


async def test_a_server_that_is_away_is_503(config: Config, sessions: Sessions) -> None:
    """Not 500, and with nothing of its address; what needs only the other one still works."""
    body = {"title": "x", "project_id": await new_project(sessions)}
    nowhere = build_database(DatabaseConfig(url="postgresql://nobody:secret@127.0.0.1:1/none"))
    async with served(config) as (app, http), JobClient.open(config.worker) as client:
        app.state.client = JobClient(connect(WorkerConfig(redis_url="redis://127.0.0.1:1")))
        away = [await http.post("/tasks", json=body), await http.get("/jobs/nobody")]
        assert (await http.get("/tasks")).status_code == 200
        app.state.database, app.state.client = nowhere, client
        away += [await http.get("/tasks"), await http.post("/projects", json={"name": "x"})]
        away += [await http.get("/tasks/1"), await http.get("/jobs/nobody")]
        assert (await http.post("/tasks", json=body)).status_code == 202
    for answer in away:
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1"), answer.text
        assert "127.0.0.1" not in answer.text
    await nowhere.dispose()


@asynccontextmanager
async def served(config: Config) -> AsyncIterator[tuple[FastAPI, AsyncClient]]:
    """The service in this process."""
    app = create_app(config)
    transport = ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        AsyncClient(transport=transport, base_url="http://service") as http,
    ):
        yield app, http


async def test_a_job_that_cannot_be_done_says_why(
    http: AsyncClient, config: Config, sessions: Sessions
) -> None:
    """From the dead letters, with the field."""
    accepted = await http.post("/tasks", json={"title": "x", "project_id": 99})
    with worker_process(config):
        job = await ended(http, accepted)
    assert job["status"] == "dead"
    assert job["problems"][0]["field"] == "project_id"
    assert (await http.get("/jobs/nobody")).status_code == 404


async def test_errors_have_their_status_and_their_field(
    http: AsyncClient, sessions: Sessions
) -> None:
    """404 for what is not there, 409 for what others did, 422 for what can't be; no traceback."""
    task = await new_task(sessions)
    one = (await http.post("/projects", json={"name": "One", "key": "ONE"})).json()
    url = f"/projects/{one['id']}"
    assert (await http.patch(url, json={"name": "1"}, params={"expected_version": 1})).json()[
        "version"
    ] == 2
    for answer, status, field in (
        (await http.get("/tasks/999"), 404, "task_id"),
        (await http.get("/tasks/999/history"), 404, "task_id"),
        (await http.post("/projects", json={"name": "x", "key": "ONE"}), 409, "key"),
        (
            await http.patch(url, json={"name": "2"}, params={"expected_version": 1}),
            409,
            "expected_version",
        ),
        (await http.delete(f"/projects/{task.project_id}"), 409, "project_id"),
        (await http.get("/tasks", params={"after": "made-up"}), 422, "after"),
    ):
        assert (answer.status_code, answer.json()["field"]) == (status, field), answer.text
    for body in (
        {"name": ""},
        {"name": "a\x00b"},
        {"name": "x", "colour": 1},
        {"name": "x" * 201},
        {},
    ):
        assert (await http.post("/projects", json=body)).status_code == 422
    for path in (
        "/tasks?limit=501",
        f"/tasks/{10**30}",
        f"/tasks/1/history?after_id={10**30}",
        f"/tasks?project_id={10**30}",
        "/tasks?text=%00",
        "/tasks?tag=",
        "/tasks?due_before=0001-01-01T00:00:00%2B14:00",
        f"/projects/{10**30}",
    ):
        method = "DELETE" if path.startswith("/projects") else "GET"
        assert (await http.request(method, path)).status_code == 422, path
    assert (await http.get("/jobs/%00")).status_code == 404
    for raw in (
        '{"title": "x", "project_id": 1e400}',
        '{"title": "\\ud800", "project_id": 1}',
        "{",
    ):
        answer = await http.post(
            "/tasks", content=raw, headers={"content-type": "application/json"}
        )
        assert answer.status_code == 422, raw
    assert (await http.post("/tasks?idempotency_key=%F0%9F%98%80", json={})).status_code == 422
    assert await count(sessions, Project) == 2
    assert await count(sessions, AuditLog) == 4


async def test_many_requests_at_once_leak_nothing(http: AsyncClient, sessions: Sessions) -> None:
    """Three times as many as the pool has connections."""
    task = await new_task(sessions)
    found = await asyncio.gather(*(http.get(f"/tasks/{task.id}") for _ in range(36)))
    assert {answer.status_code for answer in found} == {200}
