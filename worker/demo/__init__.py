"""The demo: one process enqueues jobs, a worker runs them on PostgreSQL, then the rows are counted."""
