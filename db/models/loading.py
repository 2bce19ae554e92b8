"""A relationship that nobody loaded is an error that names it and the cure, never a hidden query."""

from typing import Any

from sqlalchemy.orm import RelationshipProperty
from sqlalchemy.orm.strategies import _LazyLoader

from db.errors import NotLoaded

MUST_LOAD = "must_load"


@RelationshipProperty.strategy_for(lazy=MUST_LOAD)
class _MustLoad(_LazyLoader):
    """SQLAlchemy's lazy="raise", which names the relationship, with the cure added."""

    __slots__ = ()

    def __init__(self, parent: Any, strategy_key: Any) -> None:
        super().__init__(parent, strategy_key)
        self._raise_always = True

    def _invoke_raise_load(self, state: Any, passive: Any, lazy: str) -> None:
        raise NotLoaded(str(self))
