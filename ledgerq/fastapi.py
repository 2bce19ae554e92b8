"""Dependencies for services on FastAPI or Starlette. No other module of ledgerq knows a web framework.

The service's lifespan opens the database and stores it in `api.state.database`, where the dependencies find it:

```python
@asynccontextmanager
async def lifespan(api: FastAPI) -> AsyncGenerator[None]:
    async with open_database() as database:
        api.state.database = database
        yield

@api.get("/orders")
async def open_orders(session: Annotated[LedgerqSession, Depends(get_session)]) -> Sequence[Order]:
    return (await session.exec(select(Order))).all()
```
"""

from collections.abc import AsyncIterator

from starlette.requests import HTTPConnection

from ledgerq.database.engine import Database, Sessions
from ledgerq.database.session import LedgerqSession
from ledgerq.database.transaction import reading


async def get_session(connection: HTTPConnection) -> AsyncIterator[LedgerqSession]:
    """A session for reading, one per request: what is written by it is rolled back.

    To write, open `transaction(sessions)` in the endpoint itself: a dependency ends when the response is on its way
    already, too late to report that the commit failed.
    """
    database: Database = connection.app.state.database
    async with reading(database.sessions) as session:
        yield session


async def get_sessions(connection: HTTPConnection) -> Sessions:
    """The session factory, for `transaction(sessions)`."""
    database: Database = connection.app.state.database
    return database.sessions
