"""The benchmark's own kinds of job, beside those of the task manager; their handlers are in `bench.strangers`."""

from ledgerq.wire.payload import Payload


class Noop(Payload, kind="noop"):
    """Nothing to do, exactly once all the same."""

    number: int


class Plain(Payload[int], kind="plain"):
    """A task to create by a plain handler."""

    title: str


class Call(Payload[None], kind="call"):
    """A call of the service, then a row."""

    title: str


class Wait(Payload[None], kind="wait"):
    """A wait of `BENCH_WAIT` seconds, then a row."""

    number: int
