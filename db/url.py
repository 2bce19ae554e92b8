"""The database URLs that people have, made into the ones that SQLAlchemy's async engine takes."""

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

_DRIVERS = {
    "postgres": "postgresql+asyncpg",
    "postgresql": "postgresql+asyncpg",
    "postgresql+asyncpg": "postgresql+asyncpg",
    "sqlite": "sqlite+aiosqlite",
    "sqlite+aiosqlite": "sqlite+aiosqlite",
}


def normalise(url: str | URL) -> URL:
    """Parse a URL and name the async driver.

    Raises:
        ValueError: it is no URL, or its scheme is not supported; the text never holds the password.
    """
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise ValueError("is not a database URL") from None
    driver = _DRIVERS.get(parsed.drivername)
    if driver is None:
        raise ValueError(f"has the scheme {parsed.drivername}, which is not supported")
    if driver.startswith("postgresql") and not parsed.database:
        raise ValueError("names no database")
    return parsed.set(drivername=driver)
