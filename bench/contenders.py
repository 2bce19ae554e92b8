"""Who takes part, with the settings that make each one fastest, by its documentation and by trial.

How much runs at once was tried from 10 to 100 (processes of Celery: 2 to 8); it matters little.
"""

from dataclasses import replace

from bench.processes import Contender

OURS = Contender(
    name="ours",
    title="ledgerq, jobs on Redis",
    module="bench.ours",
    settings="product defaults",
    worker=("-m", "ledgerq", "worker"),
)
STAGED = replace(
    OURS,
    name="staged",
    title="ledgerq, staged in the outbox",
    environment={"BENCH_STAGED": "1"},
)
DIRECT = replace(
    STAGED,
    name="direct",
    title="ledgerq, staged, sent by its client",
    environment={"BENCH_STAGED": "client"},
)
PLAIN = replace(
    OURS,
    name="plain",
    title="ledgerq, a plain handler, own commits",
    environment={"BENCH_HANDLER": "own"},
)
SHARED = replace(
    OURS,
    name="shared",
    title="ledgerq, a plain handler, shared commits",
    environment={"BENCH_HANDLER": "shared"},
)
ARQ_DEFAULT = Contender(
    name="arq-default",
    title="arq, its defaults",
    module="bench.peers.arq",
    settings="max_jobs=10, poll_delay=0.5, keep_result=3600",
    venv="arq",
    worker=("-m", "arq", "bench.peers.arq.WorkerSettings"),
)
ARQ = Contender(
    name="arq",
    title="arq, tuned",
    module="bench.peers.arq",
    settings="max_jobs=100, poll_delay=0.01, keep_result=0, no log",
    venv="arq",
    environment={"BENCH_TUNED": "1", "BENCH_CONCURRENCY": "100"},
)
STOCK_CLIENT = replace(
    OURS,
    name="stock-client",
    title="ledgerq, fed by a stock arq client",
    feeder=replace(ARQ, environment={"BENCH_FOR_LEDGERQ": "1"}),
)


def _peer(name: str, title: str, settings: str, at_once: int) -> Contender:
    return Contender(
        name=name,
        title=title,
        module=f"bench.peers.{name}",
        settings=settings,
        venv=name,
        environment={"BENCH_CONCURRENCY": str(at_once)},
    )


SAQ = _peer("saq", "SAQ", "concurrency=50, max_concurrent_ops=50, ttl=-1, no log", 50)
STREAQ = _peer("streaq", "streaq", "concurrency=50, uvloop, silent, ttl=0", 50)
TASKIQ = _peer(
    "taskiq",
    "Taskiq",
    "ListQueueBroker, one process, max-async-tasks=50, uvloop, --no-parse, no results, no log",
    50,
)
CELERY = _peer(
    "celery",
    "Celery",
    "prefork, concurrency=2 processes, prefetch 16, ignore_result, no gossip, no mingle",
    2,
)
PROCRASTINATE = _peer(
    "procrastinate", "Procrastinate", "concurrency=10, LISTEN/NOTIFY, delete_jobs=successful", 10
)
PGQUEUER = _peer(
    "pgqueuer",
    "PgQueuer",
    "batch-size=100, max-concurrent-tasks=200, asyncpg pool, 20 sessions, uvloop",
    20,
)
DBOS = _peer("dbos", "DBOS", "polling_interval_sec=0.05, READ COMMITTED, no log", 100)
PEERS = (ARQ_DEFAULT, ARQ, SAQ, STREAQ, TASKIQ, CELERY, PROCRASTINATE, PGQUEUER)
ALL = (OURS, STAGED, DIRECT, PLAIN, SHARED, STOCK_CLIENT, *PEERS, DBOS)
