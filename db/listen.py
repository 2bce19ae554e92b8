"""PostgreSQL's NOTIFY, as a hint that there is something to look for."""

import asyncio
from collections.abc import Callable

from db.engine import Database
from db.translate import connecting

STAGED = "ledgerq_outbox"  # the channel on which a trigger tells that jobs were staged


async def listen(database: Database, channel: str, on_notice: Callable[[], None]) -> None:
    """Call `on_notice` at once and at each notice, until the connection is lost.

    On SQLite, and through pgbouncer, there are no notices: then this only waits.

    Raises:
        Transient: there is no connection to be had.
    """
    lost = asyncio.Event()
    if database.config.is_sqlite or database.config.target.pgbouncer:
        await lost.wait()
    with connecting():
        async with database.engine.connect() as connection:
            driver = (await connection.get_raw_connection()).driver_connection
            assert driver  # noqa: S101 - it is connected
            driver.add_termination_listener(lambda _: lost.set())
            await driver.add_listener(channel, lambda *_: on_notice())
            on_notice()
            try:
                await lost.wait()
            finally:
                await connection.invalidate()  # nobody else must get a connection that listens
