-- The functions that `ledgerq audit attach` creates beside the triggers. Each statement ends with a semicolon and an
-- empty line. The limits are those of ledgerq/store/entities.py: 200 characters of a key, 10000 of a value.

-- A row's key as text: see `key_text`.
CREATE OR REPLACE FUNCTION ledgerq.audit_key(held jsonb, columns text[]) RETURNS text
LANGUAGE sql IMMUTABLE AS $body$
    SELECT CASE WHEN length(whole) <= 200 THEN whole
        ELSE left(whole, 167) || '…' || left(encode(sha256(convert_to(whole, 'UTF8')), 'hex'), 32) END
    FROM (
        SELECT CASE WHEN array_length(columns, 1) = 1 THEN coalesce(held ->> columns[1], '')
            ELSE string_agg(
                coalesce(replace(replace(held ->> part, '\', '\\'), ',', '\,'), '\N'), ',' ORDER BY place
            ) END AS whole
        FROM unnest(columns) WITH ORDINALITY AS parts(part, place)
    ) AS texts
$body$;

-- The values of a row that differ from its other version; if there is no other version, all values but null.
CREATE OR REPLACE FUNCTION ledgerq.audit_values(held jsonb, other jsonb, masked text[]) RETURNS jsonb
LANGUAGE sql IMMUTABLE AS $body$
    SELECT coalesce(jsonb_object_agg(field, CASE
        WHEN value = 'null' THEN value
        WHEN field = ANY (masked) THEN to_jsonb('***'::text)
        WHEN length(value #>> '{}') <= 10000 THEN value
        ELSE to_jsonb(left(value #>> '{}', 10000 - length(note)) || note) END), '{}')
    FROM jsonb_each(held) AS fields(field, value), LATERAL (
        SELECT '… (' || ltrim(to_char(length(value #>> '{}'), '999,999,999,999')) || ' characters)' AS note
    ) AS notes
    WHERE CASE WHEN other IS NULL THEN value <> 'null' ELSE value IS DISTINCT FROM other -> field END
$body$;

-- The trigger's function. It runs with its owner's rights, so a role that may change the table needs no right to write
-- the log. No other role may execute it, that is, make a trigger of it: it could write false entries.
-- Only in `pg_catalog.to_jsonb(r.*)` can a name be that of a column of the table, and none of its names is looked up as
-- one: `r.*` is the whole row even if there is a column r, and a function with its schema is never a column.
CREATE OR REPLACE FUNCTION ledgerq.audit_write_rows() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' AS $body$
DECLARE
    origin jsonb := nullif(current_setting('ledgerq.origin', true), '');
    author text := coalesce(origin ->> 'actor', left('database:' || session_user, 200));
    attempt integer := origin ->> 'attempt';
    keys text[] := TG_ARGV[1];
    masked text[] := TG_ARGV[2];
    excluded text[] := TG_ARGV[3];
    missing text;  -- version of ledgerq's audit triggers: 4 (raise it with each change of a function in this file)
BEGIN
    -- a column that was renamed is not the one that was to be hidden, or is no longer the key
    SELECT name INTO missing FROM unnest(keys || masked || excluded) AS told(name) WHERE NOT EXISTS (
        SELECT FROM pg_attribute WHERE attrelid = TG_RELID AND attname = name AND attnum > 0 AND NOT attisdropped
    );
    IF missing IS NOT NULL THEN
        RAISE EXCEPTION '% is audited with a column %, which it does not have any more: run ledgerq audit attach % again',
            TG_TABLE_NAME, missing, TG_TABLE_NAME USING ERRCODE = 'undefined_column';
    END IF;
    IF TG_OP = 'INSERT' THEN
        INSERT INTO ledgerq.audit_log
            (entity_type, entity_id, action, actor, before, after, job_id, kind, attempt, trace_id)
        SELECT TG_ARGV[0], ledgerq.audit_key(held, keys), 'create', author,
            '{}', ledgerq.audit_values(held - excluded, NULL, masked),
            origin ->> 'job_id', origin ->> 'kind', attempt, origin ->> 'trace_id'
        FROM (SELECT pg_catalog.to_jsonb(r.*) AS held FROM new_rows AS r) AS rows_now;
    ELSIF TG_OP = 'DELETE' THEN
        INSERT INTO ledgerq.audit_log
            (entity_type, entity_id, action, actor, before, after, job_id, kind, attempt, trace_id)
        SELECT TG_ARGV[0], ledgerq.audit_key(held, keys), 'delete', author,
            ledgerq.audit_values(held - excluded, NULL, masked), '{}',
            origin ->> 'job_id', origin ->> 'kind', attempt, origin ->> 'trace_id'
        FROM (SELECT pg_catalog.to_jsonb(r.*) AS held FROM old_rows AS r) AS rows_before;
    ELSIF TG_OP = 'UPDATE' THEN  -- a row that gets another key is gone under its old one
        INSERT INTO ledgerq.audit_log
            (entity_type, entity_id, action, actor, before, after, job_id, kind, attempt, trace_id)
        SELECT TG_ARGV[0], key, action, author, before, after,
            origin ->> 'job_id', origin ->> 'kind', attempt, origin ->> 'trace_id'
        FROM (
            SELECT coalesce(o.key, n.key) AS key,
                CASE WHEN n.key IS NULL THEN 'delete' WHEN o.key IS NULL THEN 'create' ELSE 'update' END AS action,
                ledgerq.audit_values(o.held, n.held, masked) AS before,
                ledgerq.audit_values(n.held, o.held, masked) AS after
            FROM (
                SELECT ledgerq.audit_key(whole, keys) AS key, whole - excluded AS held
                FROM (SELECT pg_catalog.to_jsonb(r.*) AS whole FROM old_rows AS r) AS old_wholes
            ) AS o FULL JOIN (
                SELECT ledgerq.audit_key(whole, keys) AS key, whole - excluded AS held
                FROM (SELECT pg_catalog.to_jsonb(r.*) AS whole FROM new_rows AS r) AS new_wholes
            ) AS n ON o.key = n.key
        ) AS changed
        WHERE before <> '{}' OR after <> '{}'
        ORDER BY action <> 'delete';
    ELSE
        RAISE EXCEPTION '% is audited, and TRUNCATE leaves no entries: DELETE its rows, or detach it first with '
            'ledgerq audit detach %', TG_TABLE_NAME, TG_TABLE_NAME USING ERRCODE = 'insufficient_privilege';
    END IF;
    IF FOUND AND origin ? 'required' THEN  -- entries were inserted, by a session of ledgerq in which nobody acts
        RAISE EXCEPTION '% is audited, and nobody has said who changes it', TG_ARGV[0]
            USING ERRCODE = 'LQA01', TABLE = TG_ARGV[0];
    END IF;
    RETURN NULL;
END $body$;

REVOKE ALL ON FUNCTION ledgerq.audit_write_rows() FROM PUBLIC;
