"""TLS to PostgreSQL: verified where it was asked for. The embedded server has none, so a proxy puts it on."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest
import trustme
from sqlalchemy.engine import URL

from db.database import open_database
from ledgerq.database.settings import DatabaseConfig
from ledgerq.errors import Unreachable
from tests.support import new_project

SSL_REQUEST = bytes.fromhex("0000000804d2162f")


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
async def tls_port(authority: trustme.CA, postgresql_url: URL) -> AsyncIterator[int]:
    """A port that speaks PostgreSQL's TLS for `localhost`, in front of the real server."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    sessions: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        sessions.add(task)
        with suppress(OSError, asyncio.IncompleteReadError, ssl.SSLError):
            assert await reader.readexactly(8) == SSL_REQUEST
            writer.write(b"S")
            await writer.drain()
            await writer.start_tls(context)
            server = await connect(postgresql_url)
            await asyncio.gather(pipe(reader, server[1]), pipe(server[0], writer))
        writer.close()
        sessions.discard(task)

    proxy = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield proxy.sockets[0].getsockname()[1]
    proxy.close()
    for session in sessions:
        session.cancel()
    await asyncio.gather(*sessions, return_exceptions=True)


async def connect(url: URL) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    folder = url.query.get("host")
    if folder:
        return await asyncio.open_unix_connection(f"{folder}/.s.PGSQL.{url.port or 5432}")
    return await asyncio.open_connection(url.host, url.port)


async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


def url(base: URL, host: str, port: int, **options: str) -> URL:
    return URL.create(
        "postgresql",
        username="postgres",
        host=host,
        port=port,
        database=base.database,
        query=options,
    )


@pytest.fixture
def root(authority: trustme.CA, tmp_path: Path) -> str:
    """The file that sslrootcert names."""
    path = tmp_path / "root.crt"
    authority.cert_pem.write_to_path(path)
    return str(path)


@pytest.mark.parametrize("mode", ["require", "verify-ca", "verify-full"])
async def test_a_verified_server_is_used(
    postgresql_url: URL, tls_port: int, root: str, mode: str
) -> None:
    """Encrypted, by a certificate of that authority."""
    wanted = url(postgresql_url, "localhost", tls_port, sslmode=mode, sslrootcert=root)
    async with open_database(DatabaseConfig(url=wanted)) as database:
        assert await new_project(database.sessions)


async def test_require_alone_encrypts_without_asking_who(
    postgresql_url: URL, tls_port: int
) -> None:
    """As libpq does without a root certificate."""
    wanted = url(postgresql_url, "localhost", tls_port, sslmode="require")
    async with open_database(DatabaseConfig(url=wanted)) as database:
        assert await new_project(database.sessions)


async def test_a_stranger_is_refused(postgresql_url: URL, tls_port: int, tmp_path: Path) -> None:
    """A certificate of another authority, and one for another name."""
    other = tmp_path / "other.crt"
    trustme.CA().cert_pem.write_to_path(other)
    for wanted in (
        url(postgresql_url, "localhost", tls_port, sslmode="verify-full", sslrootcert=str(other)),
        url(postgresql_url, "localhost", tls_port, sslmode="verify-full"),
        url(postgresql_url, "localhost", tls_port, sslmode="verify-ca", sslrootcert=str(other)),
    ):
        async with open_database(DatabaseConfig(url=wanted)) as database:
            with pytest.raises(Unreachable, match="certificate"):
                await database.ping()


async def test_the_name_must_be_the_servers(postgresql_url: URL, tls_port: int, root: str) -> None:
    """verify-full compares it, verify-ca does not."""
    full = url(postgresql_url, "127.0.0.1", tls_port, sslmode="verify-full", sslrootcert=root)
    async with open_database(DatabaseConfig(url=full)) as database:
        with pytest.raises(Unreachable, match="certificate"):
            await database.ping()
    ca = url(postgresql_url, "127.0.0.1", tls_port, sslmode="verify-ca", sslrootcert=root)
    async with open_database(DatabaseConfig(url=ca)) as database:
        await database.ping()
