-- Takes version 2 back on SQLite.

DROP TABLE IF EXISTS job_step;

DROP TABLE IF EXISTS job_progress;

DELETE FROM schema_version WHERE version = 2;
