"""What an operator asks and does: status, one job, health, cancel, dead letters."""
