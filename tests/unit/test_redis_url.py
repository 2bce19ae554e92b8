"""Redis URLs: what changes an answer or a limit of time is refused by name, the rest is understood."""

import inspect
import ssl
from pathlib import Path

import pytest
import trustme
from redis.asyncio import ConnectionPool, SSLConnection
from redis.asyncio.connection import (
    AbstractConnection,
    Connection,
    RedisSSLContext,
    UnixDomainSocketConnection,
)

from ledgerq.broker.connection import address_of, connect, settings_for_arq_check
from ledgerq.broker.redis_url import _KNOWN
from ledgerq.config import WorkerConfig
from ledgerq.errors import SettingError
from ledgerq.settings import load


def refusal(url: str) -> str:
    """What is said of it."""
    with pytest.raises(SettingError) as refused:
        load(WorkerConfig, redis_url=url)
    assert "hunter2" not in str(refused.value)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def options_of_redis_py() -> set[str]:
    """All that its connections and pool can be told, in a URL too."""
    kinds = (AbstractConnection, Connection, SSLConnection, UnixDomainSocketConnection)
    told = {
        name for kind in (*kinds, ConnectionPool) for name in inspect.signature(kind).parameters
    }
    return told - {"kwargs", "connection_kwargs"} | {"single_connection_client", "timeout"}


def tls(config: WorkerConfig) -> RedisSSLContext:
    """What a connection of ours would demand."""
    connection = connect(config).connection_pool.make_connection()  # type: ignore[no-untyped-call]
    context: RedisSSLContext = connection.ssl_context
    return context


@pytest.mark.parametrize("option", sorted(options_of_redis_py() - set(_KNOWN)))
@pytest.mark.parametrize("url", ["redis://:hunter2@h/0", "rediss://:hunter2@h/0", "unix:///r.sock"])
def test_every_other_option_of_redis_py_is_refused_by_name(option: str, url: str) -> None:
    """They would come before what ledgerq says: decode_responses makes bodies unreadable."""
    text = refusal(f"{url}?{option}=1")
    assert text.startswith(f"REDIS_URL: has an option that is not supported: {option}; ")


@pytest.mark.parametrize(
    ("spelt", "mode"),
    [
        ("none", ssl.CERT_NONE),
        ("CERT_NONE", ssl.CERT_NONE),
        ("optional", ssl.CERT_OPTIONAL),
        ("CERT_REQUIRED", ssl.CERT_REQUIRED),
        ("Required", ssl.CERT_REQUIRED),
    ],
)
def test_what_tls_demands_of_a_certificate_is_understood_in_both_spellings(
    spelt: str, mode: ssl.VerifyMode
) -> None:
    """redis-py's and Python's."""
    config = WorkerConfig(redis_url=f"rediss://:p@h/0?ssl_cert_reqs={spelt}")
    assert tls(config).get().verify_mode is mode


def test_tls_files_and_names_are_understood(tmp_path: Path) -> None:
    """A private authority, a client's certificate, a check of the name."""
    authority = trustme.CA()
    folder = tmp_path / "100%25 ours"
    folder.mkdir()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    client = authority.issue_cert("us.example")
    client.private_key_and_cert_chain_pem.write_to_path(str(folder / "client.pem"))
    place = str(folder).replace("%", "%25").replace(" ", "%20")
    url = (
        f"rediss://:p@h/0?ssl_ca_certs={place}/ca.pem&ssl_certfile={place}/client.pem"
        f"&ssl_keyfile={place}/client.pem&ssl_check_hostname=true"
    )
    context = tls(WorkerConfig(redis_url=url))
    assert context.ca_certs == f"{folder}/ca.pem"
    assert context.get().check_hostname is True


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("rediss://:hunter2@h?ssl_cert_reqs=maybe", "unknown ssl_cert_reqs; known are none"),
        ("rediss://:hunter2@h?ssl_ca_certs=/nowhere/ca.pem", "file in ssl_ca_certs"),
        ("rediss://:hunter2@h?ssl_certfile=/nowhere/c.pem", "file in ssl_certfile"),
        ("rediss://:hunter2@h?ssl_ciphers=none-of-them", "ssl_ciphers"),
        ("rediss://:hunter2@h?ssl_check_hostname=maybe", "unknown ssl_check_hostname"),
        ("rediss://:hunter2@h?ssl_cert_reqs=none&ssl_check_hostname=true", "don't go together"),
        ("redis://:hunter2@h?ssl_cert_reqs=none", "write rediss://"),
        ("redis://:hunter2@h?ssl=true", "write rediss://"),
        ("redis://:hunter2@h/1?db=2", "two databases"),
        ("redis://:hunter2@h/1/2", "not a number"),
        ("redis://:hunter2@h/-1", "not a number"),
        ("redis://:hunter2@h?db=x", "not a number"),
        ("redis://:hunter2@h?family=6", "not supported: family"),
        ("redis://:hunter2@h?username=me@hunter2", "write %40"),
        ("redis://:hunter2@h:0", "not a number"),
        ("redis://:hunter2@h:65536", "not a number"),
        ("redis://:hunter2@h1,h2:1", "several hosts"),
        ("redis://:hunter2@h?db=1&db=2", "twice"),
        ("redis://:hunter2@h?password=hunter2", "twice"),
        ("unix://run/redis.sock", "write unix:///path"),
        ("unix://", "write unix:///path"),
        ("redis+sentinel://h", "not a Redis URL"),
    ],
)
def test_a_redis_url_that_cannot_be_meant_is_refused_with_the_cure(url: str, problem: str) -> None:
    """In one line that names the variable, and no secret."""
    assert problem in refusal(url)


@pytest.mark.parametrize(
    ("url", "where"),
    [
        ("redis://", "localhost:6379, database 0"),
        ("redis://h", "h:6379, database 0"),
        ("redis://h:7/", "h:7, database 0"),
        ("redis://h:7/3", "h:7, database 3"),
        ("redis://h:7?db=3", "h:7, database 3"),
        ("redis://h:7/3?db=3", "h:7, database 3"),
        ("redis://[::1]:7/3", "::1:7, database 3"),
        ("unix:///run/redis.sock", "/run/redis.sock, database 0"),
        ("unix:///run/redis.sock?db=3", "/run/redis.sock, database 3"),
        ("unix:///run/my%20redis.sock", "/run/my redis.sock, database 0"),
    ],
)
def test_a_redis_url_leads_to_one_place_for_every_client(url: str, where: str) -> None:
    """Ours, and arq's own for `arq --check`."""
    config = WorkerConfig(redis_url=url)
    assert address_of(connect(config)) == where
    of_arq = settings_for_arq_check(config)
    place = of_arq.unix_socket_path or f"{of_arq.host}:{of_arq.port}"
    assert f"{place}, database {of_arq.database}" == where


@pytest.mark.parametrize(
    ("url", "where"),
    [
        ("redis://h?family=0", "h:6379, database 0"),
        ("valkey://h:7/3", "h:7, database 3"),
        ("valkeys://h:7/3", "h:7, database 3"),
        ("VALKEY://h:7/3?family=0", "h:7, database 3"),
    ],
)
def test_a_redis_url_of_a_hoster_is_taken_as_it_comes(url: str, where: str) -> None:
    """Valkey's schemes, and the family of addresses that other clients want to be told."""
    config = WorkerConfig(redis_url=url)
    assert address_of(connect(config)) == where
    assert settings_for_arq_check(config).ssl is url.startswith("valkeys")


@pytest.mark.parametrize("url", ["redis://u:p@h", "redis://h?username=u&password=p"])
def test_user_and_password_may_stand_before_the_host_or_in_options(url: str) -> None:
    """A Unix socket's are often in the options."""
    told = connect(WorkerConfig(redis_url=url)).connection_pool.connection_kwargs
    assert (told["username"], told["password"]) == ("u", "p")
