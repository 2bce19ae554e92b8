"""The demonstration: real jobs from one process, through Redis and a worker, into PostgreSQL, then counted."""
