"""Limits for the names of kinds and queues, and the prefix of jobs of the schedule."""

MAX_KIND = 100  # characters
MAX_QUEUE = 200  # characters
CRON_PREFIX = "cron:"  # before a kind, it marks a job of the schedule
