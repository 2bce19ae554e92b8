"""The jobs of the task manager: the kinds, in a file for each table, and the schedule."""
