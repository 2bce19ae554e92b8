"""The URLs that managed databases hand out: translated for asyncpg, or refused by name."""

import ssl
from pathlib import Path

import pytest
from sqlalchemy.dialects.postgresql.asyncpg import dialect

from db.url import translate

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


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("postgresql://u:hunter2@h/d?sslmode=always", "unknown sslmode"),
        ("postgresql://u:hunter2@h/d?channel_binding=require", "channel_binding=require"),
        ("postgresql://u:hunter2@h/d?target_session_attrs=master", "target_session_attrs"),
        ("postgresql://u:hunter2@h/d?connect_timeout=soon", "connect_timeout"),
        ("postgresql://u:hunter2@h/d?pgbouncer=maybe", "pgbouncer"),
        ("postgresql://u:hunter2@h/d?schema=public", "option schema"),
        ("postgresql://u:hunter2@h/d?statement_timeout=5", "option statement_timeout"),
        (
            "postgresql://u:hunter2@h/d?pgbouncer=true&options=-c%20work_mem%3D5MB",
            "neither options",
        ),
        ("postgresql://u:hunter2@[::1]:1,[::2]:2/d", "hosts and ports"),
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
