"""No part of a password is printed, whatever characters it has and wherever it stands."""

import os
import traceback
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ledgerq.broker.connection import address_of, connect
from ledgerq.config import WorkerConfig
from ledgerq.database.settings import DatabaseConfig
from ledgerq.errors import LedgerqError
from ledgerq.settings import load

PARTS = ("Zq7x", "Kw9v", "jf3r")  # between them come the characters that may confuse
DATABASE_URLS = (
    "postgresql://u:{}@h/db",
    "postgres://u:{}@h1:1,h2:2/db?sslmode=require",
    "postgresql://:{}@[::1]:5432/db",
    "postgresql+asyncpg://u:{}@/db?host=/var/run/pg",
    "postgresql://u@h/db?password={}",
    "postgresql://u@h/db?sslmode=require&sslpassword={}",
    "postgresql:{}@h/db",
    "host=h user=u password={}",
    "mysql://u:{}@h/db",
    "{}",
)
REDIS_URLS = (
    "redis://:{}@h/0",
    "rediss://u:{}@h:6380/0?ssl_cert_reqs=none",
    "redis://u:{}@[::1]",
    "unix://:{}@/run/redis.sock?db=0",
    "redis://h/0?password={}",
    "unix:///run/redis.sock?db=0&password={}",
    "redis:{}@h/0",
    "http://:{}@h",
    "{}",
)
BETWEEN = st.text(
    st.sampled_from("@#%/?:&=+;,[]{}|\\^`<>\"'! \t\r\n\ufeff\u2100\uff03é🙂-._~$*()0Aa"), max_size=4
)
SECRETS = st.tuples(BETWEEN, BETWEEN, BETWEEN, BETWEEN).map(
    lambda between: "".join(a + b for a, b in zip(between, (*PARTS, ""), strict=True))
)


def said(variable: str, value: str) -> str:
    """All that the settings say of themselves with this value: an error, or where they lead."""
    with patch.dict(os.environ, {variable: value}):
        try:
            return where_they_lead(variable)
        except LedgerqError as refused:
            error = refused
    assert str(error).startswith(variable)
    assert "\n" not in str(error)
    return "".join(traceback.format_exception(error))


def where_they_lead(variable: str) -> str:
    """What a log may show of settings that were taken."""
    if variable.startswith("DATABASE"):
        config = load(DatabaseConfig)
        return f"{config!r} {config} {config.address} {config.target!r}"
    worker = load(WorkerConfig)
    return f"{worker!r} {worker} {address_of(connect(worker))}"


def the_secret_in(text: str) -> list[str]:
    """The parts of it that are there; frames of a traceback show code, and no values."""
    return [part for part in PARTS if part in text]


@pytest.mark.parametrize("url", DATABASE_URLS)
@given(secret=SECRETS)
@example("Zq7x@Kw9v#jf3r%")
@example("Zq7x/Kw9v?jf3r=1")
@example("Zq7x&Kw9v=1&jf3r=2")
def test_no_part_of_a_database_password_is_printed(url: str, secret: str) -> None:
    """Not by the error, its traceback, the settings or the address."""
    assert the_secret_in(said("DATABASE_URL", url.format(secret))) == []


@pytest.mark.parametrize("url", REDIS_URLS)
@given(secret=SECRETS)
@example("Zq7x@Kw9v#jf3r%")
@example("Zq7x/Kw9v?jf3r=1")
@example("Zq7x&kw9v=1&jfr=2")
@example("Zq7x\u2100Kw9v")
@example("Zq7xKw9v://jf3r\u2100")
def test_no_part_of_a_redis_password_is_printed(url: str, secret: str) -> None:
    """As above. Some characters become a / or a : when a URL is normalized."""
    assert the_secret_in(said("REDIS_URL", url.format(secret))) == []


@given(secret=SECRETS)
def test_no_part_of_a_password_in_a_file_is_printed(
    tmp_path_factory: pytest.TempPathFactory, secret: str
) -> None:
    """Neither what is in the file, nor the name of a file that is a password by mistake."""
    file = tmp_path_factory.getbasetemp() / "secret"
    file.write_bytes(f"postgresql://u:{secret}@h/db".encode())
    assert the_secret_in(said("DATABASE_URL_FILE", str(file))) == []
    assert the_secret_in(said("DATABASE_URL_FILE", f"postgresql://u:{secret}@h/db")) == []


@pytest.mark.parametrize(
    ("variable", "url"),
    [
        ("DATABASE_URL", "postgresql://u:p{}w@h/db"),
        ("DATABASE_URL", "postgresql://u{}v:p@h1,h2/db"),
        ("REDIS_URL", "redis://:p{}w@h/0"),
        ("REDIS_URL", "unix://:p{}w@/run/redis.sock"),
    ],
)
@pytest.mark.parametrize("special", ["@", "#", "%", "/", "?", "%zz", "[", "ü"])
def test_an_unencoded_special_character_is_refused_with_the_cure(
    variable: str, url: str, special: str
) -> None:
    """Nobody can tell where the password ends."""
    text = said(variable, url.format(special))
    assert "percent-encode the special characters of user and password" in text


def test_encoded_special_characters_are_understood() -> None:
    """By PostgreSQL's side and by Redis', once each."""
    password = "a@b#c%d/e?f:g&h=i+j k"
    encoded = "".join(f"%{ord(each):02X}" for each in password)
    assert DatabaseConfig(url=f"postgresql://u:{encoded}@h/d").url.password == password
    for url in (f"redis://:{encoded}@h/0", f"redis://h/0?password={encoded}"):
        pool = connect(WorkerConfig(redis_url=url)).connection_pool
        assert pool.connection_kwargs["password"] == password


def test_the_file_of_a_secret_is_a_link_in_kubernetes(tmp_path: Path) -> None:
    """A mounted secret is a link to a folder with a date; it is followed."""
    (tmp_path / "..data").write_text("postgresql://u:p@h/db\n")
    (tmp_path / "url").symlink_to("..data")
    assert "u:***@h/db" in said("DATABASE_URL_FILE", str(tmp_path / "url"))
