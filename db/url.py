"""The database URLs that people have, made into what SQLAlchemy's async engine and asyncpg take.

Managed databases hand out libpq's query options, which asyncpg does not know:
https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-PARAMKEYWORDS
Each is translated here or refused by name; none is dropped in silence if that would weaken it.
"""

import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from sqlalchemy.dialects.postgresql.asyncpg import dialect as asyncpg_dialect
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

_DRIVERS = {
    "postgres": "postgresql+asyncpg",
    "postgresql": "postgresql+asyncpg",
    "postgresql+asyncpg": "postgresql+asyncpg",
    "sqlite": "sqlite+aiosqlite",
    "sqlite+aiosqlite": "sqlite+aiosqlite",
}
MAX_PORT = 65_535
_SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_SSL_FILES = ("sslrootcert", "sslcert", "sslkey")
_ASYNCPG = asyncpg_dialect()  # type: ignore[no-untyped-call]
_SESSION_ATTRIBUTES = (
    "any",
    "primary",
    "standby",
    "read-write",
    "read-only",
    "prefer-standby",
)
_KNOWN = (
    "application_name",
    "channel_binding",
    "connect_timeout",
    "host",
    "options",
    "pgbouncer",
    *("sslmode", *_SSL_FILES),
    "target_session_attrs",
)


@dataclass(frozen=True, slots=True)
class Target:
    """Where to connect to. `url` has the async driver, and no option that asyncpg does not know."""

    url: URL
    connect_args: Mapping[str, Any] = field(default_factory=dict)
    server_settings: Mapping[str, str] = field(default_factory=dict)
    pgbouncer: bool = False


def translate(url: str | URL) -> Target:
    """Parse a URL, name the async driver and translate the options.

    Raises:
        ValueError: it is no URL, or asks for something we can't give; never repeats the password.
    """
    parsed = _parse(url)
    driver = _DRIVERS.get(parsed.drivername)
    if driver is None:
        raise ValueError(f"has the scheme {parsed.drivername}, which is not supported")
    parsed = parsed.set(drivername=driver)
    if driver.startswith("sqlite"):
        _refuse_unknown(parsed.query, ())
        if parsed.database in {None, "", ":memory:"}:
            raise ValueError("names no file; a database in memory has room for one connection")
        return Target(parsed)
    if not parsed.database:
        raise ValueError("names no database")
    if parsed.port is not None and not 1 <= parsed.port <= MAX_PORT:
        raise ValueError(f"names a port that is not 1 to {MAX_PORT}")
    return _translate_options(parsed)


def _parse(url: str | URL) -> URL:
    if isinstance(url, URL):
        return url
    try:
        return make_url(_hosts_as_options(url))
    except (ArgumentError, ValueError):
        raise ValueError("is not a database URL") from None


def _hosts_as_options(url: str) -> str:
    """`u:p@h1:1,h2:2/db` and `u@%2Fvar%2Frun/db`, libpq's spellings, as `?host=…` options."""
    found = re.fullmatch(r"(?P<start>[^/]*//(?:[^/]*@)?)(?P<hosts>[^/@?]*)(?P<rest>.*)", url)
    if not found:
        return url
    hosts = found["hosts"]
    if "," in hosts:
        options = [f"host={each if ':' in each else each + ':5432'}" for each in hosts.split(",")]
    elif hosts.lower().startswith("%2f"):
        options = [f"host={unquote(hosts)}"]
    else:
        return url
    rest = found["rest"]
    return f"{found['start']}{rest}{'&' if '?' in rest else '?'}{'&'.join(options)}"


def _translate_options(url: URL) -> Target:
    _refuse_unknown(url.query, _KNOWN)
    # several hosts stay in the URL: SQLAlchemy knows them; of the rest one value each is enough
    options = {n: v if isinstance(v, str) else v[-1] for n, v in url.query.items() if n != "host"}
    _check_channel_binding(options.get("channel_binding", "prefer"))
    arguments: dict[str, Any] = {}
    if attributes := options.get("target_session_attrs"):
        arguments["target_session_attrs"] = _one_of(
            "target_session_attrs", attributes, _SESSION_ATTRIBUTES
        )
    if seconds := options.get("connect_timeout"):
        arguments["timeout"] = _seconds(seconds)
    if (tls := _tls(options)) is not None:
        arguments["ssl"] = tls
    pgbouncer = _one_of("pgbouncer", options.get("pgbouncer", "false"), ("true", "false"))
    if pgbouncer == "true" and {"options", "application_name"} & options.keys():
        raise ValueError(
            "asks for pgbouncer=true, which takes neither options nor application_name"
        )
    bare = url.difference_update_query([name for name in url.query if name != "host"])
    _check_hosts(bare)
    return Target(
        url=bare,
        connect_args=arguments,
        server_settings={n: options[n] for n in ("application_name", "options") if n in options},
        pgbouncer=pgbouncer == "true",
    )


def _tls(options: Mapping[str, str]) -> ssl.SSLContext | str | bool | None:
    """What libpq's sslmode means, for asyncpg. None: not said; asyncpg then prefers TLS, unverified."""
    files = {name: options[name] for name in _SSL_FILES if name in options}
    if "sslmode" not in options and not files:
        return None
    mode = _one_of("sslmode", options.get("sslmode", "verify-full"), _SSL_MODES)
    if mode == "disable":
        return False
    if mode in {"allow", "prefer"}:
        return mode
    verified = mode.startswith("verify") or files.get("sslrootcert") is not None
    root = files.get("sslrootcert")
    try:
        context = ssl.create_default_context(cafile=None if root in {None, "system"} else root)
        if "sslcert" in files:
            context.load_cert_chain(files["sslcert"], files.get("sslkey"))
    except (OSError, ssl.SSLError) as error:
        raise ValueError(f"names a certificate that can't be read: {error}") from None
    context.check_hostname = mode == "verify-full"
    context.verify_mode = ssl.CERT_REQUIRED if verified else ssl.CERT_NONE
    return context


def _check_channel_binding(value: str) -> None:
    _one_of("channel_binding", value, ("disable", "prefer", "require"))
    if value == "require":
        raise ValueError(
            "asks for channel_binding=require, which asyncpg can't do; "
            "take it out and say sslmode=verify-full, which keeps a stranger out as well"
        )


def _check_hosts(url: URL) -> None:
    """What SQLAlchemy would say only when it connects."""
    try:
        _ASYNCPG.create_connect_args(url)  # type: ignore[no-untyped-call]
    except (ArgumentError, ValueError, TypeError):
        raise ValueError("names hosts and ports that can't be told apart") from None


def _seconds(value: str) -> float:
    if not value.isdecimal() or not value.isascii() or int(value) == 0:
        raise ValueError("has a connect_timeout that is not a whole number of seconds above 0")
    return float(value)


def _one_of(name: str, value: str, known: tuple[str, ...]) -> str:
    if value not in known:
        raise ValueError(f"has an unknown {name}; known are {', '.join(known)}")
    return value


def _refuse_unknown(query: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for name in query:
        if name not in known:
            choice = f"known are {', '.join(known)}" if known else "SQLite takes none"
            raise ValueError(f"has the option {name}, which is not supported; {choice}")
