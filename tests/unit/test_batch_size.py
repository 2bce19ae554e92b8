"""The size of batches follows what they cost."""

from ledgerq.worker.poller import BatchSize


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


def test_batches_run_beside_each_other_only_while_they_are_quick() -> None:
    """One at first, up to four, one again."""
    sizes = BatchSize(500)
    sizes.began(3)
    assert sizes.next_size == 0
    for _ in range(9):
        sizes.learn(3, 0.01)
    for _ in range(3):
        assert sizes.next_size
        sizes.began(3)
    assert sizes.next_size == 0
    assert (sizes.running, sizes.jobs) == (4, 12)
    sizes.ended(3)
    assert sizes.next_size
    sizes.learn(3, 0.3)
    assert sizes.next_size == 0
