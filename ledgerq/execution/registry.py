"""The kinds of job that a worker can run, by name."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Generic

from pydantic import ValidationError
from pydantic_core import to_json

from ledgerq.errors import DefinitionError, InvalidPayload, UnknownKind
from ledgerq.execution.delivery import Delivery
from ledgerq.job import JobContext, Kind, P
from ledgerq.wire.envelope import Envelope


@dataclass(frozen=True, slots=True)
class Job(Generic[P]):
    """A delivery whose kind is known and whose payload holds."""

    kind: Kind[P, Any]
    payload: P
    delivery: Delivery
    envelope: Envelope
    id: str
    resources: Any

    async def handle(self, context: JobContext[Any]) -> Any:
        """Do the work inside the context's transaction; returns what JSON can carry."""
        return await self.kind.handle(context, self.payload)


class Registry:
    """The kinds by name. Refuses two of one name.

    `resources` is what handlers are given beside the session.
    """

    def __init__(self, kinds: Iterable[Kind[Any]], resources: Any = None) -> None:
        self.resources = resources
        self._kinds: dict[str, Kind[Any]] = {}
        self._apart: set[str] = set()
        self.batchable_kinds: tuple[str, ...] = ()  # whose jobs may share a transaction, by name
        self.queues: dict[str, str | None] = {}  # by kind; None is the default queue
        for kind in kinds:
            if kind.name in self._kinds:
                raise DefinitionError(
                    "App(jobs=)",
                    f"two job kinds are named {kind.name!r}",
                    "give one of them another name",
                )
            self._kinds[kind.name] = kind
            self.queues[kind.name] = kind.queue
        self._look_who_shares()

    def __iter__(self) -> Iterator[Kind[Any]]:
        return iter(self._kinds.values())

    def __contains__(self, name: str) -> bool:
        return name in self._kinds

    def shares_commits(self, kind: Kind[Any]) -> bool:
        """True if jobs of the kind may share a transaction, and none has shown that it can't."""
        return kind.is_batchable and kind.name not in self._apart

    def keep_apart(self, name: str) -> None:
        """A job of this kind leaves something in its transaction: from now on each has its own."""
        self._apart.add(name)
        self._look_who_shares()

    def _look_who_shares(self) -> None:
        self.batchable_kinds = tuple(each.name for each in self if self.shares_commits(each))

    def kind(self, name: str) -> Kind[Any]:
        """The kind of that name.

        Raises:
            UnknownKind: there is none.
        """
        try:
            return self._kinds[name]
        except KeyError:
            raise UnknownKind(name, self._kinds) from None

    def resolve(self, delivery: Delivery) -> Job[Any]:
        """Decode the body, find the kind and validate the payload.

        Raises:
            Undecodable: the body is no job.
            UnknownKind: no such kind here.
            InvalidPayload: with every field at fault.
        """
        envelope = delivery.envelope
        kind = self.kind(envelope.kind)
        try:
            # as JSON: there a strict model takes a date or an enum by its text, and nothing else
            payload = kind.payload.model_validate_json(
                to_json(envelope.payload), by_alias=True, by_name=True
            )
        except ValidationError as error:
            raise InvalidPayload.from_validation(error) from None
        return Job(kind, payload, delivery, envelope, delivery.job_id, self.resources)
