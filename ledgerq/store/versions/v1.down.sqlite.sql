-- Takes version 1 back: the tables go, and what they hold.

DROP TABLE IF EXISTS outbox_message;

DROP TABLE IF EXISTS processed_job;

DROP TABLE IF EXISTS dead_letter;

DROP TABLE IF EXISTS unique_key;

DROP TABLE IF EXISTS audit_log;

DROP TABLE IF EXISTS schema_version;
