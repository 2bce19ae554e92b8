-- Takes version 4 back on SQLite.

DELETE FROM schema_version WHERE version = 4;
