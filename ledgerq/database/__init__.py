"""The database by SQLAlchemy: settings, engine, session, transaction, errors by SQLSTATE, the fence of a handler."""
