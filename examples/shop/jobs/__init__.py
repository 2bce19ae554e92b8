"""The jobs of the shop: each module has the payloads that producers import, and their handlers."""
