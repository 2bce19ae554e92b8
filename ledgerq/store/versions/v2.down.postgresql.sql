-- Takes version 2 back: the steps go. A job that is under way does them again.

DROP TABLE IF EXISTS ledgerq.job_step, ledgerq.job_progress;

DELETE FROM ledgerq.schema_version WHERE version = 2;
