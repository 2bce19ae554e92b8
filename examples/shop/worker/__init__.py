"""What the worker of the shop runs."""
