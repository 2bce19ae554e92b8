"""What runs it: the queue on Redis, the worker process, the command line. Knows jobs and db."""
