"""SQL from outside: enqueue_job from any search_path, for a role that may do nothing but call it.

Our functions name all that they use with its schema. `enqueue_job` refuses what no worker could run, and
runs as its owner: who could write the outbox before may call it now, nobody else. Unique keys are found
by their job.
"""

from alembic import context, op
from sqlalchemy import text

from ledgerq.alembic import UNPRINTABLE, create_index_concurrently, drop_index_concurrently

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

# kind and payload as `Envelope.payload_hash` writes them; a number that Python may write in another way is chr(1)
CANONICAL_PAYLOAD = r"""
CREATE OR REPLACE FUNCTION {schema}.canonical_payload(value jsonb) RETURNS text
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp SET extra_float_digits = 1 AS $body$
DECLARE
    number numeric;
BEGIN
    CASE jsonb_typeof(value)
    WHEN 'object' THEN
        RETURN '{' || coalesce((
            SELECT string_agg(
                to_json(field.key)::text || ':' || {schema}.canonical_payload(field.value), ','
                ORDER BY field.key COLLATE "C"
            ) FROM jsonb_each(canonical_payload.value) AS field
        ), '') || '}';
    WHEN 'array' THEN
        RETURN '[' || coalesce((
            SELECT string_agg({schema}.canonical_payload(element.value), ',' ORDER BY element.place)
            FROM jsonb_array_elements(canonical_payload.value)
                WITH ORDINALITY AS element(value, place)
        ), '') || ']';
    WHEN 'string' THEN
        RETURN to_json(value #>> '{}')::text;
    WHEN 'number' THEN
        number := trim_scale(value::numeric);
        IF scale(number) = 0 THEN
            RETURN number::text;
        ELSIF abs(number) < 0.0001 OR abs(number) >= 1e15 THEN
            RETURN chr(1);  -- Python may write it in another way
        END IF;
        RETURN number::float8::text;
    ELSE
        RETURN value::text;
    END CASE;
END $body$
"""
ENQUEUE_JOB = r"""
CREATE OR REPLACE FUNCTION {schema}.enqueue_job(
    kind text, payload jsonb DEFAULT '{}', job_id text DEFAULT NULL, actor text DEFAULT 'sql',
    run_at timestamptz DEFAULT NULL, ordering_key text DEFAULT NULL, trace_id text DEFAULT NULL
) RETURNS text LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $body$
#variable_conflict use_column
DECLARE
    unprintable CONSTANT text := $re${unprintable}$re$;
    id text := coalesce(enqueue_job.job_id, replace(gen_random_uuid()::text, '-', ''));
    author text := coalesce(enqueue_job.actor, 'sql');
    written text := enqueue_job.payload::text;
    is_new boolean;
    is_same boolean;
    ended record;
    known text;
BEGIN
    IF coalesce(length(enqueue_job.kind), 0) NOT BETWEEN 1 AND 100
        OR enqueue_job.kind ~ unprintable OR starts_with(enqueue_job.kind, 'cron:')
    THEN
        RAISE EXCEPTION 'kind: must have 1 to 100 characters, all printable, and not begin with cron:'
            USING ERRCODE = '22023';
    END IF;
    IF length(id) NOT BETWEEN 1 AND 200
        OR length(author) NOT BETWEEN 1 AND 200
        OR length(enqueue_job.ordering_key) NOT BETWEEN 1 AND 200
        OR length(enqueue_job.trace_id) NOT BETWEEN 1 AND 64
        OR concat(id, author, enqueue_job.ordering_key, enqueue_job.trace_id) ~ unprintable
    THEN
        RAISE EXCEPTION '%: must have 1 to % printable characters, or be null',
            CASE
                WHEN length(id) NOT BETWEEN 1 AND 200 OR id ~ unprintable THEN 'job_id'
                WHEN length(author) NOT BETWEEN 1 AND 200 OR author ~ unprintable THEN 'actor'
                WHEN length(enqueue_job.ordering_key) NOT BETWEEN 1 AND 200
                    OR enqueue_job.ordering_key ~ unprintable THEN 'ordering_key'
                ELSE 'trace_id'
            END,
            CASE
                WHEN length(id) NOT BETWEEN 1 AND 200 OR id ~ unprintable THEN 200
                WHEN length(author) NOT BETWEEN 1 AND 200 OR author ~ unprintable THEN 200
                WHEN length(enqueue_job.ordering_key) NOT BETWEEN 1 AND 200
                    OR enqueue_job.ordering_key ~ unprintable THEN 200
                ELSE 64
            END
            USING ERRCODE = '22023';
    END IF;
    IF NOT isfinite(enqueue_job.run_at) OR enqueue_job.run_at > now() + interval '3650 days' THEN
        RAISE EXCEPTION 'run_at: must be a time within the next 3650 days, or be null'
            USING ERRCODE = '22023';
    END IF;
    IF jsonb_typeof(enqueue_job.payload) IS DISTINCT FROM 'object' THEN
        RAISE EXCEPTION 'payload: must be a JSON object' USING ERRCODE = '22023';
    END IF;
    IF strpos(written, '"_') > 0 AND EXISTS (
        SELECT FROM jsonb_object_keys(enqueue_job.payload) AS name WHERE starts_with(name, '_')
    )
    THEN
        RAISE EXCEPTION 'payload: names that begin with _ are reserved' USING ERRCODE = '22023';
    END IF;
    IF octet_length(written) > 900000 THEN  -- written with blanks, which the wire has not
        IF octet_length(written) > 1500000 OR octet_length(
            regexp_replace(written, $re$("(?:[^"\\]|\\.)*")|\s+$re$, $re$\1$re$, 'g')
        ) > 900000 THEN
            RAISE EXCEPTION 'payload: must have at most 900000 bytes' USING ERRCODE = '22023';
        END IF;
    END IF;
    -- each opening bracket is one of the text; a number has all its digits in it
    IF octet_length(written) > 300 THEN
        IF octet_length(written) - octet_length(translate(written, '[{', '')) > 150
            AND jsonb_path_exists(enqueue_job.payload, '$.**{200}')
        THEN
            RAISE EXCEPTION 'payload: must be nested at most 200 deep' USING ERRCODE = '22023';
        END IF;
        IF written ~ '[0-9]{250}'
            AND jsonb_path_exists(enqueue_job.payload, 'strict $.** ? (@ >= 1e308 || @ <= -1e308)')
        THEN
            RAISE EXCEPTION 'payload: holds a number that is too large' USING ERRCODE = '22023';
        END IF;
    END IF;
    IF enqueue_job.ordering_key IS NOT NULL THEN
        PERFORM pg_advisory_xact_lock(hashtextextended(enqueue_job.ordering_key, 0));
    END IF;
    LOOP
        INSERT INTO {schema}.outbox_message
            (job_id, kind, payload, actor, trace_id, ordering_key, next_dispatch_at)
        VALUES (id, enqueue_job.kind, enqueue_job.payload, author, enqueue_job.trace_id,
            enqueue_job.ordering_key, greatest(enqueue_job.run_at, now()))
        ON CONFLICT (job_id) DO NOTHING;
        is_new := FOUND;
        IF is_new AND enqueue_job.job_id IS NULL THEN
            RETURN id;
        END IF;
        IF NOT is_new THEN
            is_same := NULL;
            SELECT staged.kind = enqueue_job.kind AND staged.payload = enqueue_job.payload
                INTO is_same FROM {schema}.outbox_message AS staged WHERE staged.job_id = id;
            IF is_same THEN
                RETURN id;
            ELSIF NOT is_same THEN
                RAISE EXCEPTION 'job_id: % is staged with another payload; use a new id for new work', id
                    USING ERRCODE = '23505';
            END IF;
        END IF;
        SELECT processed.kind, processed.payload_hash
            INTO ended FROM {schema}.processed_job AS processed WHERE processed.job_id = id;
        IF FOUND THEN
            IF is_new THEN  -- it has ended, so it is not to run once more
                DELETE FROM {schema}.outbox_message AS staged WHERE staged.job_id = id;
            END IF;
            -- of one that was never read no hash is known; of some numbers SQL can't tell it
            known := '[' || to_json(enqueue_job.kind)::text || ','
                || {schema}.canonical_payload(enqueue_job.payload) || ']';
            IF octet_length(ended.payload_hash) > 0 AND (
                ended.kind <> enqueue_job.kind OR strpos(known, chr(1)) = 0
                AND ended.payload_hash <> sha256(convert_to(known, 'UTF8'))
            ) THEN
                RAISE EXCEPTION 'job_id: % has ended with another payload; use a new id for new work', id
                    USING ERRCODE = '23505';
            END IF;
            RETURN id;
        ELSIF is_new THEN
            RETURN id;
        END IF;
    END LOOP;  -- the job ended between the looks: the next one sees how
END $body$
""".replace("{unprintable}", UNPRINTABLE)

MAY_CALL = """
DO $grants$
DECLARE
    granted record;
BEGIN
    REVOKE ALL ON FUNCTION {schema}.canonical_payload(jsonb) FROM PUBLIC;
    REVOKE ALL ON FUNCTION {schema}.enqueue_job(text, jsonb, text, text, timestamptz, text, text) FROM PUBLIC;
    FOR granted IN
        SELECT DISTINCT right_of.grantee FROM (
            SELECT relacl AS acl FROM pg_class WHERE oid = '{schema}.outbox_message'::regclass
            UNION ALL SELECT attacl FROM pg_attribute
            WHERE attrelid = '{schema}.outbox_message'::regclass
        ) AS rights, aclexplode(rights.acl) AS right_of WHERE right_of.privilege_type = 'INSERT'
    LOOP
        EXECUTE format(
            'GRANT EXECUTE ON FUNCTION {schema}.enqueue_job(text, jsonb, text, text, timestamptz, text, text) TO %s',
            CASE granted.grantee WHEN 0 THEN 'PUBLIC' ELSE granted.grantee::regrole::text END
        );
    END LOOP;
END $grants$
"""

TOUCH = """
CREATE OR REPLACE FUNCTION {schema}.touch_updated_at() RETURNS trigger LANGUAGE plpgsql AS $body$
BEGIN
    NEW.updated_at := pg_catalog.now();
    RETURN NEW;
END $body$
"""

NOTIFY = """
CREATE OR REPLACE FUNCTION {schema}.outbox_message_notify() RETURNS trigger LANGUAGE plpgsql AS $body$
BEGIN
    PERFORM pg_catalog.pg_notify('ledgerq_outbox', '');
    RETURN NULL;
END $body$
"""

OLD_TOUCH = TOUCH.replace("pg_catalog.now()", "now()")
OLD_NOTIFY = NOTIFY.replace("pg_catalog.pg_notify", "pg_notify")
DROP_CANONICAL = "DROP FUNCTION {schema}.canonical_payload(jsonb)"
ANYBODY = """
GRANT EXECUTE ON FUNCTION {schema}.enqueue_job(text, jsonb, text, text, timestamptz, text, text) TO PUBLIC
"""


IN_SCHEMA = """
DO $in_schema$
BEGIN
    EXECUTE replace($statement${statement}$statement$, '{schema}', (
        SELECT quote_ident(nspname) FROM pg_catalog.pg_namespace AS n
        JOIN pg_catalog.pg_class AS c ON c.relnamespace = n.oid
        WHERE c.oid = '{of_table}'::regclass
    ));
END $in_schema$
"""


def in_schema_of(table: str, statement: str) -> str:
    """The statement, in which `{schema}` is the one that the table stands in, whatever the search_path.

    Only the database knows it, and `--sql` writes a file without asking one: so the statement asks.
    """
    return IN_SCHEMA.replace("{of_table}", table).replace("{statement}", statement)


def on_postgresql() -> bool:
    return op.get_context().dialect.name == "postgresql"


def run(table: str, *statements: str) -> None:
    for statement in statements:
        op.execute(text(in_schema_of(table, statement).replace(":", r"\:")))


def upgrade() -> None:
    if on_postgresql():
        run("outbox_message", CANONICAL_PAYLOAD, ENQUEUE_JOB, MAY_CALL, NOTIFY)
        run("task", TOUCH)
    create_index_concurrently("ix_unique_key_job_id", "unique_key", ["job_id"])


def downgrade() -> None:
    drop_index_concurrently("ix_unique_key_job_id", "unique_key")
    if on_postgresql():
        as_before: str = context.script.get_revision("0003").module.ENQUEUE_JOB
        old = as_before.replace("CREATE FUNCTION ", "CREATE OR REPLACE FUNCTION {schema}.")
        run("outbox_message", old, ANYBODY, DROP_CANONICAL, OLD_NOTIFY)
        run("task", OLD_TOUCH)
