"""What kinds and queues may be called: they are printed, stored and typed."""

MAX_KIND = 100  # characters
MAX_QUEUE = 200
CRON_PREFIX = "cron:"  # before a kind, it marks a job of the schedule
