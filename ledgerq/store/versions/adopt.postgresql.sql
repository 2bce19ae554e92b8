-- Moves the tables of version 0.1 from where they stand; where there are none, or all is done, nothing happens.
-- Rows are not written again, but for those of an audit log whose ids are numbers yet.

DO $adopt$
DECLARE
    old regnamespace;
    each text;
    of_role record;
BEGIN
    IF to_regclass('ledgerq.schema_version') IS NOT NULL THEN
        RETURN;
    END IF;
    SELECT outbox.relnamespace INTO old FROM pg_class AS outbox
    WHERE outbox.relname = 'outbox_message' AND outbox.relkind = 'r'
        AND EXISTS (
            SELECT FROM pg_trigger AS notifies
            WHERE notifies.tgrelid = outbox.oid AND notifies.tgname = 'outbox_message_notify'
        )
        AND NOT EXISTS (
            SELECT FROM pg_class AS newer
            WHERE newer.relnamespace = outbox.relnamespace AND newer.relname = 'schema_version'
        )
    ORDER BY pg_table_is_visible(outbox.oid) DESC, outbox.relnamespace LIMIT 1;
    IF old IS NULL THEN
        RETURN;
    END IF;
    IF to_regprocedure(old::text || '.canonical_payload(jsonb)') IS NULL THEN
        RAISE EXCEPTION 'the tables in schema % are older than the last version 0.1', old
            USING HINT = 'run the migrations of version 0.1 first, up to 0005';
    END IF;
    IF to_regnamespace('ledgerq') IS NULL THEN
        CREATE SCHEMA ledgerq;
    END IF;
    EXECUTE format('ALTER TABLE %s.outbox_message ADD COLUMN IF NOT EXISTS queue varchar(200)', old);
    EXECUTE format('ALTER TABLE %s.dead_letter ADD COLUMN IF NOT EXISTS queue varchar(200)', old);
    IF EXISTS (
        SELECT FROM pg_attribute WHERE attname = 'entity_id' AND atttypid = 'bigint'::regtype
            AND attrelid = (old::text || '.audit_log')::regclass
    ) THEN
        EXECUTE format(
            'ALTER TABLE %s.audit_log DROP CONSTRAINT ck_audit_log_action, '
            'ALTER entity_type TYPE varchar(128), ALTER entity_id TYPE varchar(200), '
            'ALTER action TYPE varchar(50)', old
        );
    END IF;
    FOREACH each IN ARRAY ARRAY['outbox_message', 'processed_job', 'dead_letter', 'unique_key', 'audit_log']
    LOOP
        IF old <> 'ledgerq'::regnamespace THEN
            EXECUTE format('ALTER TABLE %s.%I SET SCHEMA ledgerq', old, each);
        END IF;
    END LOOP;
    FOREACH each IN ARRAY ARRAY['audit_log_refuse()', 'outbox_message_notify()', 'canonical_payload(jsonb)']
    LOOP
        IF old <> 'ledgerq'::regnamespace THEN
            EXECUTE format('ALTER FUNCTION %s.%s SET SCHEMA ledgerq', old, each);
        END IF;
    END LOOP;
    -- who had a right to anything of it keeps the right, and needs the schema for it
    FOR of_role IN
        SELECT DISTINCT CASE right_of.grantee WHEN 0 THEN 'PUBLIC' ELSE right_of.grantee::regrole::text END AS name
        FROM (
            SELECT coalesce(relacl, acldefault('r', relowner)) AS acl FROM pg_class
            WHERE relnamespace = 'ledgerq'::regnamespace AND relkind IN ('r', 'S')
            UNION ALL SELECT attacl FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
            WHERE relnamespace = 'ledgerq'::regnamespace
            UNION ALL SELECT proacl FROM pg_proc WHERE pronamespace = old AND proname = 'enqueue_job'
        ) AS rights, aclexplode(rights.acl) AS right_of
    LOOP
        EXECUTE format('GRANT USAGE ON SCHEMA ledgerq TO %s', of_role.name);
    END LOOP;
    PERFORM set_config('ledgerq_adoption.schema', old::text, false);
END $adopt$;
