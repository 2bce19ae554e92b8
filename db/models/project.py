"""A project: what tasks belong to."""

from datetime import datetime
from typing import TYPE_CHECKING

from sqlalchemy import CheckConstraint, Text
from sqlmodel import Field, Relationship

from db.models.base import Base, created_at, primary_key, updated_at

if TYPE_CHECKING:
    from db.models.task import Task


class Project(Base, table=True):
    """A project: what tasks belong to."""

    __tablename__ = "project"
    __table_args__ = (CheckConstraint("length(name) BETWEEN 1 AND 200", name="name_length"),)

    id: int = primary_key()
    name: str = Field(max_length=200)
    description: str | None = Field(default=None, sa_type=Text)
    created_at: datetime = created_at()
    updated_at: datetime = updated_at()

    tasks: list["Task"] = Relationship(
        back_populates="project", sa_relationship_kwargs={"lazy": "raise"}
    )
