"""What is true: the tables, and every rule for reading and changing them. Knows nobody above it."""
