"""arq's handle on a job, of two queues on one Redis."""

import pytest
from arq.constants import abort_jobs_ss
from arq.jobs import JobStatus, ResultNotFound

from jobs.kinds import CreateProject
from ledgerq.broker.connection import connect
from ledgerq.client import JobClient
from ledgerq.config import Config
from ledgerq.database.engine import Sessions
from tests.support import drain, our_worker
from worker.app import app


@pytest.mark.parametrize("done", [False, True])
async def test_a_handle_keeps_to_its_queue(
    config: Config, client: JobClient, sessions: Sessions, *, done: bool
) -> None:
    """What another queue holds under the id, queued or done, is not shown, waited for or aborted."""
    mine = await client.enqueue(CreateProject(name="mine"), job_id="shared")
    if done:
        options = {"burst": True, "handle_signals": False, "schedule": []}
        await drain(our_worker(config, app.registry(), **options))
    theirs = connect(config.worker.model_copy(update={"queue": "billing"}))
    foreign = JobClient(theirs).job("shared").as_arq_job
    assert await foreign.status() is JobStatus.not_found
    assert await foreign.info() is None
    assert await foreign.result_info() is None
    with pytest.raises(ResultNotFound):
        await foreign.result(timeout=5)
    assert await foreign.abort(timeout=5) is False
    await theirs.aclose(close_connection_pool=True)
    assert await client._redis.zscore(abort_jobs_ss, "shared") is None
    own = mine.as_arq_job
    assert await own.status() is (JobStatus.complete if done else JobStatus.queued)
    info = await own.info()
    assert info is not None
    assert info.kwargs["name"] == "mine"
    assert (await own.result_info() is not None) is done
