"""Makes the use of an unloaded relationship an error with the cure, instead of a hidden query."""

from typing import Any

from sqlalchemy.orm import RelationshipProperty
from sqlalchemy.orm.strategies import _LazyLoader

from db.errors import NotLoaded

MUST_LOAD = "must_load"


@RelationshipProperty.strategy_for(lazy=MUST_LOAD)
class _MustLoad(_LazyLoader):
    """As SQLAlchemy's lazy="raise", but the error is `NotLoaded`, which says how to load the relationship."""

    __slots__ = ()

    def __init__(self, parent: Any, strategy_key: Any) -> None:
        super().__init__(parent, strategy_key)
        self._raise_always = True

    def _invoke_raise_load(self, state: Any, passive: Any, lazy: str) -> None:
        raise NotLoaded(str(self))
