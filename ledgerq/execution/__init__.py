"""Takes a delivery to its outcome, through one transaction."""
