"""All that talks to Redis: connection, keys, scripts, claims, signs of life, and the relay of staged jobs."""
