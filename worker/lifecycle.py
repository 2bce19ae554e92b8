"""From arq's startup hook to its shutdown hook: the engine is born and disposed here."""

import asyncio
from typing import Any

import structlog

from db.engine import build_database
from db.schema import require_current
from jobs.registry import Registry
from worker.config import Config, process_name
from worker.dispatch import RESOURCES, Resources
from worker.health import keep_beating
from worker.logs import configure_logging

log = structlog.stdlib.get_logger("ledgerq.worker")


class Lifecycle:
    """The hooks of one worker process."""

    def __init__(self, config: Config, registry: Registry) -> None:
        self._config = config
        self._registry = registry
        self._heartbeat: asyncio.Task[None] | None = None

    async def startup(self, ctx: dict[Any, Any]) -> None:
        """Build the engine, make sure that it reaches a current schema, and show that we live.

        Raises:
            Unreachable: the database does not answer.
            SchemaBehind, SchemaAhead: its schema is not the one this code was written for.
        """
        configure_logging(self._config.worker)
        database = build_database(self._config.database)
        ctx[RESOURCES] = Resources(database, self._registry, self._config.worker.policy)
        await database.ping()
        await require_current(database)
        self._heartbeat = asyncio.create_task(keep_beating(ctx["redis"], process_name()))
        log.info("worker.started", worker=process_name(), database=self._config.database.address)

    async def shutdown(self, ctx: dict[Any, Any]) -> None:
        """Dispose the engine; arq calls this too when the startup failed half-way."""
        if self._heartbeat:
            self._heartbeat.cancel()
            await asyncio.wait({self._heartbeat}, timeout=5)
        resources: Resources | None = ctx.pop(RESOURCES, None)
        if resources:
            await resources.database.dispose()
        if self._heartbeat:
            log.info("worker.stopped", worker=process_name())
