-- Version 4 for SQLite, which has no notices: nothing changes. Frozen.

INSERT INTO schema_version (version, code_from) VALUES (4, 1) ON CONFLICT DO NOTHING;
