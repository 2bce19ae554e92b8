"""Redis: connection, keys, scripts, claims, signs of life, and the relay that fills it from the outbox."""
