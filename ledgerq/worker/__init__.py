"""The worker: it claims jobs, runs them, renews their leases, and acknowledges."""
