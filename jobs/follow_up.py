"""Work that comes in parts, one transaction each: while there is more, the next part is staged with this one.

So how much is done does not depend on how often the schedule asks for it.
"""

from datetime import timedelta

from db import unique
from jobs.context import JobContext
from jobs.registry import Payload
from jobs.request import Unique
from jobs.staging import stage

_ONE_AT_A_TIME = timedelta(hours=1)  # a part that was lost does not keep the others for longer


async def go_on(context: JobContext, payload: Payload, *, more: bool) -> str | None:
    """If there is more, stage the same job again; the id of the job that goes on.

    However many jobs begin, one at a time goes on: it may be another one's next.
    """
    if context.origin.job_id is not None:
        await unique.release(context.session, [context.origin.job_id])  # this one has come
    if not more:
        return None
    following = await stage(
        context.session,
        payload,
        actor=context.origin.actor,
        trace_id=context.origin.trace_id or None,
        unique=Unique("next", _ONE_AT_A_TIME),
    )
    return following.job_id
