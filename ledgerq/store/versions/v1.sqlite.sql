-- Version 1 for SQLite, which has one schema, no enqueue_job and no roles. Frozen: a change is a new version.

CREATE TABLE IF NOT EXISTS schema_version (
    version INTEGER NOT NULL,
    code_from INTEGER NOT NULL,
    applied_at DATETIME DEFAULT (strftime('%Y-%m-%d %H:%M:%f000', 'now')) NOT NULL,
    CONSTRAINT pk_schema_version PRIMARY KEY (version)
);

CREATE TABLE IF NOT EXISTS outbox_message (
    seq INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    job_id VARCHAR(200) NOT NULL,
    kind VARCHAR(100) NOT NULL,
    payload JSON NOT NULL,
    actor VARCHAR(200) NOT NULL,
    trace_id VARCHAR(64),
    ordering_key VARCHAR(200),
    queue VARCHAR(200),
    next_dispatch_at DATETIME DEFAULT (strftime('%Y-%m-%d %H:%M:%f000', 'now')) NOT NULL,
    dispatches INTEGER DEFAULT 0 NOT NULL,
    created_at DATETIME DEFAULT (strftime('%Y-%m-%d %H:%M:%f000', 'now')) NOT NULL,
    CONSTRAINT uq_outbox_message_job_id UNIQUE (job_id)
);

CREATE INDEX IF NOT EXISTS ix_outbox_message_due ON outbox_message (next_dispatch_at, seq);

CREATE INDEX IF NOT EXISTS ix_outbox_message_ordering ON outbox_message (ordering_key, seq);

CREATE TABLE IF NOT EXISTS processed_job (
    job_id VARCHAR(200) NOT NULL,
    kind VARCHAR(100) NOT NULL,
    payload_hash BLOB NOT NULL,
    result JSON,
    state VARCHAR(20) DEFAULT 'done' NOT NULL,
    attempt INTEGER,
    processed_at DATETIME DEFAULT (strftime('%Y-%m-%d %H:%M:%f000', 'now')) NOT NULL,
    CONSTRAINT pk_processed_job PRIMARY KEY (job_id),
    CONSTRAINT ck_processed_job_state CHECK (state IN ('done', 'cancelled', 'dead'))
);

CREATE INDEX IF NOT EXISTS ix_processed_job_processed_at ON processed_job (processed_at);

CREATE TABLE IF NOT EXISTS dead_letter (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    job_id VARCHAR(200) NOT NULL,
    kind VARCHAR(100),
    payload JSON,
    raw BLOB,
    actor VARCHAR(200),
    trace_id VARCHAR(64),
    reason VARCHAR(50) NOT NULL,
    error TEXT NOT NULL,
    problems JSON,
    traceback TEXT,
    attempt INTEGER NOT NULL,
    attempts JSON,
    worker VARCHAR(200),
    fingerprint VARCHAR(16),
    queue VARCHAR(200),
    buried_at DATETIME DEFAULT (strftime('%Y-%m-%d %H:%M:%f000', 'now')) NOT NULL,
    CONSTRAINT uq_dead_letter_job_id UNIQUE (job_id)
);

CREATE INDEX IF NOT EXISTS ix_dead_letter_buried_at ON dead_letter (buried_at);

CREATE INDEX IF NOT EXISTS ix_dead_letter_fingerprint ON dead_letter (fingerprint);

CREATE TABLE IF NOT EXISTS unique_key (
    kind VARCHAR(100) NOT NULL,
    "key" VARCHAR(200) NOT NULL,
    job_id VARCHAR(200) NOT NULL,
    expires_at DATETIME NOT NULL,
    CONSTRAINT pk_unique_key PRIMARY KEY (kind, "key")
);

CREATE INDEX IF NOT EXISTS ix_unique_key_expires_at ON unique_key (expires_at);

CREATE INDEX IF NOT EXISTS ix_unique_key_job_id ON unique_key (job_id);

CREATE TABLE IF NOT EXISTS audit_log (
    id INTEGER NOT NULL,
    entity_type VARCHAR(128) NOT NULL,
    entity_id VARCHAR(200) NOT NULL,
    action VARCHAR(50) NOT NULL,
    actor VARCHAR(200) NOT NULL,
    "before" JSON NOT NULL,
    "after" JSON NOT NULL,
    job_id VARCHAR(200),
    kind VARCHAR(100),
    attempt INTEGER,
    trace_id VARCHAR(64),
    at DATETIME DEFAULT (strftime('%Y-%m-%d %H:%M:%f000', 'now')) NOT NULL,
    CONSTRAINT pk_audit_log PRIMARY KEY (id)
);

CREATE INDEX IF NOT EXISTS ix_audit_log_entity ON audit_log (entity_type, entity_id, id);

CREATE INDEX IF NOT EXISTS ix_audit_log_job_id ON audit_log (job_id);

CREATE TRIGGER IF NOT EXISTS audit_log_no_update BEFORE UPDATE ON audit_log
BEGIN SELECT RAISE(ABORT, 'audit_log is append-only: UPDATE refused'); END;

CREATE TRIGGER IF NOT EXISTS audit_log_no_delete BEFORE DELETE ON audit_log
BEGIN SELECT RAISE(ABORT, 'audit_log is append-only: DELETE refused'); END;

-- INSERT OR REPLACE deletes the old row without firing its DELETE trigger
CREATE TRIGGER IF NOT EXISTS audit_log_no_replace BEFORE INSERT ON audit_log
WHEN EXISTS (SELECT 1 FROM audit_log WHERE id = NEW.id)
BEGIN SELECT RAISE(ABORT, 'audit_log is append-only: REPLACE refused'); END;

INSERT INTO schema_version (version, code_from) VALUES (1, 1) ON CONFLICT DO NOTHING;
