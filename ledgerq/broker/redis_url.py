"""Reduces a Redis URL to the place of the server, the credentials and the options of TLS.

In redis-py, options of the URL override those of the caller. An option that changes the form of answers, a timeout or
the name of a connection would break what ledgerq relies on. So ledgerq refuses each such option by name:
https://redis.readthedocs.io/en/stable/connections.html
"""

import os
import re
from collections.abc import Mapping
from urllib.parse import SplitResult, parse_qsl, quote, urlencode, urlsplit, urlunsplit

from pydantic import SecretStr
from redis.asyncio import SSLConnection

from ledgerq.database.url import check_text

_SSL_FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
_SSL = ("ssl_cert_reqs", "ssl_check_hostname", "ssl_ciphers", *_SSL_FILES)
_KNOWN = ("db", "family", "username", "password", *_SSL)
_SCHEMES = {
    "valkey": "redis",
    "valkeys": "rediss",
    **{each: each for each in ("redis", "rediss", "unix")},
}
_CURES = {
    **dict.fromkeys(("host", "port", "path"), "write redis://:password@host:6379/0"),
    **dict.fromkeys(("ssl", "tls"), "write rediss:// for TLS"),
    "family": "take it out: IPv4 and IPv6 are both tried",
    "ssl_ca_data": "write it to a file, and name that with ssl_ca_certs",
    "ssl_min_version": "take it out: it is TLS 1.2",
}
_YES, _NO = ("true", "1", "yes"), ("false", "0", "no")


def understood(url: SecretStr) -> SecretStr:
    """The URL in the form that redis-py takes.

    Raises:
        ValueError: the URL is not valid, or has an option that ledgerq refuses. The text never repeats the password.
    """
    text = url.get_secret_value()
    check_text(text)
    try:
        parts = urlsplit(text)
    except ValueError:  # its text repeats the part with the password
        raise ValueError(
            "is not a valid URL; write special characters of the password as %XX"
        ) from None
    if parts.scheme not in _SCHEMES:
        raise ValueError("is not a Redis URL")
    parts = parts._replace(scheme=_SCHEMES[parts.scheme])
    _check_place(parts)
    options = _options(parts.query)
    user = _user(parts, options)
    database = _database(parts, options)
    tls = _tls(options, secure=parts.scheme == "rediss")
    path = parts.path
    if parts.scheme == "unix":
        tls["db"] = database
    else:
        path = f"/{database}"
    # redis-py decodes options twice
    query = urlencode(
        {name: quote(value, safe="/") for name, value in tls.items()}, quote_via=quote
    )
    place = parts.netloc.rpartition("@")[2]
    return SecretStr(urlunsplit((parts.scheme, f"{user}{place}", path, query, "")))


def _check_place(parts: SplitResult) -> None:
    place = parts.netloc.rpartition("@")[2]
    if parts.scheme == "unix":
        if place or not parts.path:
            raise ValueError("names no socket; write unix:///path/to/redis.sock")
        return
    if "," in place:
        raise ValueError("names several hosts; neither Redis Cluster nor Sentinel is supported")
    number = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[^:\[\]]*)(?::(?P<port>[0-9]{1,5}))?", place)
    port = int((number and number["port"]) or 6379)
    if not number or not 1 <= port <= 65_535 or not re.fullmatch(r"/?([0-9]{1,9})?/?", parts.path):  # noqa: PLR2004
        raise ValueError("has a port or a database that is not a number")


def _options(query: str) -> dict[str, str]:
    pairs = parse_qsl(query, keep_blank_values=True)
    options = dict(pairs)
    if len(options) != len(pairs):
        raise ValueError("has an option twice; take one out")
    for name, value in options.items():
        # family=0 is for clients that else take IPv4 only: redis-py takes either
        if name not in _KNOWN or (name == "family" and value != "0"):
            # a part of an unencoded password may look like an option
            plain = "password" not in options and re.fullmatch(r"[a-z_]{1,40}", name)
            shown = f": {name}" if plain else ""
            cure = _CURES.get(name, "take it out: ledgerq says itself what it needs")
            raise ValueError(f"has an option that is not supported{shown}; {cure}")
    return options


def _user(parts: SplitResult, options: Mapping[str, str]) -> str:
    """`user:password@`, from before the host or from the options."""
    name, password = options.get("username", ""), options.get("password", "")
    written = parts.netloc.rpartition("@")[0]
    if written and (name or password):
        raise ValueError("names user or password twice, before the host and as an option")
    if not written and not name and not password:
        return ""
    return f"{written or quote(name, safe='') + ':' + quote(password, safe='')}@"


def _database(parts: SplitResult, options: Mapping[str, str]) -> str:
    written = "" if parts.scheme == "unix" else parts.path.strip("/")
    database = options.get("db", written) or "0"
    if not re.fullmatch(r"[0-9]{1,9}", database):
        raise ValueError("has a port or a database that is not a number")
    if written and int(written) != int(database):
        raise ValueError("names two databases, in its path and as db; take one out")
    return str(int(database))


def _tls(options: Mapping[str, str], *, secure: bool) -> dict[str, str]:
    tls = {name: value for name, value in options.items() if name in _SSL}
    if not tls and not secure:
        return {}
    if not secure:
        raise ValueError(f"has {min(tls)} without TLS; write rediss:// instead of redis://")
    if "ssl_cert_reqs" in tls:
        tls["ssl_cert_reqs"] = _required(tls["ssl_cert_reqs"])
    if "ssl_check_hostname" in tls:
        tls["ssl_check_hostname"] = str(_is_yes("ssl_check_hostname", tls["ssl_check_hostname"]))
    for name in _SSL_FILES:
        if name in tls and not (os.path.isfile(tls[name]) and os.access(tls[name], os.R_OK)):  # noqa: PTH113 - text
            raise ValueError(f"names a file in {name} that can't be read")
    typed = {**tls, "ssl_check_hostname": tls.get("ssl_check_hostname") == "True"}
    try:
        SSLConnection(**typed).ssl_context.get()  # type: ignore[arg-type]
    except (OSError, ValueError, TypeError):  # OSError: also what ssl says
        raise ValueError(
            f"has {', '.join(sorted(tls)) or 'TLS'} with values that don't go together or are none"
        ) from None
    return tls


def _required(value: str) -> str:
    """The value as redis-py spells it, for example `none`; Python's spelling, `CERT_NONE`, is accepted too."""
    mode = value.lower().removeprefix("cert_")
    if mode not in {"none", "optional", "required"}:
        raise ValueError("has an unknown ssl_cert_reqs; known are none, optional, required")
    return mode


def _is_yes(name: str, value: str) -> bool:
    if value.lower() not in {*_YES, *_NO}:
        raise ValueError(f"has an unknown {name}; known are true, false")
    return value.lower() in _YES
