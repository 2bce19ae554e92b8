"""The URLs that managed databases hand out: translated for asyncpg, or refused by name."""

import ssl
from pathlib import Path
from urllib.parse import quote

import pytest
from sqlalchemy.dialects.postgresql.asyncpg import dialect
from sqlalchemy.engine import make_url

from ledgerq.database.url import translate
from ledgerq.database.url_options import _KNOWN

NEON = "postgresql://u:p@ep-x.neon.tech/d?sslmode=require&options=endpoint%3Dep-x"
SUPABASE = "postgres://u.ref:p@pooler.supabase.com:6543/postgres?pgbouncer=true"


def test_sslmode_require_encrypts_without_verifying() -> None:
    """As libpq does: who listens in is kept out, who stands between is not."""
    context = translate("postgresql://u@h/d?sslmode=require").connect_args["ssl"]
    assert isinstance(context, ssl.SSLContext)
    assert context.verify_mode is ssl.CERT_NONE


def test_sslmode_verify_full_checks_certificate_and_name() -> None:
    """Against the system's authorities if no file is named."""
    for url in ("sslmode=verify-full", "sslmode=verify-full&sslrootcert=system"):
        context = translate(f"postgresql://u@h/d?{url}").connect_args["ssl"]
        assert context.verify_mode is ssl.CERT_REQUIRED
        assert context.check_hostname is True
    verify_ca = translate("postgresql://u@h/d?sslmode=verify-ca").connect_args["ssl"]
    assert (verify_ca.verify_mode, verify_ca.check_hostname) == (ssl.CERT_REQUIRED, False)


@pytest.mark.parametrize(
    ("mode", "value"), [("disable", False), ("allow", "allow"), ("prefer", "prefer")]
)
def test_the_opportunistic_modes_are_asyncpgs_own(mode: str, value: object) -> None:
    """They name what asyncpg can do by itself."""
    assert translate(f"postgresql://u@h/d?sslmode={mode}").connect_args["ssl"] == value


def test_without_sslmode_nothing_is_said() -> None:
    """asyncpg's default stands."""
    assert "ssl" not in translate("postgresql://u@h/d").connect_args


def test_a_missing_certificate_is_named_without_a_traceback(tmp_path: Path) -> None:
    """The file that can't be read is the problem, not the URL."""
    with pytest.raises(ValueError, match="certificate that can't be read"):
        translate(f"postgresql://u@h/d?sslmode=verify-full&sslrootcert={tmp_path}/none.crt")


def test_managed_urls_are_taken_as_they_come() -> None:
    """No option of theirs reaches asyncpg untranslated."""
    neon = translate(NEON)
    assert neon.server_settings == {"options": "endpoint=ep-x"}
    assert not neon.url.query
    assert translate(SUPABASE).pgbouncer is True


def test_the_other_options_are_translated() -> None:
    """Name, patience and what the server must be."""
    target = translate(
        "postgresql://u@h/d?application_name=crm&connect_timeout=7"
        "&target_session_attrs=read-write&channel_binding=prefer"
    )
    assert target.server_settings == {"application_name": "crm"}
    assert target.connect_args == {"timeout": 7.0, "target_session_attrs": "read-write"}


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:p@h1:5432,h2:5433/d?target_session_attrs=primary",
        "postgresql://u:p@/d?host=h1:5432&host=h2:5433",
    ],
)
def test_several_hosts_are_tried_in_turn(url: str) -> None:
    """In libpq's spelling and in SQLAlchemy's."""
    target = translate(url)
    arguments = dialect().create_connect_args(target.url)[1]  # type: ignore[no-untyped-call]
    assert arguments["host"] == ["h1", "h2"]
    assert arguments["port"] == [5432, 5433]
    assert arguments["user"] == "u"


def test_a_unix_socket_may_be_written_in_both_ways() -> None:
    """As an option, or percent-encoded in place of the host."""
    for url in ("postgresql://u@/d?host=/var/run/pg", "postgresql://u@%2Fvar%2Frun%2Fpg/d"):
        assert translate(url).url.query["host"] == "/var/run/pg"


def test_several_ipv6_hosts_are_tried_in_turn() -> None:
    """Brackets and colons in a list are no reason to refuse it."""
    target = translate("postgresql://u:p@[::1]:5432,[fd00::2],h3:5433/d")
    arguments = dialect().create_connect_args(target.url)[1]  # type: ignore[no-untyped-call]
    assert arguments["host"] == ["::1", "fd00::2", "h3"]
    assert arguments["port"] == [5432, 5432, 5433]
    assert translate("postgresql://u:p@[::1]:5432/d").url.host == "::1"


@pytest.mark.parametrize(
    "query",
    [
        "gssencmode=disable",
        "sslsni=1",
        "sslnegotiation=postgres",
        "keepalives=1&keepalives_idle=30&keepalives_interval=10&keepalives_count=3",
        "tcp_user_timeout=10000",
        "client_encoding=UTF8",
        "channel_binding=prefer",
        "pgbouncer=true&connection_limit=1",
        "options=-c%20work_mem%3D5MB%20--geqo%3Doff",
        "options=-csynchronous_commit%3Dremote_apply",
        "options=-c%20TimeZone%3DUTC",
        "options=project%3Dep-x",
        "schema=public",
        "supa=base-pooler.x",
        "pool=true",
        "fallback_application_name=crm",
        "sslmode=require&ssl_min_protocol_version=TLSv1.2",
        "ssl_min_protocol_version=TLSv1.2",
        "sslcompression=0",
        "load_balance_hosts=disable",
        "statement_cache_size=0&prepared_statement_cache_size=0",
    ],
)
def test_options_that_change_nothing_we_rely_on_are_taken(query: str) -> None:
    """They say what is the case anyway, or what is bounded by our own limits."""
    assert not translate(f"postgresql://u@h/d?{query}").url.query


@pytest.mark.parametrize(
    ("spelt", "mode"), [("require", "require"), ("true", "verify-full"), ("verify-full",) * 2]
)
def test_the_tls_option_of_asyncpg_is_understood(spelt: str, mode: str) -> None:
    """`ssl` in a URL means what it means to asyncpg, and what sslmode means to libpq."""
    of_asyncpg = translate(f"postgresql://u@h/d?ssl={spelt}").connect_args["ssl"]
    of_libpq = translate(f"postgresql://u@h/d?sslmode={mode}").connect_args["ssl"]
    assert of_asyncpg.verify_mode == of_libpq.verify_mode
    assert of_asyncpg.check_hostname == of_libpq.check_hostname
    assert translate("postgresql://u@h/d?ssl=false").connect_args["ssl"] is False


def test_a_password_file_is_handed_on(tmp_path: Path) -> None:
    """asyncpg reads it; one that is not there would be passed over in silence."""
    (tmp_path / "pgpass").write_text("*:*:*:*:p\n")
    target = translate(f"postgresql://u@h/d?passfile={tmp_path}/pgpass")
    assert target.connect_args["passfile"] == f"{tmp_path}/pgpass"


@pytest.mark.parametrize(
    ("setting", "cure"),
    [
        ("statement_timeout=0", "LEDGERQ_DB_STATEMENT_TIMEOUT"),
        ("lock_timeout=0", "LEDGERQ_DB_LOCK_TIMEOUT"),
        ("idle_in_transaction_session_timeout=0", "LEDGERQ_DB_IDLE_IN_TRANSACTION_TIMEOUT"),
        ("application_name=x", "LEDGERQ_DB_APPLICATION_NAME"),
        ("default_transaction_isolation=serializable", "promises"),
        ("default_transaction_read_only=on", "promises"),
        ("synchronous_commit=off", "promises"),
        ("Synchronous_Commit=OFF", "promises"),
        ("search_path=x", "ALTER ROLE"),
        ("session_replication_role=replica", "promises"),
        ("client_encoding=latin1", "promises"),
        ("TimeZone=Europe/Berlin", "promises"),
        ("role=x", "promises"),
    ],
)
@pytest.mark.parametrize("spelt", ["-c {}", "-c{}", "--{}", "-c  work_mem=5MB -c {}", "x=y -c {}"])
def test_server_settings_that_break_a_promise_are_refused(
    setting: str, cure: str, spelt: str
) -> None:
    """In each of PostgreSQL's spellings; where we have a setting for it, that is named."""
    options = quote(spelt.format(setting))
    with pytest.raises(ValueError, match=cure):
        translate(f"postgresql://u@h/d?options={options}")
    with pytest.raises(ValueError, match=cure):
        translate(f"postgresql://u@h/d?options={quote('--' + setting.replace('_', '-'))}")


def test_a_url_without_a_user_takes_the_one_of_libpq_or_of_the_system(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A container may run as a user without a name: that is said when settings are read, in one line."""
    monkeypatch.setenv("PGUSER", "me")
    assert translate("postgresql://h/d").url.username == "me"
    monkeypatch.delenv("PGUSER")
    monkeypatch.setattr("getpass.getuser", lambda: "system")
    assert translate("postgresql://h/d").url.username == "system"
    monkeypatch.setattr("getpass.getuser", _nobody)
    with pytest.raises(ValueError, match=r"names no user.*or set PGUSER"):
        translate("postgresql://h/d")
    assert translate("postgresql://u@h/d").url.username == "u"


def test_what_libpqs_variables_add_is_seen_in_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """PGHOST and PGPORT fill in what the URL leaves out, and nothing else."""
    monkeypatch.setenv("PGHOST", "elsewhere")
    monkeypatch.setenv("PGPORT", "6543")
    assert translate("postgresql://u@/d").url.query == {"host": "elsewhere", "port": "6543"}
    assert translate("postgresql://u@h/d").url.render_as_string().endswith("u@h:6543/d")
    assert translate("postgresql://u@h:1/d").url.port == 1
    monkeypatch.setenv("PGPORT", "soon")
    with pytest.raises(ValueError, match="PGPORT is not"):
        translate("postgresql://u@h/d")


def test_libpqs_variable_for_a_standby_is_overruled(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that was led to a standby could write nothing."""
    monkeypatch.setenv("PGTARGETSESSIONATTRS", "standby")
    assert translate("postgresql://u@h/d").connect_args["target_session_attrs"] == "any"


def _nobody() -> str:
    raise KeyError("getpwuid(): uid not found: 4711")


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("postgresql://u:hunter2@h/d?sslmode=always", "unknown sslmode"),
        ("postgresql://u:hunter2@h/d?channel_binding=require", "channel_binding=require"),
        ("postgresql://u:hunter2@h/d?target_session_attrs=master", "target_session_attrs"),
        ("postgresql://u:hunter2@h/d?connect_timeout=soon", "connect_timeout"),
        ("postgresql://u:hunter2@h/d?pgbouncer=maybe", "pgbouncer"),
        ("postgresql://u:hunter2@h/d?schema=app", "option schema.*ALTER ROLE"),
        ("postgresql://u:hunter2@h/d?statement_timeout=5", "option statement_timeout"),
        (
            "postgresql://u:hunter2@h/d?pgbouncer=true&options=-c%20work_mem%3D5MB",
            "neither options",
        ),
        ("postgresql://u:hunter2@[::1]:1,[::2:2/d", "not a database URL"),
        ("postgresql://u:hunter2@h1:1,h2:99999/d", "port"),
        ("postgresql://u:hunter2@h/d?connection_limit=5", "LEDGERQ_DB_POOL_SIZE"),
        ("postgresql://u:hunter2@h/d?pool_timeout=5", "LEDGERQ_DB_POOL_TIMEOUT"),
        ("postgresql://u:hunter2@h/d?search_path=x", "ALTER ROLE"),
        ("postgresql://u:hunter2@h/d?service=x", "option service.*write host"),
        ("postgresql://u:hunter2@h/d?require_auth=scram-sha-256", "option require_auth"),
        ("postgresql://u:hunter2@h/d?sslcrl=x", "option sslcrl"),
        ("postgresql://u:hunter2@h/d?gssencmode=require", "unknown gssencmode"),
        ("postgresql://u:hunter2@h/d?sslsni=0", "unknown sslsni"),
        ("postgresql://u:hunter2@h/d?client_encoding=latin1", "unknown client_encoding"),
        ("postgresql://u:hunter2@h/d?keepalives_idle=soon", "keepalives_idle"),
        ("postgresql://u:hunter2@h/d?sslnegotiation=direct", "without sslmode=require"),
        ("postgresql://u:hunter2@h/d?sslnegotiation=fast", "unknown sslnegotiation"),
        ("postgresql://u:hunter2@h/d?ssl=maybe", "unknown ssl"),
        ("postgresql://u:hunter2@h/d?ssl=require&sslmode=disable", "differ"),
        ("postgresql://u:hunter2@h/d?passfile=/nowhere/pgpass", "passfile that can't be read"),
        ("postgresql://u:hunter2@h/d?p%C3%A4ss=1", "whose name is none"),
        ("postgresql://u:hunter2@/d?host=a,b&host=c", "hosts and ports"),
        ("sqlite:///x.db?mode=ro", "option mode"),
        ("sqlite://", "names no file"),
        ("sqlite:///:memory:", "names no file"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(url: str, problem: str) -> None:
    """Nothing is dropped in silence, and no password is repeated."""
    with pytest.raises(ValueError, match=problem) as refused:
        translate(url)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("value", ["", "x", "hunter2"])
@pytest.mark.parametrize("name", [each for each in _KNOWN if each not in {"host", "port"}])
def test_an_option_without_a_value_or_given_twice_is_refused_by_its_name(
    name: str, value: str
) -> None:
    """Which one counts would be decided in silence; the values are not repeated."""
    for query in (f"{name}=", name, f"{name}=hunter2&{name}={value}", f"{name}={value}&%s=" % name):
        with pytest.raises(
            ValueError, match=f"has the option {name} (twice|without a value); "
        ) as refused:
            translate(f"postgresql://u:p@h/d?{query}")
        assert "hunter2" not in str(refused.value)


def test_an_empty_host_is_refused_and_several_are_not() -> None:
    """Hosts and ports may come more than once."""
    with pytest.raises(ValueError, match="option host without a value"):
        translate("postgresql://u:p@/d?host=")
    twice = make_url("postgresql://u:p@h/d").update_query_pairs(
        [("sslmode", "a"), ("sslmode", "b")]
    )
    with pytest.raises(ValueError, match="option sslmode twice"):
        translate(twice)


def test_the_least_version_of_tls_is_demanded() -> None:
    """Where TLS itself is; where it is only preferred, 1.2 is the least anyway."""
    url = "postgresql://u@h/d?ssl_min_protocol_version="
    context = translate(f"{url}TLSv1.3&sslmode=require").connect_args["ssl"]
    assert context.minimum_version is ssl.TLSVersion.TLSv1_3
    context = translate(f"{url}TLSv1.2&sslmode=require").connect_args["ssl"]
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    for query in ("TLSv1.3", "TLSv1.3&sslmode=prefer", "TLSv1.3&sslmode=disable"):
        with pytest.raises(ValueError, match="without sslmode=require or stricter"):
            translate(url + query)
    with pytest.raises(ValueError, match="unknown ssl_min_protocol_version"):
        translate(f"{url}TLSv1.1&sslmode=require")


def test_no_cache_of_statements_is_no_cache_of_statements() -> None:
    """As asyncpg and SQLAlchemy spell it; another size is refused with the cure."""
    for name in ("statement_cache_size", "prepared_statement_cache_size"):
        assert translate(f"postgresql://u@h/d?{name}=0").connect_args[name] == 0
        with pytest.raises(ValueError, match=f"option {name}.*pgbouncer=true"):
            translate(f"postgresql://u@h/d?{name}=100")


@pytest.mark.parametrize("scheme", ["POSTGRES", "PostgreSQL", "POSTGRESQL+ASYNCPG"])
def test_a_scheme_may_be_written_in_any_case(scheme: str) -> None:
    """As the standard of URLs has it."""
    assert translate(f"{scheme}://u@h/d").url.drivername == "postgresql+asyncpg"
    assert translate("SQLITE:///x.db").url.drivername == "sqlite+aiosqlite"


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2", "pg8000", "PSYCOPG2"])
def test_a_driver_in_the_scheme_is_refused_with_the_cure(driver: str) -> None:
    """Ours is asyncpg."""
    with pytest.raises(ValueError, match="take the driver out: postgresql://"):
        translate(f"postgresql+{driver}://u@h/d")


def test_an_at_sign_in_an_option_is_not_taken_for_a_part_of_the_password() -> None:
    """The cure says where to encode it."""
    with pytest.raises(ValueError, match="write %40") as refused:
        translate("postgresql://u:hunter2@h/d?application_name=me@work")
    assert "user and password" not in str(refused.value)
    assert "hunter2" not in str(refused.value)
    taken = translate("postgresql://u:p@h/d?application_name=me%40work")
    assert taken.server_settings == {"application_name": "me@work"}
