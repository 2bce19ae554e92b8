"""Examples: how other services use ledgerq. Run and tested like the rest."""
