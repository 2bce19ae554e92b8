"""The worker of the task manager: what it runs, and its life from arq's startup hook to its shutdown hook.

`ledgerq worker` runs it, and so does `arq worker.app.WorkerSettings`.
"""

import sys
from dataclasses import replace
from typing import Any

from db.database import build_database
from db.schema import TABLES
from jobs.kinds import CATALOGUE
from jobs.schedule import SCHEDULE
from ledgerq.app import App
from ledgerq.errors import LedgerqError
from ledgerq.logs import configure_logging
from ledgerq.workers import lifecycle_of, load_config, worker_settings


async def startup(ctx: dict[Any, Any]) -> None:
    """Build the engine. It lives as long as this process, and every job takes its connection from it."""
    life = lifecycle_of(ctx)
    await life.begin(ctx, build_database(life.config.database))


async def shutdown(ctx: dict[Any, Any]) -> None:
    """Dispose the engine: the last act, whatever failed before, a startup half-way included."""
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
    on_startup=startup,
    on_shutdown=shutdown,
)


def __getattr__(name: str) -> Any:
    """`WorkerSettings` reads the environment when arq's command line asks for it, not when this is imported."""
    if name != "WorkerSettings":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        config = load_config()
    except LedgerqError as error:
        sys.exit(f"ledgerq: {error}")

    async def startup_under_arq(ctx: dict[Any, Any]) -> None:
        """arq's command line has set up its own logging by now, which shows what jobs carry: ours comes instead."""
        configure_logging(config.worker.log_format, config.worker.log_level)
        await startup(ctx)

    return worker_settings(replace(app, on_startup=startup_under_arq), config)
