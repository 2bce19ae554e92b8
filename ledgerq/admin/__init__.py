"""The operator's commands as functions: status, one job, health, cancel, dead letters, audit triggers."""
