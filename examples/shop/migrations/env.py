"""Alembic's way in."""

from ledgerq.alembic import run
from worker.app import app

run(*app.metadata)
