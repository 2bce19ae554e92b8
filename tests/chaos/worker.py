"""A worker of the fault suite, `python -m tests.chaos.worker`: the product's, with test-only kinds.

CHAOS_SKEW sets its clock that many seconds off; CHAOS_BUG puts in one of the seeded bugs;
CHAOS_BURST lets it end when its queue is empty.
"""

import os
import sys
import time


def _skew(seconds: float) -> None:
    """Before anything else is imported, so that whoever takes `time.time` by name takes this one."""
    true_time, true_time_ns = time.time, time.time_ns
    time.time = lambda: true_time() + seconds
    time.time_ns = lambda: true_time_ns() + int(seconds * 1e9)


def main() -> None:
    """As `ledgerq worker`."""
    if skew := float(os.environ.pop("CHAOS_SKEW", "0")):
        _skew(skew)
    from redis.exceptions import RedisError  # noqa: PLC0415 - after the clock

    from ledgerq.config import load_config  # noqa: PLC0415
    from ledgerq.errors import LedgerqError  # noqa: PLC0415
    from ledgerq.logs import configure_logging  # noqa: PLC0415
    from ledgerq.worker.build import build_worker, run_to_the_end  # noqa: PLC0415
    from tests.chaos import held  # noqa: PLC0415
    from tests.chaos.bugs import install  # noqa: PLC0415
    from tests.chaos.kinds import chaos_app  # noqa: PLC0415

    held.watch()
    install(os.environ.pop("CHAOS_BUG", ""))
    burst = bool(os.environ.pop("CHAOS_BURST", ""))
    config = load_config()
    configure_logging(config.worker.log_format, config.worker.log_level)
    try:
        run_to_the_end(build_worker(chaos_app(), config, burst=burst))
    except (LedgerqError, RedisError) as error:  # one line, as `ledgerq worker` says it
        sys.exit(f"ledgerq: {error}")


if __name__ == "__main__":
    main()
