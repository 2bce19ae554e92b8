"""Finds what else than an audited class could write to its table in a flush: another class, or a relationship.

The flush writes entries for the objects of audited classes only, so such a write would leave none.
"""

from collections.abc import Mapping
from typing import Any

from sqlalchemy.orm import Mapper

from ledgerq.errors import DefinitionError
from ledgerq.store.audit_rules import Rules

_WHERE = "App(audited=)"


def require_no_other_writer(rules: Mapping[type[Any], Rules]) -> None:
    """Refuse what else the registries of the audited classes map to audited tables.

    Raises:
        DefinitionError: a class that is not listed has rows in an audited table, or a relationship writes to one.
    """
    registries = {each.mapper.registry for each in rules.values()}
    mappers = {mapper for registry in registries for mapper in registry.mappers}
    for mapper in sorted(mappers, key=lambda each: each.class_.__name__):
        if mapper.class_ not in rules:
            require_not_beside(mapper, rules)
        _require_no_secondary(mapper, rules)


def require_not_beside(mapper: Mapper[Any], rules: Mapping[type[Any], Rules]) -> None:
    """Refuse a class that is not listed and has rows in the table of one that is, unless they inherit from one another.

    Raises:
        DefinitionError: it is such a class; names both.
    """
    for each in rules.values():
        shared = set(mapper.tables) & set(each.mapper.tables)
        if shared and mapper.base_mapper is not each.mapper.base_mapper:
            name = mapper.class_.__name__
            raise DefinitionError(
                _WHERE,
                f"{name} has rows in table {min(map(str, shared))} too, which {each.name} is audited in, and its changes "
                "would leave no entry",
                f"list {name} as well",
            )


def _require_no_secondary(mapper: Mapper[Any], rules: Mapping[type[Any], Rules]) -> None:
    """Refuse relationships that write to an audited table as their `secondary`. A trigger sees what they write.

    Raises:
        DefinitionError: the class has one; names the relationship and the audited class.
    """
    for relationship in mapper.relationships:
        for each in rules.values():
            if (
                relationship.secondary in each.mapper.tables
                and not relationship.viewonly
                and not each.by_trigger
            ):
                raise DefinitionError(
                    _WHERE,
                    f"the relationship {relationship} writes to table {relationship.secondary}, which {each.name} is "
                    "audited in, and leaves no entry",
                    f"say viewonly=True there and change objects of {each.name}, or let a trigger write the entries: "
                    f"Audited({each.name}, by_trigger=True)",
                )
