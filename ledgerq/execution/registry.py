"""The kinds of job that a worker can run, by name."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Generic

from pydantic import ValidationError
from pydantic_core import to_json

from ledgerq.errors import DefinitionError, InvalidPayload, UnknownKind
from ledgerq.execution.delivery import Delivery
from ledgerq.job import JobContext, Kind, P
from ledgerq.staging import Sender
from ledgerq.wire.envelope import Envelope


@dataclass(frozen=True, slots=True)
class Job(Generic[P]):
    """A delivery whose kind is known and whose payload is valid."""

    kind: Kind[P, Any]
    payload: P
    delivery: Delivery
    envelope: Envelope
    id: str
    resources: Any
    client: Sender | None
    answers: tuple[Any, ...] = ()  # of the kind's `outside` function, if it has one

    async def handle(self, context: JobContext[Any]) -> Any:
        """Call the kind's handler inside the context's transaction; returns the handler's result."""
        return await self.kind.handle(context, self.payload, *self.answers)


class Registry:
    """The kinds by name. `resources` is handed to handlers as `context.resources`.

    `client` puts the jobs that handlers stage on their queues; None leaves that to a relay.

    Raises:
        DefinitionError: two kinds have one name.
    """

    def __init__(
        self, kinds: Iterable[Kind[Any]], resources: Any = None, client: Sender | None = None
    ) -> None:
        self.resources, self.client = resources, client
        self._kinds: dict[str, Kind[Any]] = {}
        self._apart: set[str] = set()
        self.batchable_kinds: tuple[str, ...] = ()  # names; their jobs may share a transaction
        self.queues: dict[str, str | None] = {}  # kind → queue; None is the default queue
        for kind in kinds:
            if kind.name in self._kinds:
                raise DefinitionError(
                    "App(jobs=)",
                    f"two job kinds are named {kind.name!r}",
                    "give one of them another name",
                )
            self._kinds[kind.name] = kind
            self.queues[kind.name] = kind.queue
        self.outside_kinds = frozenset(kind.name for kind in self if kind.outside)
        self.single_kinds = frozenset(
            kind.name for kind in self if not (kind.outside or kind.is_batchable)
        )
        self._look_who_shares()

    def __iter__(self) -> Iterator[Kind[Any]]:
        return iter(self._kinds.values())

    def __contains__(self, name: str) -> bool:
        return name in self._kinds

    def shares_commits(self, kind: Kind[Any]) -> bool:
        """True if jobs of the kind may share a transaction, and `keep_apart` was not called for the kind."""
        return kind.is_batchable and kind.name not in self._apart

    def keep_apart(self, name: str) -> None:
        """Give each job of this kind its own transaction, until the process ends.

        Called when a job of the kind left something in a shared transaction, a setting or a lock, which the next job would find.
        """
        self._apart.add(name)
        self._look_who_shares()

    def _look_who_shares(self) -> None:
        self.batchable_kinds = tuple(each.name for each in self if self.shares_commits(each))

    def kind(self, name: str) -> Kind[Any]:
        """The kind of that name.

        Raises:
            UnknownKind: no kind has that name.
        """
        try:
            return self._kinds[name]
        except KeyError:
            raise UnknownKind(name, self._kinds) from None

    def resolve(self, delivery: Delivery) -> Job[Any]:
        """Decode the body, find the kind and validate the payload.

        Raises:
            Undecodable: the body is not valid.
            UnknownKind: this worker has no kind of that name.
            InvalidPayload: the payload is not valid; the error names every field at fault.
        """
        envelope = delivery.envelope
        kind = self.kind(envelope.kind)
        try:
            # as JSON, because from JSON a strict model takes dates and enums as texts
            payload = kind.payload.model_validate_json(
                to_json(envelope.payload), by_alias=True, by_name=True
            )
        except ValidationError as error:
            raise InvalidPayload.from_validation(error) from None
        return Job(kind, payload, delivery, envelope, delivery.job_id, self.resources, self.client)
