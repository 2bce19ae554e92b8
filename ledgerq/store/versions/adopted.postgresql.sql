-- After version 1: who could call enqueue_job may call the new one, and the old name stays where callers look for it.

DO $adopted$
DECLARE
    old text := current_setting('ledgerq_adoption.schema', true);
    of_role record;
BEGIN
    IF coalesce(old, '') = '' THEN
        RETURN;
    END IF;
    FOR of_role IN
        SELECT DISTINCT CASE right_of.grantee WHEN 0 THEN 'PUBLIC' ELSE right_of.grantee::regrole::text END AS name
        FROM pg_proc, aclexplode(proacl) AS right_of
        WHERE pronamespace = old::regnamespace AND proname = 'enqueue_job' AND pronargs = 7
    LOOP
        EXECUTE format(
            'GRANT EXECUTE ON FUNCTION ledgerq.enqueue_job(text, jsonb, text, text, timestamptz, text, text, text) TO %s',
            of_role.name
        );
    END LOOP;
    IF old::regnamespace = 'ledgerq'::regnamespace THEN
        DROP FUNCTION IF EXISTS ledgerq.enqueue_job(text, jsonb, text, text, timestamptz, text, text);
    ELSE
        EXECUTE format($wrapper$
            CREATE OR REPLACE FUNCTION %s.enqueue_job(
                kind text, payload jsonb DEFAULT '{}', job_id text DEFAULT NULL, actor text DEFAULT 'sql',
                run_at timestamptz DEFAULT NULL, ordering_key text DEFAULT NULL, trace_id text DEFAULT NULL
            ) RETURNS text LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $body$
            BEGIN  -- the way in of version 0.1
                RETURN ledgerq.enqueue_job(kind, payload, job_id, actor, run_at, ordering_key, trace_id);
            END $body$
        $wrapper$, old);
    END IF;
    PERFORM set_config('ledgerq_adoption.schema', '', false);
END $adopted$;
