"""For endpoints of FastAPI or Starlette: a session for each request. See `ledgerq.fastapi`."""

from ledgerq.fastapi import get_session, get_sessions

__all__ = ["get_session", "get_sessions"]
