-- Takes version 1 back: the tables go, and what they hold.

DROP FUNCTION IF EXISTS ledgerq.enqueue_job(text, jsonb, text, text, timestamptz, text, text, text);

DROP FUNCTION IF EXISTS ledgerq.canonical_payload(jsonb);

DROP TABLE IF EXISTS ledgerq.outbox_message, ledgerq.processed_job, ledgerq.dead_letter, ledgerq.unique_key,
    ledgerq.audit_log, ledgerq.schema_version;

DROP FUNCTION IF EXISTS ledgerq.outbox_message_notify();

DROP FUNCTION IF EXISTS ledgerq.audit_log_refuse();

-- fails if something of others stands in it: that must go first
DROP SCHEMA IF EXISTS ledgerq;
