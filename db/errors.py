"""Errors of the task manager's rules, beside those of the database's constraints."""

from ledgerq.errors import LedgerqError, Refused


class NotFound(Refused):
    """There is no such row, or it is deleted."""

    def __init__(self, entity: str, entity_id: int) -> None:
        self.entity, self.entity_id = entity, entity_id
        super().__init__(f"{entity}_id", f"there is no {entity} {entity_id}")


class VersionConflict(Refused):
    """Another writer changed the row since it was read: read it again before the next try."""

    def __init__(self, entity: str, entity_id: int, expected: int, found: int) -> None:
        self.entity, self.entity_id = entity, entity_id
        self.expected, self.found = expected, found
        super().__init__(
            "expected_version",
            f"{entity} {entity_id} is at version {found} by now, not {expected}; read it again",
        )


class IllegalStatusChange(Refused):
    """A task's status may not change in this way; `db.models.task.LEGAL_MOVES` lists the allowed changes."""

    def __init__(self, task_id: int, current: str, wanted: str, legal: tuple[str, ...]) -> None:
        self.task_id, self.current, self.wanted, self.legal = task_id, current, wanted, legal
        super().__init__(
            "status",
            f"task {task_id} may not move from {current} to {wanted}; "
            f"from {current} it may move to {', '.join(legal)}",
        )


class NotLoaded(LedgerqError):
    """A relationship was used that the read did not load. No hidden query loads it."""

    def __init__(self, relationship: str) -> None:
        self.relationship = relationship
        super().__init__(
            f"{relationship} is not loaded; load it in the read that gave you this row, with "
            f".options(selectinload({relationship})) for a collection or "
            f".options(joinedload({relationship})) for a single row"
        )


class ChangedInPlace(LedgerqError, AttributeError):
    """A list of a row was changed in place. The flush would not notice the change, and not store it."""

    def __init__(self) -> None:
        super().__init__(
            "a list that a row holds can't be changed in place, it would not be stored; replace it, "
            "as in tasks.update(session, origin, task.id, TaskChanges(tags=[*task.tags, 'new']))"
        )
