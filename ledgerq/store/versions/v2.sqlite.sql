-- Version 2 for SQLite. Frozen: a change is a new version.

CREATE TABLE IF NOT EXISTS job_step (
    job_id VARCHAR(200) NOT NULL,
    name VARCHAR(100) NOT NULL,
    state VARCHAR(20) NOT NULL,
    payload_hash BLOB NOT NULL,
    result JSON,
    error TEXT,
    attempt INTEGER NOT NULL,
    worker VARCHAR(200),
    begun_at DATETIME NOT NULL,
    changed_at DATETIME DEFAULT (strftime('%Y-%m-%d %H:%M:%f000', 'now')) NOT NULL,
    CONSTRAINT pk_job_step PRIMARY KEY (job_id, name),
    CONSTRAINT ck_job_step_state CHECK (state IN ('begun', 'open', 'done'))
);

CREATE TABLE IF NOT EXISTS job_progress (
    job_id VARCHAR(200) NOT NULL,
    done BIGINT NOT NULL,
    total BIGINT,
    note VARCHAR(200),
    at DATETIME DEFAULT (strftime('%Y-%m-%d %H:%M:%f000', 'now')) NOT NULL,
    CONSTRAINT pk_job_progress PRIMARY KEY (job_id)
);

INSERT INTO schema_version (version, code_from) VALUES (2, 1) ON CONFLICT DO NOTHING;
