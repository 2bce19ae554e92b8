"""For how long a job may block the event loop before the worker hands its jobs back."""

from types import SimpleNamespace
from typing import Any

import pytest

from ledgerq import JobContext, Payload, job
from ledgerq.execution.registry import Registry
from ledgerq.execution.retry import Policy
from ledgerq.worker.heartbeat import _longest_block
from ledgerq.worker.processor import PROCESSOR, Processor


class Slow(Payload[None], kind="slow"):
    pass


class Quick(Payload[None], kind="quick"):
    pass


@job(timeout=3600)
async def slow(context: JobContext, slow: Slow) -> None: ...


@job(timeout=0.5)
async def quick(context: JobContext, quick: Quick) -> None: ...


@pytest.mark.parametrize(
    ("kind", "seconds"),
    [
        ("slow", 3602),
        ("quick", 62),
        ("of_arq", 62),
        ("slow_of_arq", 102),
        ("without_a_limit", 3602),
        (None, 3602),
    ],
)
def test_each_job_has_its_own_kinds_limit(kind: str | None, seconds: float) -> None:
    """Or LEDGERQ_JOB_TIMEOUT, if that is longer; an unknown job has the longest. `hand_back_after` is the most for all."""
    database: Any = None
    processor = Processor(database, Registry([slow, quick]), Policy(timeout=60), database)
    worker: Any = SimpleNamespace(
        ctx={PROCESSOR: processor},
        functions={
            "of_arq": SimpleNamespace(timeout_s=5), "slow_of_arq": SimpleNamespace(timeout_s=100), "without_a_limit": SimpleNamespace(timeout_s=None),
            "slow": SimpleNamespace(timeout_s=None), "quick": SimpleNamespace(timeout_s=None),
        },
        blocked_after=2,
        hand_back_after=3602,
    )  # fmt: skip
    assert _longest_block(worker, kind) == seconds
    worker.hand_back_after = 1
    assert _longest_block(worker, kind) == 1
