"""What a job carries, as a strict model."""

from typing import ClassVar

from pydantic import BaseModel, ConfigDict


class Payload(BaseModel):
    """What a job carries. `kind` is the name on the wire: ours to keep, whatever the class is called.

    `queue` is the queue that its jobs are put on; None is the default queue.
    """

    # strict: a number is not a string, an unknown field is an error, and no error repeats the value
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, hide_input_in_errors=True)

    kind: ClassVar[str]
    queue: ClassVar[str | None] = None
