"""The jobs of the task manager: a file for each kind, and what runs by schedule."""
