"""`enqueue_job` for callers that are not ours: other roles, other search_paths, what no worker could run."""

import asyncio
import json
import time
import unicodedata
from datetime import UTC, datetime, timedelta
from uuid import RFC_4122, UUID

import asyncpg
import pytest
from alembic import command
from sqlalchemy import text
from sqlalchemy.engine import URL

from db.schema import alembic_config, migrate
from jobs.kinds import CreateProject
from ledgerq.database.engine import Sessions
from ledgerq.database.settings import DatabaseConfig
from ledgerq.database.transaction import transaction
from ledgerq.errors import JobError
from ledgerq.staging import stage
from ledgerq.store import inbox, outbox
from ledgerq.store.tables import JobState, OutboxMessage
from ledgerq.store.unprintable import UNPRINTABLE
from ledgerq.wire.envelope import Envelope, decode, encode
from ledgerq.wire.request import Request
from tests.support import count, own, rows, time_of_id, waiting_for_a_lock

CALL = "SELECT ledgerq.enqueue_job('create_project', '{\"name\": \"Launch\"}')"
DEFINITION = """
    SELECT prosrc, prosecdef, proconfig, has_function_privilege('public', oid, 'EXECUTE') AS anybody
    FROM pg_proc WHERE proname = 'enqueue_job'
"""
LONELY = own("lonely")


async def connected(url: URL) -> asyncpg.Connection:
    plain = url.set(drivername="postgresql")
    return await asyncpg.connect(plain.render_as_string(hide_password=False))


async def run(sessions: Sessions, *statements: str) -> object:
    """In one transaction; answers with the last one's value."""
    async with transaction(sessions) as session:
        connection = await (await session.connection()).get_raw_connection()
        driver = connection.driver_connection
        assert isinstance(driver, asyncpg.Connection)
        for statement in statements[:-1]:
            await driver.execute(statement)
        return await driver.fetchval(statements[-1])


async def refusal(sessions: Sessions, arguments: str) -> tuple[str | None, str]:
    """SQLSTATE and text of the error."""
    with pytest.raises(Exception, match=r".") as caught:
        await run(sessions, f"SELECT ledgerq.enqueue_job({arguments})")
    cause: BaseException | None = caught.value
    while cause is not None and not isinstance(cause, asyncpg.PostgresError):
        cause = cause.__cause__
    assert isinstance(cause, asyncpg.PostgresError), caught.value
    return cause.sqlstate, str(cause)


@pytest.mark.parametrize(
    "path",
    ["''", "nowhere", "mine, public", "mine, pg_catalog, public", "pg_temp, mine, pg_catalog"],
)
async def test_a_callers_own_names_are_never_taken_for_ours(sessions: Sessions, path: str) -> None:
    """Tables, functions and operators of the caller's, first in its search_path, are not touched."""
    await run(
        sessions,
        "CREATE SCHEMA mine",
        "CREATE TABLE mine.outbox_message (LIKE ledgerq.outbox_message INCLUDING ALL)",
        "CREATE TABLE mine.processed_job (LIKE ledgerq.processed_job)",
        *(
            f"CREATE FUNCTION mine.{name} LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION 'the caller''s own'; END $$"
            for name in (
                "now() RETURNS timestamptz",
                "length(text) RETURNS int",
                "replace(text, text, text) RETURNS text",
                "gen_random_uuid() RETURNS uuid",
                "hashtextextended(text, bigint) RETURNS bigint",
                "pg_advisory_xact_lock(bigint) RETURNS void",
                "pg_notify(text, text) RETURNS void",
                "jsonb_typeof(jsonb) RETURNS text",
                "octet_length(text) RETURNS int",
                "same(text, text) RETURNS boolean",
            )
        ),
        "CREATE OPERATOR mine.= (LEFTARG = text, RIGHTARG = text, FUNCTION = mine.same)",
        "CREATE OPERATOR mine.~ (LEFTARG = text, RIGHTARG = text, FUNCTION = mine.same)",
    )
    await run(
        sessions,
        "CREATE TEMP TABLE outbox_message (LIKE ledgerq.outbox_message) ON COMMIT DROP",
        f"SET LOCAL search_path = {path}",
        "SET LOCAL standard_conforming_strings = on",
        "SELECT ledgerq.enqueue_job('create_project', '{\"name\": \"x\"}', 'the-job', "
        "ordering_key => 'k')",
    )
    assert [m.job_id for m in await rows(sessions, OutboxMessage)] == ["the-job"]
    assert await run(sessions, "SELECT count(*) FROM mine.outbox_message") == 0


async def test_updated_at_is_kept_from_any_search_path(sessions: Sessions) -> None:
    """The triggers name what they use with its schema too."""
    await run(
        sessions,
        "CREATE SCHEMA mine",
        "CREATE FUNCTION mine.now() RETURNS timestamptz LANGUAGE sql AS $$ SELECT 'epoch'::timestamptz $$",
        "INSERT INTO project (name) VALUES ('x')",
        "SET LOCAL search_path = mine, pg_catalog",
        "UPDATE public.project SET name = 'y'",
    )
    assert await run(sessions, "SELECT updated_at > '2020-01-01' FROM project")


async def test_a_role_that_may_only_call_it_can_enqueue(postgresql_url: URL) -> None:
    """EXECUTE, and USAGE of the schema, are the rights that it needs; without EXECUTE, it is refused."""
    admin = await connected(postgresql_url)
    try:
        await admin.execute(f"DROP ROLE IF EXISTS {LONELY}")
        await admin.execute(f"CREATE ROLE {LONELY}; GRANT USAGE ON SCHEMA ledgerq TO {LONELY}")
        await admin.execute(f"SET ROLE {LONELY}")
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="enqueue_job"):
            await admin.execute(CALL)
        await admin.execute("RESET ROLE")
        await admin.execute(f"GRANT EXECUTE ON FUNCTION ledgerq.enqueue_job TO {LONELY}")
        await admin.execute(f"SET ROLE {LONELY}")
        await admin.execute(CALL)
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await admin.execute("SELECT * FROM ledgerq.outbox_message")
        await admin.execute("RESET ROLE")
        assert await admin.fetchval("SELECT count(*) FROM ledgerq.outbox_message") == 1
    finally:
        await admin.execute(f"RESET ROLE; DROP OWNED BY {LONELY}; DROP ROLE {LONELY}")
        await admin.close()


async def test_a_migration_by_an_ordinary_role_keeps_callers_and_finds_its_schema(
    empty_postgresql_url: URL,
) -> None:
    """In a schema of its own, without superuser; who could write the outbox before may call it now."""
    admin = await connected(empty_postgresql_url)
    roles = owner, writer, reader = own("app_owner"), own("app_writer"), own("app_reader")
    try:
        await admin.execute("".join(f"DROP ROLE IF EXISTS {role};" for role in roles))
        await admin.execute(
            f"CREATE ROLE {owner} LOGIN; CREATE ROLE {writer}; CREATE ROLE {reader}"
        )
        await admin.execute(f'CREATE SCHEMA "My App" AUTHORIZATION {owner}')
        name = empty_postgresql_url.database
        await admin.execute(f'GRANT CREATE ON DATABASE "{name}" TO {owner}')
        await admin.execute(f'ALTER ROLE {owner} SET search_path = "My App"')
        config = DatabaseConfig(url=empty_postgresql_url.set(username=owner))
        await asyncio.to_thread(migrate, config, "0004")
        await admin.execute(
            f'GRANT INSERT, SELECT ON "My App".outbox_message TO {writer}; '
            f'GRANT SELECT ON "My App".outbox_message TO {reader}'
        )
        await asyncio.to_thread(migrate, config)
        await admin.execute(f'GRANT USAGE ON SCHEMA "My App" TO {writer}, {reader}')
        for role, may in ((writer, True), (reader, False)):
            await admin.execute(f"SET ROLE {role}")
            call = CALL.replace("ledgerq", '"My App"')  # as before, and as it is now
            if may:
                await admin.execute(call)
                await admin.execute(CALL)
            else:
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await admin.execute(call)
            await admin.execute("RESET ROLE")
        assert await admin.fetchval("SELECT count(*) FROM ledgerq.outbox_message") == 2
    finally:
        await admin.execute("RESET ROLE")
        for role in roles:
            await admin.execute(f"DROP OWNED BY {role} CASCADE; DROP ROLE {role}")
        await admin.close()


DEEP = json.dumps(json.loads('{"a": ' + "[" * 300 + "]" * 300 + "}"))


REFUSED = [
    *(
        (field, f"'create_project', '{{}}', {field} => {value}")
        for field, most in (
            ("actor", 200),
            ("ordering_key", 200),
            ("queue", 200),
            ("trace_id", 64),
            ("job_id", 200),
        )
        for value in (
            "''",
            f"repeat('x', {most + 1})",
            "E'a\\x1bb'",
            "E'a\\u0085b'",  # C1
            "E'a\\u2028b'",
            "E'a\\u202eb'",  # right to left from here
            "E'a\\u200bb'",
            "E'a\\u00a0b'",
            "E'a\\ufeffb'",
            "E'a\\ue000b'",
            "E'a\\U000e0041b'",
            "E'a\\uffffb'",
        )
    ),
    ("kind", "NULL"),
    ("kind", "''"),
    ("kind", "repeat('x', 101)"),
    ("kind", "E'a\\tb'"),
    ("kind", "E'a\\u2066b'"),
    ("kind", "'cron:create_project'"),
    ("run_at", "'create_project', '{}', run_at => 'infinity'"),
    ("run_at", "'create_project', '{}', run_at => '-infinity'"),
    ("run_at", "'create_project', '{}', run_at => now() + interval '11 years'"),
    ("payload", "'create_project', NULL"),
    ("payload", "'create_project', '[]'"),
    ("payload", "'create_project', 'null'"),
    ("payload", "'create_project', '{\"_actor\": \"root\"}'"),
    ("payload", "'create_project', '{\"_staged\": \"1\"}'"),
    ("payload", "'create_project', '{\"n\": 1e400}'"),
    ("payload", "'create_project', '{\"n\": {\"m\": [-1e5000]}}'"),
    ("payload", f"'create_project', '{DEEP}'"),
    ("payload", "'create_project', jsonb_build_object('n', repeat('x', 900000))"),
]


async def test_what_no_worker_could_run_is_refused_by_its_field(sessions: Sessions) -> None:
    """With SQLSTATE 22023 and the name of the argument first; nothing is staged."""
    for field, arguments in REFUSED:
        state, problem = await refusal(sessions, arguments)
        assert (state, problem.partition(": ")[0]) == ("22023", field), arguments[:200]
    assert await count(sessions, OutboxMessage) == 0


async def test_what_sql_takes_a_worker_can_read(sessions: Sessions) -> None:
    """The limits themselves, and every sort of printable text."""
    most = 900_000 - len('{"n":""}')
    deepest = "[" * 198 + "1" + "]" * 198
    for arguments in (
        "'create_project', '{}', repeat('ü', 200), repeat('移', 200), ordering_key => '🛠 ~'",
        "'create_project', '{}', trace_id => repeat('x', 64)",
        "repeat('k', 100), '{}'",
        "'create_project', '{}', actor => NULL, run_at => NULL, job_id => NULL",
        "'create_project', '{}', run_at => now() + interval '3649 days'",
        "'create_project', '{}', run_at => '4000-01-01 BC'",
        f"'create_project', jsonb_build_object('n', repeat('x', {most}))",
        "'create_project', jsonb_build_object('n', (SELECT jsonb_agg(1) FROM generate_series(1, 440000)))",
        f"'create_project', jsonb_build_object('n', '{deepest}'::jsonb)",
        "'create_project', '{\"n\": [1e307, 1e-400, -0.1, \"1e400\"]}'",
        "'create_project', jsonb_build_object('n', repeat('1', 400))",
        "'create_project', '{}', queue => repeat('ü', 200)",
    ):
        await run(sessions, f"SELECT ledgerq.enqueue_job({arguments})")
    for message in await rows(sessions, OutboxMessage):
        envelope = Envelope(
            message.kind, message.payload, message.actor, message.trace_id, staged=True
        )
        assert decode(encode(envelope)).actor == message.actor
        assert message.next_dispatch_at > datetime.now(UTC) - timedelta(minutes=5)


async def test_sql_takes_no_character_that_a_worker_does_not_print(sessions: Sessions) -> None:
    """Every character there is: what `isprintable` refuses, whatever its Unicode knows, SQL refuses."""
    characters = [chr(n) for n in range(1, 0x110000) if not 0xD800 <= n <= 0xDFFF]
    async with sessions() as session:
        taken = await session.scalars(
            text("SELECT c FROM unnest(CAST(:all AS text[])) AS c WHERE c !~ :pattern"),
            {"all": characters, "pattern": UNPRINTABLE},
        )
        known, printed = set(taken), set(filter(str.isprintable, characters))
    assert known <= printed
    assert known == printed or unicodedata.unidata_version != "14.0.0"


@pytest.mark.parametrize("unknown", ["\u0378", "\U0001fae8", "\U000e0fff", "\U0003ffff"])
async def test_an_id_that_a_worker_would_bury_under_another_one_is_refused(
    sessions: Sessions, unknown: str
) -> None:
    """A character that an older Unicode does not assign, in whatever names the job or who asks."""
    for field, arguments in (
        ("kind", f"'{unknown}', '{{}}'"),
        ("job_id", f"'create_project', '{{}}', '{unknown}'"),
        ("actor", f"'create_project', '{{}}', actor => '{unknown}'"),
        ("ordering_key", f"'create_project', '{{}}', ordering_key => '{unknown}'"),
        ("queue", f"'create_project', '{{}}', queue => '{unknown}'"),
        ("trace_id", f"'create_project', '{{}}', trace_id => '{unknown}'"),
    ):
        state, problem = await refusal(sessions, arguments)
        assert (state, problem.partition(": ")[0]) == ("22023", field)
    assert await count(sessions, OutboxMessage) == 0


async def test_the_ids_that_sql_makes_begin_with_the_time(sessions: Sessions) -> None:
    """UUIDs of version 7, as Python makes them, so both sort together."""
    await run(sessions, "SELECT count(ledgerq.enqueue_job('x')) FROM generate_series(1, 50)")
    async with transaction(sessions) as session:
        late = (await stage(session, CreateProject(name="x"))).job_id
    staged = await rows(sessions, OutboxMessage)
    ids = [each.job_id for each in sorted(staged, key=lambda each: each.seq)]
    assert {(UUID(each).version, UUID(each).variant) for each in ids} == {(7, RFC_4122)}
    assert ids == sorted(set(ids))
    assert ids[-1] == late
    assert {len(each) for each in ids} == {32}
    assert abs(time_of_id(ids[0]) - time.time()) < timedelta(minutes=1).total_seconds()


async def test_an_ended_jobs_id_stages_nothing_new(sessions: Sessions) -> None:
    """As Python's `stage`: the id is answered, no message is left to run as a duplicate."""
    hashed = Request(CreateProject(name="x")).envelope.payload_hash
    async with transaction(sessions) as session:
        for state in JobState:
            await inbox.insert_receipt(session, state.value, "create_project", hashed, state=state)
        await inbox.insert_receipt(session, "unknown", "unknown", b"", state=JobState.CANCELLED)
    for job_id in (*JobState, "unknown"):
        call = f"SELECT ledgerq.enqueue_job('create_project', '{{\"name\": \"x\"}}', '{job_id}')"
        assert await run(sessions, call) == job_id
    assert await count(sessions, OutboxMessage) == 0
    for other in ("'create_task', '{\"name\": \"x\"}'", "'create_project', '{\"name\": \"y\"}'"):
        code, problem = await refusal(sessions, f"{other}, 'done'")
        assert code == "23505"
        assert problem.startswith("job_id: done has ended with another payload")


async def test_sql_tells_a_payload_that_has_ended_from_another(sessions: Sessions) -> None:
    """By the hash that Python keeps, whatever the order of keys and the spelling of numbers."""
    payload = {
        "ü": [1.5, 1e16, -0.0, 0.1, 10**30, True, None],
        "a": {"b": 'q"\\/\n\x01\u2028🛠', "B": {}},
    }
    async with transaction(sessions) as session:
        hashed = Envelope("k", payload).payload_hash
        await inbox.insert_receipt(session, "ended", "k", hashed)
        small = Envelope("k", {"n": 1e-7}).payload_hash
        await inbox.insert_receipt(session, "small", "k", small)
    turned = dict(reversed(payload.items()))
    spelt = json.dumps(turned).replace("1.5", "1.500").replace("'", "''")
    assert await run(sessions, f"SELECT ledgerq.enqueue_job('k', '{spelt}', 'ended')") == "ended"
    other = spelt.replace("0.1", "0.10000001")
    assert (await refusal(sessions, f"'k', '{other}', 'ended'"))[0] == "23505"
    # a number that Python may write in another way: not to be told apart
    assert (
        await run(sessions, "SELECT ledgerq.enqueue_job('k', '{\"n\": 1e-7}', 'small')") == "small"
    )
    assert await count(sessions, OutboxMessage) == 0


async def test_a_caller_that_meets_the_jobs_end_stages_nothing_new(sessions: Sessions) -> None:
    """It waits for the worker's commit, and then finds the job ended."""
    call = "SELECT ledgerq.enqueue_job('create_project', '{\"name\": \"x\"}', 'once')"
    await run(sessions, call)
    async with transaction(sessions) as worker:
        hashed = Request(CreateProject(name="x")).envelope.payload_hash
        await inbox.insert_receipt(worker, "once", "create_project", hashed)
        await outbox.remove(worker, ["once"])
        caller = asyncio.create_task(run(sessions, call))
        while not await waiting_for_a_lock(sessions, "SELECT ledgerq.enqueue_job"):
            await asyncio.sleep(0.01)
    assert await caller == "once"
    assert await count(sessions, OutboxMessage) == 0


async def test_two_callers_of_one_id_stage_one_job(sessions: Sessions) -> None:
    """The second waits for the first one's commit: the same job, or another payload."""
    first, second, other = (
        f"SELECT ledgerq.enqueue_job('create_project', '{{\"name\": \"{name}\"}}', 'once')"
        for name in ("x", "x", "other")
    )
    async with transaction(sessions) as session:
        await session.execute(text(first))
        waiting = [asyncio.create_task(run(sessions, call)) for call in (second, other)]
        while not await waiting_for_a_lock(sessions, "SELECT ledgerq.enqueue_job"):
            await asyncio.sleep(0.01)
    same, another = await asyncio.gather(*waiting, return_exceptions=True)
    assert same == "once"
    assert isinstance(another, asyncpg.UniqueViolationError)
    assert await count(sessions, OutboxMessage) == 1


async def test_a_refusal_in_plpgsql_is_caught_and_leaves_the_rest(sessions: Sessions) -> None:
    """A caller's function may go on after it; what it staged before stays."""
    await run(
        sessions,
        """
        DO $$ BEGIN
            PERFORM ledgerq.enqueue_job('create_project', '{"name": "x"}', 'kept');
            BEGIN
                PERFORM ledgerq.enqueue_job('create_project', '{"name": "x"}', 'lost');
                PERFORM ledgerq.enqueue_job('create_project', '[]');
            EXCEPTION WHEN invalid_parameter_value THEN NULL;
            END;
        END $$
        """,
    )
    assert [m.job_id for m in await rows(sessions, OutboxMessage)] == ["kept"]


async def test_python_refuses_what_sql_refuses(any_sessions: Sessions) -> None:
    """The same fields by the same rules, before anything is written."""
    launch = CreateProject(name="x")
    for field, options in (
        ("actor", {"actor": ""}),
        ("actor", {"actor": "a\x1bb"}),
        ("trace_id", {"trace_id": ""}),
        ("trace_id", {"trace_id": "a\u2028b"}),
        ("ordering_key", {"ordering_key": "a\u202eb"}),
        ("delay", {"delay": timedelta.max}),
        ("delay", {"delay": timedelta(seconds=-1)}),
    ):
        async with any_sessions() as session:
            with pytest.raises(JobError) as caught:
                await stage(session, launch, **options)
        assert caught.value.problems[0].field == field
    assert await count(any_sessions, OutboxMessage) == 0


async def test_down_again_the_old_function_is_back(empty_postgresql_url: URL) -> None:
    """Step by step from the first tables to the last 0.1, and one step down: as it was, for everybody."""
    config = DatabaseConfig(url=empty_postgresql_url)
    for revision in ("0001", "0002", "0003", "0004"):
        await asyncio.to_thread(migrate, config, revision)
    admin = await connected(empty_postgresql_url)
    try:
        (as_it_was,) = await admin.fetch(DEFINITION)
        await asyncio.to_thread(migrate, config, "0006")
        (head,) = await admin.fetch(DEFINITION)
        assert head["prosecdef"]
        await asyncio.to_thread(command.downgrade, alembic_config(config), "0004")
        (found,) = await admin.fetch(DEFINITION)
        assert found["anybody"]
        assert dict(found) == dict(as_it_was)
    finally:
        await admin.close()
