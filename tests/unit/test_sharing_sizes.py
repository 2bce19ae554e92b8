"""The size of batches follows what they cost."""

from typing import Any

from structlog.testing import capture_logs

from ledgerq.worker.sharing import MANY, BatchSize, KindSizes, SharingAdvice


def after(sizes: BatchSize, *seconds: float) -> int:
    """The room for the next batch after full ones that took so long."""
    for each in seconds:
        sizes.learn(sizes.next_size, each)
    return sizes.next_size


def test_quick_batches_grow_to_the_most_that_is_allowed() -> None:
    """A queue of small jobs is worked off in few transactions."""
    assert after(BatchSize(700), 0.1) == 400
    assert after(BatchSize(700), 0.1, 0.1, 0.1) == 700


def test_slow_batches_shrink_until_they_are_short() -> None:
    """Slow jobs are left to other workers; at last two share a transaction, so that something is learnt."""
    assert after(BatchSize(500), 5.0) == 100
    assert after(BatchSize(500), *[5.0] * 20) == 2
    assert after(BatchSize(500), *[5.0] * 20, 0.1) == 4


def test_a_batch_that_is_neither_keeps_its_size() -> None:
    """Between two and four seconds nothing changes, and a batch that was not full says nothing of larger ones."""
    sizes = BatchSize(500)
    assert after(sizes, 3.0) == 200
    sizes.learn(10, 0.01)
    assert sizes.next_size == 200


def test_no_batch_is_larger_than_allowed() -> None:
    """The first neither."""
    assert BatchSize(50).next_size == 50


def test_more_batches_run_beside_each_other_while_they_are_quick() -> None:
    """One at first, up to four; two at least, so that one waits for the database while the other runs."""
    sizes = BatchSize(500)
    assert at_once(sizes) == 1
    sizes.learn(3, 0.01)
    assert at_once(sizes) == 2
    for _ in range(9):
        sizes.learn(3, 0.01)
    assert at_once(sizes) == 4
    for _ in range(9):
        sizes.learn(3, 0.3)
    assert at_once(sizes) == 2


def test_long_batches_run_alone() -> None:
    """They hold locks for which others wait."""
    sizes = BatchSize(500)
    for _ in range(2):
        sizes.learn(3, 0.01)
    for _ in range(9):
        sizes.learn(3, 1.5)
    assert at_once(sizes) == 1


def at_once(sizes: BatchSize) -> int:
    """How many batches there is room for."""
    while sizes.next_size:
        sizes.began(3)
    running, jobs = sizes.running, sizes.jobs
    assert jobs == 3 * running
    for _ in range(running):
        sizes.ended(3)
    return running


def sizes_of(kind: str, sizes: KindSizes, *seconds_a_job: float) -> list[int]:
    """The sizes of the transactions in which 2,000 jobs of a kind run, each of which takes so long."""
    claims: Any = [None] * 2_000
    used, each = [], iter([*seconds_a_job, *[seconds_a_job[-1]] * len(claims)])
    for part in sizes.groups(kind, claims):
        used.append(len(part))
        sizes.learn(kind, len(part), len(part) * next(each))
    assert sum(used) == len(claims)
    return used


def test_a_kind_shares_a_transaction_of_a_few_first() -> None:
    """Nobody knows yet what its handler takes. Quick ones are many after a few transactions, each kind for itself."""
    sizes = KindSizes()
    assert sizes_of("quick", sizes, 0.0001)[:4] == [8, 32, 128, 512]
    assert sizes_of("other", sizes, 0.0001)[0] == 8


def test_slow_handlers_hold_locks_for_a_second_at_most() -> None:
    """After the first transaction; a handler that takes a second has its own commit."""
    assert max(sizes_of("slow", KindSizes(), 0.2)[1:]) == 2
    assert set(sizes_of("slower", KindSizes(), 1.5)[1:]) == {1}
    assert sizes_of("became slow", KindSizes(), *[0.0001] * 2, 0.1)[3] == 5


def test_a_kind_that_would_gain_from_sharing_is_named_once() -> None:
    """If its jobs are many and quick; the log says what to write."""
    kinds = SharingAdvice()
    with capture_logs() as logs:
        for _ in range(3 * MANY):
            kinds.completed("quick", 0.001)
            kinds.completed("slow", 0.2)
        for _ in range(MANY - 1):
            kinds.completed("rare", 0.001)
    assert [(each["event"], each["kind"]) for each in logs] == [
        ("kind.could_share_commits", "quick")
    ]
    assert "@job(shares_commit=True)" in logs[0]["cure"]
