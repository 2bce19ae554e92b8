"""The queues that an operator's command covers: the default queue, served queues, those of the application's kinds."""

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

from arq.connections import ArqRedis

from ledgerq.broker.keys import job_key
from ledgerq.config import WorkerConfig
from ledgerq.wire.envelope import queue_of
from ledgerq.wire.queue_name import queue_key

Queues = Mapping[str, str | None]  # kind → its queue; None is the default queue
NO_QUEUES: Queues = MappingProxyType({})


def known_queues(worker: WorkerConfig, kinds: Queues, *named: str | None) -> list[str]:
    """The keys on Redis, each once, of the default queue, the queues that `worker` serves, those of `kinds`, and `named`."""
    names: Iterable[str | None] = (None, *worker.served, *kinds.values(), *named)
    return list(dict.fromkeys(queue_key(name, worker.queue) for name in names))


async def queue_of_job(redis: ArqRedis, queues: Sequence[str], job_id: str) -> str | None:
    """The key of the queue among these that has the job on Redis; None if none has it."""
    async with redis.pipeline(transaction=True) as pipe:
        pipe.get(job_key(job_id))
        for queue in queues:
            pipe.zscore(queue, job_id)
        body, *scores = await pipe.execute(raise_on_error=False)
    if isinstance(body, Exception):
        raise body
    if body and (named := queue_of(body)) in queues:
        return named
    known = zip(queues, scores, strict=True)  # the score is an error if the key is no queue
    return next((queue for queue, score in known if isinstance(score, float)), None)
