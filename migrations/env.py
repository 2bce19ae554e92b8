"""Alembic's way in. The database comes from the caller's `config.attributes` or else from DATABASE_URL."""

from db.models import Base
from ledgerq.alembic import run

run(Base.metadata)
