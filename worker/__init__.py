"""The worker process of the task manager."""
