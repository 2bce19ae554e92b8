"""A batch is read one delivery at a time: what can't be read is its own job's trouble."""

from pydantic import field_validator

from ledgerq.client import JobClient
from ledgerq.config import Config
from ledgerq.database.engine import Sessions
from ledgerq.execution.registry import Registry
from ledgerq.job import JobContext, Kind
from ledgerq.store.tables import DeadLetter, ProcessedJob
from ledgerq.wire.payload import Payload
from tests.support import drain, our_worker, rows


class Checked(Payload, kind="checked"):
    """Its validator has a bug, which shows at the worker only: what it looks up is not there."""

    name: str

    @field_validator("name")
    @classmethod
    def known(cls, name: str) -> str:
        return KNOWN[name]


KNOWN: dict[str, str] = {}


async def test_a_validator_that_raises_costs_no_neighbour_an_attempt(
    config: Config, client: JobClient, sessions: Sessions
) -> None:
    """Whatever it raises: forty are done at their first attempt, one is a dead letter."""

    async def handle(context: JobContext, payload: Checked) -> None:
        pass

    KNOWN.update({f"n{n}": f"n{n}" for n in range(41)})
    jobs = await client.enqueue_many([Checked(name=f"n{n}") for n in range(41)])
    del KNOWN["n17"]
    registry = Registry([Kind(Checked, handle, shares_commit=True)])
    config = Config(config.worker.model_copy(update={"max_attempts": 2}), config.database)
    options = {"burst": True, "handle_signals": False, "schedule": []}
    await drain(our_worker(config, registry, **options))
    attempts = {note.job_id: note.attempt for note in await rows(sessions, ProcessedJob)}
    assert attempts == {job.job_id: 2 if n == 17 else 1 for n, job in enumerate(jobs)}
    assert [letter.job_id for letter in await rows(sessions, DeadLetter)] == [jobs[17].job_id]
