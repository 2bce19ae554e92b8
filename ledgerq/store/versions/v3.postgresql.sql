-- Version 3: enqueue_job makes ids that begin with the time. Frozen: a change is a new version.

-- as ledgerq/wire/new_id.py: a UUID of version 7, with 4096 ticks to a millisecond
CREATE OR REPLACE FUNCTION ledgerq.new_job_id() RETURNS text
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $body$
    SELECT overlay(
        lpad(to_hex(floor(extract(epoch FROM clock_timestamp()) * 4096000)::bigint), 15, '0')
            || replace(substr(gen_random_uuid()::text, 20), '-', '')
        PLACING '7' FROM 13 FOR 0
    )
$body$;

REVOKE ALL ON FUNCTION ledgerq.new_job_id() FROM PUBLIC;

-- enqueue_job runs as its owner, who may be another role than the one that migrates
DO $grant$
BEGIN
    EXECUTE format(
        'GRANT EXECUTE ON FUNCTION ledgerq.new_job_id() TO %s',
        (SELECT proowner::regrole FROM pg_proc
         WHERE oid = 'ledgerq.enqueue_job(text, jsonb, text, text, timestamptz, text, text, text)'::regprocedure)
    );
END $grant$;

-- the rest of the function stays as version 1 has it
DO $time_ordered$
BEGIN
    EXECUTE replace(
        pg_get_functiondef(
            'ledgerq.enqueue_job(text, jsonb, text, text, timestamptz, text, text, text)'::regprocedure
        ),
        $was$replace(gen_random_uuid()::text, '-', '')$was$, 'ledgerq.new_job_id()'
    );
END $time_ordered$;

INSERT INTO ledgerq.schema_version (version, code_from) VALUES (3, 1) ON CONFLICT DO NOTHING;
