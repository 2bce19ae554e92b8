"""Reads of an entity by its id, and of a table page by page, for all tables."""

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
    """The row with this id.

    Raises:
        NotFound: there is no such row.
    """
    entity = await session.get(table, entity_id) if is_id(entity_id) else None
    if entity is None:
        raise NotFound(str(table.__tablename__), entity_id)
    return entity


async def page(session: AsyncSession, table: type[E], *, after_id: int, limit: int) -> Sequence[E]:
    """A page of rows, oldest first. For the next page, pass this page's last id as `after_id`.

    Raises:
        Refused: the limit is out of range.
    """
    require_limit(limit)
    following = select(table).where(col(table.id) > cursor(after_id)).order_by(col(table.id))
    return (await session.scalars(following.limit(limit))).all()
