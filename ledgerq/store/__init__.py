"""The tables of ledgerq: receipts, outbox, dead letters, audit log, unique keys; and their schema."""
