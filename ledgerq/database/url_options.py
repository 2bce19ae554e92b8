"""The options of a database URL: translated for asyncpg, or refused by name.

Managed databases give out URLs with libpq's options, ORMs add their own; asyncpg knows few of them:
https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-PARAMKEYWORDS
No option is ignored silently if the connection would be weaker without it. No option may change a setting on which
ledgerq's guarantees rest.
"""

import os
import re
import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy.engine import URL

_SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_SSL_FILES = ("sslrootcert", "sslcert", "sslkey")
_SESSION_ATTRIBUTES = (
    "any",
    "primary",
    "standby",
    "read-write",
    "read-only",
    "prefer-standby",
)
# accepted and ignored: our own timeouts notice a dead connection
_KEEPALIVES = ("keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count")
_KNOWN = (
    "application_name",
    "channel_binding",
    "client_encoding",
    "connect_timeout",
    "connection_limit",
    "fallback_application_name",
    "gssencmode",
    "host",
    *_KEEPALIVES,
    "load_balance_hosts",
    "options",
    "passfile",
    "pgbouncer",
    "pool",
    "port",
    "prepared_statement_cache_size",
    "schema",
    "ssl",
    "ssl_min_protocol_version",
    "sslcompression",
    *("sslmode", *_SSL_FILES),
    "sslnegotiation",
    "sslsni",
    "statement_cache_size",
    "supa",
    "target_session_attrs",
    "tcp_user_timeout",
)
_OF_OUR_OWN = {
    "application_name": "LEDGERQ_DB_APPLICATION_NAME",
    "statement_timeout": "LEDGERQ_DB_STATEMENT_TIMEOUT",
    "lock_timeout": "LEDGERQ_DB_LOCK_TIMEOUT",
    "idle_in_transaction_session_timeout": "LEDGERQ_DB_IDLE_IN_TRANSACTION_TIMEOUT",
    "command_timeout": "LEDGERQ_DB_STATEMENT_TIMEOUT",
    "connection_limit": "LEDGERQ_DB_POOL_SIZE",
    "pool_size": "LEDGERQ_DB_POOL_SIZE",
    "max_overflow": "LEDGERQ_DB_MAX_OVERFLOW",
    "pool_timeout": "LEDGERQ_DB_POOL_TIMEOUT",
    "pool_recycle": "LEDGERQ_DB_POOL_RECYCLE",
}
_CACHES = ("prepared_statement_cache_size", "statement_cache_size")
_NO_CACHE = "take it out; behind a pooler that shares connections say pgbouncer=true"
_TLS_VERSIONS = {"TLSv1.2": ssl.TLSVersion.TLSv1_2, "TLSv1.3": ssl.TLSVersion.TLSv1_3}
_PLACES = ("host", "port")  # there may be several
_SECRET = ("password", "sslpassword")
_IN_THE_URL = "write it in its place: postgresql://user:password@host:5432/name"
_TO_THE_ROLE = "take it out and say ALTER ROLE … SET search_path = …, for all who share the tables"
_CURES = {
    **{name: f"take it out and set {setting}" for name, setting in _OF_OUR_OWN.items()},
    **dict.fromkeys(("user", "password", "dbname", "database", "hostaddr"), _IN_THE_URL),
    **dict.fromkeys(("schema", "search_path", "currentSchema"), _TO_THE_ROLE),
    **dict.fromkeys(_CACHES, _NO_CACHE),
    "service": "write host, port, user and database into the URL",
    "sslpassword": "name a key without a password",
}
# Server settings on which our guarantees rest (isolation, durability, triggers, time, formats, role), with the
# values that are accepted: https://www.postgresql.org/docs/current/runtime-config-client.html
_RELIED_ON = {
    "synchronous_commit": ("on", "local", "remote_write", "remote_apply"),
    "default_transaction_isolation": ("read committed",),
    "default_transaction_read_only": ("off",),
    "default_transaction_deferrable": ("off",),
    "client_encoding": ("utf8", "utf-8"),
    "timezone": ("utc",),
    "array_nulls": ("on",),
    "standard_conforming_strings": ("on",),
    **dict.fromkeys(
        (
            *("transaction_isolation", "transaction_read_only", "transaction_deferrable"),
            *("transaction_timeout", "idle_session_timeout", "search_path", "row_security"),
            *("role", "session_authorization", "session_replication_role"),
            *("datestyle", "intervalstyle", "bytea_output", "extra_float_digits"),
            *("transform_null_equals", "zero_damaged_pages", "ignore_checksum_failure"),
        ),
        (),
    ),
}


@dataclass(frozen=True, slots=True)
class Target:
    """Where and how to connect. `url` names the async driver, and has no option that asyncpg does not know."""

    url: URL
    connect_args: Mapping[str, Any] = field(default_factory=dict)
    server_settings: Mapping[str, str] = field(default_factory=dict)
    pgbouncer: bool = False


def check_names(pairs: Iterable[tuple[str, str]]) -> None:
    """Refuse an option that is unknown, given twice, or has an empty value.

    Raises:
        ValueError: names the option.
    """
    seen = set()
    for name, value in sorted(pairs, key=lambda pair: pair[0] not in _SECRET):
        if name not in _KNOWN:  # secrets are sorted first: a part of one may look like an option
            raise refused_option(name)
        if not value:
            raise ValueError(f"has the option {name} without a value; write one, or take it out")
        if name in seen and name not in _PLACES:
            raise ValueError(f"has the option {name} twice; take one out")
        seen.add(name)


def translate_options(url: URL) -> Target:
    """Take the options out of the URL and translate them to arguments of asyncpg.

    Raises:
        ValueError: an option is unknown, or has a value that is not supported.
    """
    check_names((n, v) for n, values in url.normalized_query.items() for v in values)
    # several hosts stay in the URL: SQLAlchemy knows them
    options = {n: v[0] for n, v in url.normalized_query.items() if n not in _PLACES}
    pgbouncer = _one_of("pgbouncer", options.get("pgbouncer", "false"), ("true", "false")) == "true"
    _check_what_is_fixed(options, pgbouncer=pgbouncer)
    return Target(
        url=url.difference_update_query(list(options)),
        connect_args=_connect_args(options),
        server_settings={n: options[n] for n in ("application_name", "options") if n in options},
        pgbouncer=pgbouncer,
    )


def refused_option(name: str, cure: str = "") -> ValueError:
    """The error for a refused option: shows its name, if it looks like one, and never its value."""
    if not re.fullmatch(r"[A-Za-z_]{1,40}", name):
        return ValueError(
            "has an option whose name is none; percent-encode user, password and options"
        )
    cure = cure or _CURES.get(name, f"known are {', '.join(_KNOWN)}")
    return ValueError(f"has the option {name}, which is not supported; {cure}")


def _connect_args(options: Mapping[str, str]) -> dict[str, Any]:
    # always given, so that asyncpg ignores PGTARGETSESSIONATTRS
    attributes = options.get("target_session_attrs", "any")
    arguments: dict[str, Any] = {
        "target_session_attrs": _one_of("target_session_attrs", attributes, _SESSION_ATTRIBUTES)
    }
    if seconds := options.get("connect_timeout"):
        arguments["timeout"] = _seconds(seconds)
    arguments.update({name: int(options[name]) for name in _CACHES if name in options})
    tls = _tls(options)
    if tls is not None:
        arguments["ssl"] = tls
    _check_tls_version(options.get("ssl_min_protocol_version", "TLSv1.2"), tls)
    if options.get("sslnegotiation") == "direct":
        if not isinstance(tls, ssl.SSLContext):
            raise ValueError("asks for sslnegotiation=direct without sslmode=require or stricter")
        arguments["direct_tls"] = True
    if passfile := options.get("passfile"):
        if not os.access(passfile, os.R_OK):
            raise ValueError("names a passfile that can't be read")
        arguments["passfile"] = passfile
    return arguments


def _check_what_is_fixed(options: Mapping[str, str], *, pgbouncer: bool) -> None:
    """Refuse other values of options of which only one is supported, and invalid values of ignored options."""
    if pgbouncer and {"options", "application_name"} & options.keys():
        raise ValueError(
            "asks for pgbouncer=true, which takes neither options nor application_name"
        )
    if "connection_limit" in options and not pgbouncer:  # pgbouncer limits them itself
        raise refused_option("connection_limit")
    _check_channel_binding(options.get("channel_binding", "prefer"))
    _one_of("sslnegotiation", options.get("sslnegotiation", "postgres"), ("postgres", "direct"))
    _one_of("sslsni", options.get("sslsni", "1"), ("1",))
    _one_of("gssencmode", options.get("gssencmode", "disable"), ("disable", "prefer"))
    _one_of("client_encoding", options.get("client_encoding", "utf8").lower(), ("utf8", "utf-8"))
    _one_of("sslcompression", options.get("sslcompression", "0"), ("0",))
    _one_of("load_balance_hosts", options.get("load_balance_hosts", "disable"), ("disable",))
    for name, value in (("schema", "public"), *((cache, "0") for cache in _CACHES)):
        if options.get(name, value) != value:
            raise refused_option(name, f"{_CURES[name]}; known is {value}")
    for name in (*_KEEPALIVES, "tcp_user_timeout", "connection_limit"):
        if not re.fullmatch(r"[0-9]{1,9}", options.get(name, "1")):
            raise ValueError(f"has a {name} that is not a whole number")
    _check_server_options(options.get("options", ""))


def _check_server_options(options: str) -> None:
    """Check `-c name=value`, `-cname=value`, `--name=value`; words without a dash are for a pooler."""
    words = [re.sub(r"\\(.)", r"\1", word) for word in re.findall(r"(?:\\.|\S)+", options)]
    for word in re.sub(r"(^|\0)-c\0", r"\1-c", "\0".join(words)).split("\0"):
        found = re.fullmatch(r"(?:-c|--)([\w.-]+)=(.*)", word, re.DOTALL)
        if word.startswith("-") and not found:
            raise ValueError("has options other than -c name=value, which is not supported")
        if found:
            _check_server_setting(found[1].lower().replace("-", "_"), found[2].strip().lower())


def _check_server_setting(name: str, value: str) -> None:
    if name in _OF_OUR_OWN:
        raise ValueError(f"has {name} in its options; {_CURES[name]}")
    if name in _RELIED_ON and value not in _RELIED_ON[name]:
        raise ValueError(
            f"has {name} in its options with a value on which ledgerq's promises can't rest; "
            f"{_CURES.get(name, 'take it out')}"
        )


def _tls(options: Mapping[str, str]) -> ssl.SSLContext | str | bool | None:
    """asyncpg's `ssl` argument for libpq's options. None: not given; asyncpg then prefers TLS, unverified."""
    files = {name: options[name] for name in _SSL_FILES if name in options}
    mode = _ssl_mode(options)
    if mode is None and not files:
        return None
    mode = mode or "verify-full"
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


def _check_tls_version(least: str, tls: ssl.SSLContext | str | bool | None) -> None:
    version = _TLS_VERSIONS[_one_of("ssl_min_protocol_version", least, tuple(_TLS_VERSIONS))]
    if isinstance(tls, ssl.SSLContext):
        tls.minimum_version = version
    elif version is not ssl.TLSVersion.TLSv1_2:  # Python's own minimum, if TLS is only preferred
        raise ValueError(
            f"asks for ssl_min_protocol_version={least} without sslmode=require or stricter"
        )


def _ssl_mode(options: Mapping[str, str]) -> str | None:
    """The value of `sslmode`, or of `ssl`, the name that asyncpg and other drivers use for it."""
    if "ssl" in options:
        known = {**dict(zip(_SSL_MODES, _SSL_MODES, strict=True)), "true": "verify-full"}
        known["false"] = "disable"
        mode = known[_one_of("ssl", options["ssl"].lower(), tuple(known))]
        if options.get("sslmode", mode) != mode:
            raise ValueError("has ssl and sslmode, which differ; take ssl out")
        return mode
    return _one_of("sslmode", options["sslmode"], _SSL_MODES) if "sslmode" in options else None


def _check_channel_binding(value: str) -> None:
    _one_of("channel_binding", value, ("disable", "prefer", "require"))
    if value == "require":
        raise ValueError(
            "asks for channel_binding=require, which asyncpg can't do; "
            "take it out and say sslmode=verify-full, which keeps a stranger out as well"
        )


def _seconds(value: str) -> float:
    if not re.fullmatch(r"[0-9]{1,6}", value) or int(value) == 0:
        raise ValueError("has a connect_timeout that is not a whole number of seconds above 0")
    return float(value)


def _one_of(name: str, value: str, known: tuple[str, ...]) -> str:
    if value not in known:
        raise ValueError(f"has an unknown {name}; known are {', '.join(known)}")
    return value
