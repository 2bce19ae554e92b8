-- Version 2: the steps of jobs that work outside of the database. Frozen: a change is a new version.

CREATE TABLE IF NOT EXISTS ledgerq.job_step (
    job_id varchar(200) NOT NULL,
    name varchar(100) NOT NULL,
    state varchar(20) NOT NULL,
    payload_hash bytea NOT NULL,
    result jsonb,
    error text,
    attempt integer NOT NULL,
    worker varchar(200),
    begun_at timestamp with time zone NOT NULL,
    changed_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT pk_job_step PRIMARY KEY (job_id, name),
    CONSTRAINT ck_job_step_state CHECK (state IN ('begun', 'open', 'done'))
);

CREATE TABLE IF NOT EXISTS ledgerq.job_progress (
    job_id varchar(200) NOT NULL,
    done bigint NOT NULL,
    total bigint,
    note varchar(200),
    at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT pk_job_progress PRIMARY KEY (job_id)
);

-- who writes receipts writes steps too
DO $grants$
DECLARE
    granted record;
BEGIN
    FOR granted IN
        SELECT right_of.grantee, string_agg(right_of.privilege_type, ', ') AS privileges
        FROM pg_class, aclexplode(relacl) AS right_of
        WHERE oid = 'ledgerq.processed_job'::regclass AND right_of.grantee <> relowner
            AND right_of.privilege_type IN ('SELECT', 'INSERT', 'UPDATE', 'DELETE')
        GROUP BY right_of.grantee
    LOOP
        EXECUTE format(
            'GRANT %s ON ledgerq.job_step, ledgerq.job_progress TO %s', granted.privileges,
            CASE granted.grantee WHEN 0 THEN 'PUBLIC' ELSE granted.grantee::regrole::text END
        );
    END LOOP;
END $grants$;

INSERT INTO ledgerq.schema_version (version, code_from) VALUES (2, 1) ON CONFLICT DO NOTHING;
