"""The command line; it may import all other packages of ledgerq."""
