"""The ids of jobs whose producer names none: UUIDs of version 7, which sort by time."""

import os
import time
from datetime import timedelta
from multiprocessing import get_context
from uuid import RFC_4122, UUID

import pytest

from ledgerq.wire import new_id
from ledgerq.wire.new_id import new_job_id
from tests.support import time_of_id


def many(number: int) -> list[str]:
    return [new_job_id() for _ in range(number)]


def test_an_id_is_a_uuid_of_version_7_in_32_hex_digits() -> None:
    """RFC 9562 §5.7: 48 bits of milliseconds since 1970, version, variant."""
    before = time.time()
    job_id = new_job_id()
    assert len(job_id) == 32
    assert UUID(job_id).hex == job_id
    assert (UUID(job_id).version, UUID(job_id).variant) == (7, RFC_4122)
    assert abs(time_of_id(job_id) - before) < timedelta(minutes=1).total_seconds()


def test_later_ids_sort_after_earlier_ones() -> None:
    """Also within a millisecond, in which thousands are made."""
    ids = many(20_000)
    assert ids == sorted(set(ids))


def test_a_clock_that_is_set_back_does_not_set_the_ids_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Until the clock has caught up, each id is one tick after the one before."""
    before = new_job_id()
    monkeypatch.setattr(new_id, "time_ns", lambda: 0)
    ids = [before, *many(5_000)]
    assert ids == sorted(set(ids))
    assert time_of_id(ids[-1]) - time_of_id(before) < 10


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_forked_processes_never_make_one_id_twice() -> None:
    """They begin at one tick, and nothing random is inherited."""
    new_job_id()
    with get_context("fork").Pool(4) as pool:
        made = [job_id for ids in pool.map(many, [2_000] * 4) for job_id in ids]
    assert len(set(made)) == len(made)
