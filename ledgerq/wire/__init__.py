"""What travels over the queue: payloads, envelopes, results."""
