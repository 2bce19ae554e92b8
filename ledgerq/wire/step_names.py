"""The names of the steps of one run of a job: each is used once."""

from ledgerq.errors import InvalidRequest

MAX_STEPS = 1_000  # of one job
MAX_NAME = 100  # characters


class StepNames:
    """The names that were used."""

    def __init__(self) -> None:
        self._used, self._closed = set[str](), False

    def take(self, name: str) -> None:
        """Use a name.

        Raises:
            InvalidRequest: the name was used before, or is not valid; there are too many; or the run is over.
        """
        if self._closed:
            raise InvalidRequest(
                f"step {name}", "comes after the end of the job's function outside"
            )
        if not 1 <= len(name) <= MAX_NAME or not name.isprintable():
            raise InvalidRequest("step", f"its name must have 1 to {MAX_NAME} printable characters")
        if name in self._used:
            raise InvalidRequest(
                f"step {name}", "is there twice in one run; in a loop, number the names"
            )
        if len(self._used) >= MAX_STEPS:
            raise InvalidRequest(
                "step", f"a job has at most {MAX_STEPS:,} steps; stage another job"
            )
        self._used.add(name)

    def close(self) -> None:
        """The run is over: from now on no name is taken."""
        self._closed = True
