"""The service: what it holds open while it lives, and how our errors become HTTP answers."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from redis.exceptions import RedisError

from db.database import open_database
from db.errors import NotFound, VersionConflict
from examples.api import jobs, projects, tasks
from ledgerq.alembic import require_current
from ledgerq.client import JobClient
from ledgerq.errors import (
    AlreadyExists,
    JobError,
    PayloadMismatch,
    Refused,
    StillReferenced,
    Transient,
    Unreachable,
)
from ledgerq.workers import Config, load_config

_CONFLICTS = (AlreadyExists, StillReferenced, VersionConflict, tasks.KeyReused)


def create_app(config: Config | None = None) -> FastAPI:
    """The service; its settings come from the environment unless given."""
    settings = config or load_config()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        """Engine and Redis are opened once, and closed when the service ends."""
        async with open_database(settings.database) as database:
            await database.ping()
            await require_current(database)
            async with JobClient.open(settings.worker) as client:
                app.state.database, app.state.client = database, client
                yield

    app = FastAPI(title="Task manager", lifespan=lifespan)
    app.include_router(tasks.router)
    app.include_router(projects.router)
    app.include_router(jobs.router)
    app.add_exception_handler(Refused, _refused)
    app.add_exception_handler(JobError, _not_a_job)
    for unavailable in (Transient, Unreachable, RedisError, ConnectionError, TimeoutError):
        app.add_exception_handler(unavailable, _unavailable)
    app.add_exception_handler(RequestValidationError, _invalid)
    return app


async def _refused(_request: Request, error: Exception) -> JSONResponse:
    """404 for what is not there, 409 for what others have done, 422 for what can't be."""
    assert isinstance(error, Refused)  # noqa: S101 - the handler is registered for it
    status = 404 if isinstance(error, NotFound) else 409 if isinstance(error, _CONFLICTS) else 422
    return JSONResponse({"detail": str(error), "field": error.field}, status)


async def _not_a_job(_request: Request, error: Exception) -> JSONResponse:
    """409 for a job that is another one already, 422 for one that no worker would take."""
    assert isinstance(error, JobError)  # noqa: S101 - as above
    status = 409 if isinstance(error, PayloadMismatch) else 422
    return JSONResponse({"detail": str(error), "field": error.problems[0].field}, status)


async def _invalid(_request: Request, error: Exception) -> JSONResponse:
    """Every field at fault; not the values, which may be secret, or such as JSON can't carry."""
    assert isinstance(error, RequestValidationError)  # noqa: S101 - as above
    problems = [{name: each[name] for name in ("loc", "msg", "type")} for each in error.errors()]
    return JSONResponse({"detail": problems}, 422)


async def _unavailable(_request: Request, error: Exception) -> JSONResponse:
    """The same request may succeed a moment later. What a driver says may hold addresses: not repeated."""
    detail = str(error) if isinstance(error, Transient) else "a server does not answer"
    return JSONResponse({"detail": detail}, 503, headers={"Retry-After": "1"})
