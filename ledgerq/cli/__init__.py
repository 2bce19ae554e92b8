"""The command line. Knows everything below it."""
