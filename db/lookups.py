"""Reading any entity by its id, and any table from its oldest row on."""

from collections.abc import Sequence
from typing import TypeVar

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from db.errors import NotFound
from db.models import Entity
from ledgerq.bounds import cursor, is_id, require_limit

E = TypeVar("E", bound=Entity)


async def get(session: AsyncSession, table: type[E], entity_id: int) -> E:
    """The row.

    Raises:
        NotFound: there is none.
    """
    entity = await session.get(table, entity_id) if is_id(entity_id) else None
    if entity is None:
        raise NotFound(str(table.__tablename__), entity_id)
    return entity


async def page(session: AsyncSession, table: type[E], *, after_id: int, limit: int) -> Sequence[E]:
    """Rows, oldest first; the next page begins after this one's last id.

    Raises:
        Refused: the limit is out of range.
    """
    require_limit(limit)
    following = select(table).where(col(table.id) > cursor(after_id)).order_by(col(table.id))
    return (await session.scalars(following.limit(limit))).all()
