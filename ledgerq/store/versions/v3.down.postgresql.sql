-- Takes version 3 back: enqueue_job makes random ids again.

DO $random$
BEGIN
    EXECUTE replace(
        pg_get_functiondef(
            'ledgerq.enqueue_job(text, jsonb, text, text, timestamptz, text, text, text)'::regprocedure
        ),
        'ledgerq.new_job_id()', $was$replace(gen_random_uuid()::text, '-', '')$was$
    );
END $random$;

DROP FUNCTION IF EXISTS ledgerq.new_job_id();

DELETE FROM ledgerq.schema_version WHERE version = 3;
