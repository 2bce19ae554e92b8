"""Seeded bugs."""


def install(name: str) -> None:
    """Put one in."""
    if name:
        raise KeyError(name)
