"""Translates database URLs, in the forms that people use, for SQLAlchemy's async engine and asyncpg.

An error shows no part of the URL that could be a password: if user or password hold a special character that is not
encoded, it is unknown where they end.
"""

import getpass
import os
import re
from dataclasses import replace
from urllib.parse import parse_qsl, quote, unquote

from sqlalchemy.dialects.postgresql.asyncpg import dialect as asyncpg_dialect
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from ledgerq.database.url_options import Target, check_names, refused_option, translate_options

__all__ = ["MAX_PORT", "Target", "check_text", "translate"]

_DRIVERS = {
    "postgres": "postgresql+asyncpg",
    "postgresql": "postgresql+asyncpg",
    "postgresql+asyncpg": "postgresql+asyncpg",
    "sqlite": "sqlite+aiosqlite",
    "sqlite+aiosqlite": "sqlite+aiosqlite",
}
MAX_PORT = 65_535
_ASYNCPG = asyncpg_dialect()  # type: ignore[no-untyped-call]
_ENCODE = (
    "can't be taken apart; percent-encode the special characters of user and password: "
    "@ is %40, # is %23, % is %25, / is %2F, ? is %3F, : is %3A"
)


def translate(url: str | URL) -> Target:
    """Parse a URL, name the async driver and translate the options.

    Raises:
        ValueError: the text is no database URL, or asks for something unsupported; never shows the password.
    """
    parsed = _parse(url)
    scheme = parsed.drivername.lower()
    driver = _DRIVERS.get(scheme)
    if driver is None:
        database, named, _ = scheme.partition("+")
        cure = f"; take the driver out: {database}://" if named and database in _DRIVERS else ""
        raise ValueError(f"has the scheme {scheme}, which is not supported{cure}")
    parsed = parsed.set(drivername=driver)
    if driver.startswith("sqlite"):
        return _sqlite(parsed)
    if not parsed.database:
        raise ValueError("names no database")
    target = translate_options(parsed)
    target = replace(target, url=_completed(target.url))
    _check_hosts(target.url)
    return target


def check_text(url: str) -> None:
    """Refuse a URL, of a database or of Redis, in which the password may not be properly encoded.

    Raises:
        ValueError: the text says what to encode, and shows no part of the URL.
    """
    if any(character.isspace() or not character.isprintable() for character in url):
        raise ValueError("holds a blank or a control character; take it out or percent-encode it")
    rest = url.partition("://")[2]
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    user = authority.rpartition("@")[0]
    after = rest[len(authority) :]
    apart = user.count(":") <= 1 and not re.search(r"[@\[\]]", user) and user.isascii()
    beyond = re.search(r"[@#]", after.partition("?")[2])
    if apart and "@" in authority and beyond:
        raise ValueError(
            "has @ or # behind its host; where it belongs to an option or a password, write %40 or %23"
        )
    if not apart or re.search(r"[@#]", after) or re.search(r"%(?![0-9A-Fa-f]{2})", url):
        raise ValueError(_ENCODE)


def _parse(url: str | URL) -> URL:
    if isinstance(url, URL):
        return url
    # a file may have any name, and no password
    if not re.match(r"sqlite(\+\w+)?:", url, re.IGNORECASE):
        check_text(url)
        if url.lower().startswith("postgres"):  # make_url ignores options without a value
            check_names(parse_qsl(url.partition("?")[2], keep_blank_values=True))
    try:
        return make_url(_hosts_as_options(url))
    except (ArgumentError, ValueError):
        raise ValueError("is not a database URL") from None


def _hosts_as_options(url: str) -> str:
    """Rewrites libpq's `u:p@h1:1,h2:2/db` and `u@%2Fvar%2Frun/db` with `?host=…` options, for SQLAlchemy."""
    found = re.fullmatch(r"(?P<start>[^/]*//(?:[^/]*@)?)(?P<hosts>[^/@?]*)(?P<rest>.*)", url)
    if not found:
        return url
    hosts = found["hosts"]
    if "," in hosts:
        options = _several(hosts.split(","))
    elif hosts.lower().startswith("%2f"):
        options = f"host={quote(unquote(hosts))}"
    else:
        return url
    rest = found["rest"]
    return f"{found['start']}{rest}{'&' if '?' in rest else '?'}{options}"


def _several(hosts: list[str]) -> str:
    """Several hosts and their ports as `host=…&port=…`, the only form in which SQLAlchemy allows IPv6."""
    found = [re.fullmatch(r"(\[[\w:.%]+\]|[^:\[\]]+)(?::(\d+))?", host) for host in hosts]
    pairs = [(each[1].strip("[]"), each[2] or "5432") for each in found if each]
    if len(pairs) != len(hosts):
        raise ValueError
    names, ports = zip(*pairs, strict=True)
    return f"host={quote(','.join(names))}&port={','.join(ports)}"


def _sqlite(url: URL) -> Target:
    for name in url.query:
        raise refused_option(name, "SQLite takes none")
    if url.database in {None, "", ":memory:"}:
        raise ValueError("names no file; a database in memory has room for one connection")
    return Target(url)


def _completed(url: URL) -> URL:
    """The URL with missing user, host and port filled in from PGUSER, PGHOST, PGPORT or the system, as asyncpg does."""
    if not url.username:
        url = url.set(username=os.environ.get("PGUSER") or _system_user())
    named = url.host or url.query.get("host")
    if not named and (named := os.environ.get("PGHOST")):
        url = url.update_query_dict({"host": named})
    port = os.environ.get("PGPORT", "")
    one = isinstance(named, str) and "," not in named
    if port and one and url.port is None and "port" not in url.query:
        if not re.fullmatch(r"[0-9]{1,5}", port) or not 1 <= int(port) <= MAX_PORT:
            raise ValueError(f"names no port, and PGPORT is not 1 to {MAX_PORT}")
        url = url.set(port=int(port)) if url.host else url.update_query_dict({"port": port})
    return url


def _system_user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):  # a container may run as a user without a name
        raise ValueError(
            "names no user, and the system has no name for the one that runs this; "
            "write postgresql://user@…, or set PGUSER"
        ) from None


def _check_hosts(url: URL) -> None:
    """Refuse hosts and ports that SQLAlchemy would refuse only when it connects."""
    try:
        ports = _ASYNCPG.create_connect_args(url)[1].get("port")  # type: ignore[no-untyped-call]
    except (ArgumentError, ValueError, TypeError):
        raise ValueError("names hosts and ports that can't be told apart") from None
    for port in ports if isinstance(ports, list) else [ports]:
        if port is not None and not 1 <= port <= MAX_PORT:
            raise ValueError(f"names a port that is not 1 to {MAX_PORT}")
