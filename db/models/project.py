"""A project, to which tasks belong."""

from datetime import datetime
from typing import TYPE_CHECKING

from sqlalchemy import CheckConstraint, Text
from sqlmodel import Field

from db.models.base import Base, related, updated_at, version
from ledgerq.columns import NEVER_AGAIN, created_at, primary_key

if TYPE_CHECKING:
    from db.models.task import Task


class Project(Base, table=True):
    """A project, to which tasks belong. It can't be deleted while it has tasks (restrict)."""

    __tablename__ = "project"
    __table_args__ = (
        CheckConstraint("length(name) BETWEEN 1 AND 200", name="name_length"),
        CheckConstraint("length(key) BETWEEN 1 AND 20", name="key_length"),
        NEVER_AGAIN,
    )

    id: int = primary_key()
    key: str | None = Field(default=None, sa_type=Text, unique=True)
    name: str = Field(sa_type=Text)
    description: str | None = Field(default=None, sa_type=Text)
    version: int = version()
    created_at: datetime = created_at()
    updated_at: datetime = updated_at()

    tasks: list["Task"] = related(back_populates="project", passive_deletes="all")
