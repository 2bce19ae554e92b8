"""Behind a real pgbouncer in transaction pooling, where one is installed (Debian: pgbouncer)."""

import asyncio
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.engine import URL

from db.database import open_database
from db.models import Project
from ledgerq.database.settings import DatabaseConfig
from ledgerq.embedded import both
from ledgerq.embedded.postgresql import as_user
from ledgerq.store import audit
from tests.support import count, new_project

pytestmark = pytest.mark.skipif(not shutil.which("pgbouncer"), reason="no pgbouncer on PATH")

NOBODY = 65_534
CONFIGURATION = """
[databases]
* = host={host} port={port} user=postgres
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {listen}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 2
"""


@pytest.fixture
def pooled_url(postgresql_url: URL) -> Iterator[URL]:
    """The test's database through a pgbouncer with two server connections."""
    listen = both._free_port()
    host = postgresql_url.query.get("host", postgresql_url.host)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        file = Path(folder) / "pgbouncer.ini"
        file.write_text(
            CONFIGURATION.format(host=host, port=postgresql_url.port or 5432, listen=listen)
        )
        on_socket = str(host).startswith("/")  # in a folder that only the server's user may enter
        somebody = Path(str(host)).stat().st_uid if on_socket else NOBODY
        command = [*as_user(somebody if os.getuid() == 0 else None), "pgbouncer", "-q", str(file)]
        bouncer = subprocess.Popen(command)  # root's runs as somebody: it refuses to run as root
        try:
            wait_for_port(listen)
            yield URL.create(
                "postgresql",
                username="postgres",
                host="127.0.0.1",
                port=listen,
                database=postgresql_url.database,
                query={"pgbouncer": "true"},
            )
        finally:
            bouncer.terminate()
            bouncer.wait(10)


def wait_for_port(port: int) -> None:
    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.05)  # another process starts; it sends us no event
        else:
            return
    pytest.fail("pgbouncer does not listen")


async def test_transactions_share_two_server_connections_without_a_clash(pooled_url: URL) -> None:
    """Forty at once: each statement is prepared on whichever connection it meets, none is missing."""
    async with open_database(DatabaseConfig(url=pooled_url)) as database:
        ids = await asyncio.gather(*(new_project(database.sessions, f"P{n}") for n in range(40)))
        assert len(set(ids)) == 40
        assert await count(database.sessions, Project) == 40
        async with database.sessions() as session:
            backends = text(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
            )
            assert (await session.scalar(backends) or 0) <= 2
            assert len(await audit.history(session, "project", ids[0])) == 1
