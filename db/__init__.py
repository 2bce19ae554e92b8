"""The tables of the task manager, and every rule for reading and changing them."""
