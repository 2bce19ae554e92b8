-- Version 3 for SQLite, which has no enqueue_job: nothing changes. Frozen.

INSERT INTO schema_version (version, code_from) VALUES (3, 1) ON CONFLICT DO NOTHING;
