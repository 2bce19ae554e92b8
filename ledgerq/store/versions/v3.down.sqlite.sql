-- Takes version 3 back on SQLite.

DELETE FROM schema_version WHERE version = 3;
