"""SQLAlchemy's side: settings, engine, session, transaction, errors by SQLSTATE, the fence around a handler."""
