"""An App is a table of contents: it can be copied with changes, and a worker of it needs its hooks."""

from dataclasses import replace
from typing import Any

import pytest

from ledgerq import App
from ledgerq.config import Config
from ledgerq.retention import PruneProcessedJobs
from ledgerq.worker.processor import NotBegun
from ledgerq.workers import build_worker
from tests.support import drain
from worker.app import app


def test_an_app_is_copied_with_changes() -> None:
    """What it adds by itself it adds once."""
    for copy in (
        replace(app, metadata=()),
        replace(app, jobs=[], schedule=[]),
        replace(app, schedule=[]),
    ):
        assert [kind.name for kind in copy.jobs].count("prune_processed_jobs") == 1
        assert [each.payload for each in copy.schedule].count(PruneProcessedJobs) == 1
    for bare in (
        App(jobs=[], forget_ended_jobs=False),
        replace(app, jobs=[], schedule=[], forget_ended_jobs=False),
    ):
        assert (list(bare.jobs), list(bare.schedule)) == ([], [])
    assert replace(replace(app, metadata=iter(app.tables.metadata))).tables == app.tables
    forgetful = replace(app, forget_ended_jobs=False)
    assert "prune_processed_jobs" not in forgetful.registry()
    assert PruneProcessedJobs not in {each.payload for each in forgetful.schedule}


def test_two_kinds_of_one_name_are_refused() -> None:
    """Where they are listed."""
    (kind, *_) = app.jobs
    with pytest.raises(ValueError, match=f"two job kinds are named '{kind.name}'"):
        App(jobs=[kind, kind])


async def test_a_worker_whose_hook_does_not_begin_refuses_to_start(config: Config) -> None:
    """Else its jobs would end with nothing done."""

    async def hook(ctx: dict[Any, Any]) -> None:
        """Builds nothing."""

    careless = replace(app, on_startup=hook, on_shutdown=None)
    with pytest.raises(NotBegun, match="did not begin the worker's life"):
        await drain(build_worker(careless, config, burst=True, handle_signals=False))


async def test_what_a_service_puts_into_ctx_stays_there(config: Config) -> None:
    """Beside what our hooks have in it."""
    worker = build_worker(app, config, ctx={"mine": 1}, burst=True, handle_signals=False)
    await drain(worker)
    assert worker.ctx["mine"] == 1
