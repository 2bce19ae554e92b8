"""The task manager's `App`, the resources of its jobs, and the startup and shutdown hooks of its worker.

`ledgerq worker` and `arq worker.app.WorkerSettings` both run this worker.
"""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from db.database import build_database
from db.schema import TABLES
from jobs.kinds import CATALOGUE
from jobs.notify import Webhook
from jobs.schedule import SCHEDULE
from ledgerq.app import App
from ledgerq.errors import LedgerqError
from ledgerq.logs import configure_logging
from ledgerq.settings import load
from ledgerq.workers import lifecycle_of, load_config, worker_settings
from worker.settings import WebhookSettings


@asynccontextmanager
async def resources() -> AsyncIterator[Webhook | None]:
    """What the jobs get beside the database: the webhook, with its HTTP client; None if no webhook is set."""
    settings = load(WebhookSettings)
    if settings.url is None:
        yield None
        return
    from worker.webhook import open_webhook  # noqa: PLC0415 - who has no webhook needs no httpx

    async with open_webhook(settings) as webhook:
        yield webhook


async def startup(ctx: dict[Any, Any]) -> None:
    """Build the engine, from whose pool each job takes its connection; check the schema; start the relay."""
    life = lifecycle_of(ctx)
    await life.begin(ctx, build_database(life.config.database))


async def shutdown(ctx: dict[Any, Any]) -> None:
    """End the background tasks, then dispose the engine, even if the startup or the end failed halfway."""
    life = lifecycle_of(ctx)
    try:
        await life.end(ctx)
    finally:
        if life.database:
            await life.database.dispose()


app = App(
    jobs=CATALOGUE,
    schedule=SCHEDULE,
    metadata=TABLES.metadata,
    migrations=TABLES.migrations,
    resources=resources,
    on_startup=startup,
    on_shutdown=shutdown,
)


def __getattr__(name: str) -> Any:
    """Make `WorkerSettings` when arq's command line asks for it: only then is the environment read."""
    if name != "WorkerSettings":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        config = load_config()
    except LedgerqError as error:
        sys.exit(f"ledgerq: {error}")

    async def startup_under_arq(ctx: dict[Any, Any]) -> None:
        """Replace the logging that arq's command line has set up: it would show the jobs' payloads."""
        configure_logging(config.worker.log_format, config.worker.log_level)
        await startup(ctx)

    return worker_settings(replace(app, on_startup=startup_under_arq), config)
