"""From arq's startup hook to its shutdown hook: the engine is born and disposed here."""

import asyncio
from typing import Any

import structlog

from db.engine import build_database
from db.grants import require_grants
from db.schema import require_current
from jobs.registry import Registry
from worker.background_tasks import BackgroundTasks
from worker.config import Config, process_name
from worker.dispatch import RESOURCES, Resources
from worker.forks import end_in_children
from worker.health import ALIVE, keep_beating
from worker.logs import configure_logging
from worker.relay import Relay

log = structlog.stdlib.get_logger("ledgerq.worker")


class Lifecycle:
    """The hooks of one worker process."""

    def __init__(self, config: Config, registry: Registry) -> None:
        self._config = config
        self._registry = registry
        self._beside = BackgroundTasks()
        self._started = False

    async def startup(self, ctx: dict[Any, Any]) -> None:
        """Build the engine, make sure that it reaches a current schema, and show that we live.

        Raises:
            Unreachable: the database does not answer.
            SchemaBehind, SchemaAhead: its schema is not the one this code was written for.
            SettingError: the role lacks a grant.
        """
        configure_logging(self._config.worker)
        end_in_children(asyncio.get_running_loop())
        worker, redis = self._config.worker, ctx["redis"]
        database = build_database(self._config.database)
        relay = Relay(redis, database.sessions, worker.queue, worker.relay_interval)
        ctx[RESOURCES] = Resources(database, self._registry, worker.policy, relay)
        await database.ping()
        await require_current(database)
        await require_grants(database)
        if ALIVE not in ctx:  # our engine beats by itself, beside its loop
            self._beside.start(lambda: keep_beating(redis, process_name(), lambda: True))
        self._beside.start(relay.run)
        self._beside.start(lambda: relay.listen(database))
        self._started = True
        log.info("worker.started", worker=process_name(), database=self._config.database.address)

    async def shutdown(self, ctx: dict[Any, Any]) -> None:
        """Dispose the engine; arq calls this too when the startup failed half-way."""
        await self._beside.end()
        resources: Resources | None = ctx.pop(RESOURCES, None)
        if resources:
            await resources.database.dispose()
        if self._started:
            log.info("worker.stopped", worker=process_name())
