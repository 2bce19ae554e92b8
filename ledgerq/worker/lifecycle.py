"""What a worker process has from arq's startup hook to its shutdown hook: database, resources, relay."""

import asyncio
from functools import partial
from typing import Any

import structlog

from ledgerq.app import App
from ledgerq.broker.presence import LAST_POLL, keep_beating
from ledgerq.broker.relay import Relay
from ledgerq.client import JobClient
from ledgerq.config import Config
from ledgerq.database.engine import Database, build_database
from ledgerq.runtime.background_tasks import BackgroundTasks
from ledgerq.runtime.forks import end_in_children
from ledgerq.runtime.held import Held
from ledgerq.runtime.process_name import process_name
from ledgerq.store.audit_attached import require_attached
from ledgerq.store.grants import require_grants
from ledgerq.store.schema import require_current
from ledgerq.wire.queue_name import queue_key
from ledgerq.worker.processor import PROCESSOR, Processor

log = structlog.stdlib.get_logger("ledgerq.worker")

LIFE = "ledgerq_lifecycle"  # the key in arq's ctx under which hooks find the `Lifecycle`


class Lifecycle:
    """The database, resources and background tasks of a worker process, between its hooks. `config`: its settings."""

    def __init__(self, app: App, config: Config) -> None:
        self.config = config
        self.database: Database | None = None
        self.app = app
        self._beside = BackgroundTasks()
        self._resources: Held | None = None
        self._client: JobClient | None = None  # puts on their queues what the jobs stage
        self._started = False

    async def begin(self, ctx: dict[Any, Any], database: Database) -> None:
        """Check the database and its schema, open the resources, and start the relay.

        Under arq's own worker, also start to write signs of life; ledgerq's worker has its heartbeat for that.

        Raises:
            Unreachable: the database does not answer.
            SchemaBehind, SchemaAhead: its schema is not the one this code was written for.
            SettingError: the role lacks a grant, or the triggers that audit a table are not as its class wants.
            Exception: whatever `App(resources=)` raises.
        """
        end_in_children(asyncio.get_running_loop())
        self.database = database
        worker, redis = self.config.worker, ctx["redis"]
        kinds, pause = self.app.registry().queues, worker.relay_interval
        relay = Relay(redis, database.sessions, worker.queue, pause, kinds)
        await database.ping()
        await require_current(database)
        await require_grants(database)
        await require_attached(database)
        self._client = JobClient(redis, kinds)
        registry = self.app.registry(await self._open_resources(), self._client)
        ctx[PROCESSOR] = Processor(database, registry, worker.policy, relay)
        if LAST_POLL not in ctx:  # ledgerq's worker has its heartbeat
            beats = partial(keep_beating, redis, redis.default_queue_name, process_name())
            self._beside.start(beats(lambda: True, lease=worker.lease))
        self._beside.start(relay.run())
        self._beside.start(relay.listen(database))
        self._started = True
        with_kinds = {queue_key(name, worker.queue) for name in kinds.values()}
        for queue in worker.served:
            if queue not in with_kinds:
                log.info("worker.queue_has_no_kind", queue=queue)
        log.info("worker.started", worker=process_name(), database=self.config.database.address)

    async def _open_resources(self) -> Any:
        if self.app.resources is None:
            return None
        self._resources = Held(self.app.resources())
        return await self._resources.enter()

    async def end(self, ctx: dict[Any, Any]) -> None:
        """Stop the relay, and close the resources. The caller then disposes the engine, even if this fails."""
        again_after = (
            0.5 if LAST_POLL in ctx else 2
        )  # a sign of life from here takes time to be removed
        await self._beside.end(again_after=again_after)
        ctx.pop(PROCESSOR, None)
        try:
            if self._resources:
                await self._resources.leave()
        finally:
            if self._client:
                self._client.leave_the_rest()
            if self._started:
                log.info("worker.stopped", worker=process_name())


def lifecycle_of(ctx: dict[Any, Any]) -> Lifecycle:
    """The `Lifecycle` of the worker process, from the `ctx` that arq's hooks are called with."""
    found: Lifecycle = ctx[LIFE]
    return found


async def startup(ctx: dict[Any, Any]) -> None:
    """The startup hook for a service without its own: builds the engine, and begins the lifecycle."""
    life = lifecycle_of(ctx)
    await life.begin(ctx, build_database(life.config.database, life.app.tables))


async def shutdown(ctx: dict[Any, Any]) -> None:
    """The shutdown hook for a service without its own: ends the lifecycle, and disposes the engine in any case."""
    life = lifecycle_of(ctx)
    try:
        await life.end(ctx)
    finally:
        if life.database:
            await life.database.dispose()
