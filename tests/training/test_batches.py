"""Batches: a function of seed and epoch, shared by the processes without rest or repeat."""

from __future__ import annotations

from itertools import chain

import pytest

from neuroattn.errors import InputError
from neuroattn.training.batches import EpochBatches


def batches(*arguments, epoch: int = 0, **options) -> list[list[int]]:
    made = EpochBatches(*arguments, **options)
    made.set_epoch(epoch)
    found = list(made)
    assert len(found) == len(made)
    return found


def test_the_order_depends_on_seed_and_epoch_alone():
    # Catches an order that a resumed run cannot repeat.
    first = EpochBatches(23, 4, shuffle=True, seed=3)
    seen = []
    for epoch in range(3):
        first.set_epoch(epoch)
        seen.append(list(first))
    assert batches(23, 4, shuffle=True, seed=3, epoch=2) == seen[2]
    assert list(first) == seen[2]
    orders = {str(order) for order in (*seen, batches(23, 4, shuffle=True, seed=4))}
    assert len(orders) == 4


def test_a_shuffled_epoch_leaves_out_only_the_incomplete_batch():
    # Catches small last batches, whose gradient is noisier, and images shown twice.
    found = batches(23, 4, shuffle=True, seed=1)
    assert [len(batch) for batch in found] == [4] * 5
    flat = [*chain.from_iterable(found)]
    assert len(set(flat)) == 20
    assert set(flat) <= set(range(23))
    left_out = {
        frozenset(range(23)) - {*chain.from_iterable(batches(23, 4, shuffle=True, epoch=e))}
        for e in range(4)
    }
    assert len(left_out) > 1


def test_a_batch_larger_than_the_set_is_the_set():
    # Catches an epoch without a single step on few images.
    found = batches(5, 32, shuffle=True)
    assert [sorted(batch) for batch in found] == [[0, 1, 2, 3, 4]]


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize(("count", "size"), [(23, 6), (9, 8), (7, 2), (3, 1), (24, 6), (5, 99)])
def test_without_shuffling_every_index_comes_once_in_as_many_steps_everywhere(count, size, world):
    # Catches padding that counts an image twice, and a process that waits for another's batch.
    ranks = [batches(count, size, shuffle=False, rank=r, world=world) for r in range(world)]
    assert len({len(rank) for rank in ranks}) == 1
    assert all(batch for rank in ranks for batch in rank)
    assert sorted(i for rank in ranks for batch in rank for i in batch) == list(range(count))
    if world == 1:
        assert [*chain.from_iterable(ranks[0])] == list(range(count))
        assert [len(batch) for batch in ranks[0]][:-1] == [min(size, count)] * (len(ranks[0]) - 1)


@pytest.mark.parametrize("world", [2, 3])
def test_processes_partition_the_batches_of_one_process(world):
    # Catches ranks that draw orders of their own: the gradient would be of another batch.
    whole = batches(26, 6, shuffle=True, seed=2, epoch=5)
    ranks = [
        batches(26, 6, shuffle=True, seed=2, epoch=5, rank=r, world=world) for r in range(world)
    ]
    for step, batch in enumerate(whole):
        shares = [rank[step] for rank in ranks]
        assert {len(share) for share in shares} == {6 // world}
        assert sorted([*chain.from_iterable(shares)]) == sorted(batch)


def test_a_batch_that_processes_cannot_share_evenly_is_made_smaller():
    # Catches unequal shares, which weigh images unequally in the averaged gradient.
    ranks = [batches(20, 7, shuffle=True, rank=r, world=2) for r in range(2)]
    assert {len(batch) for rank in ranks for batch in rank} == {3}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"count": 0, "batch_size": 4, "shuffle": True}, "count=0"),
        ({"count": 4, "batch_size": 0, "shuffle": True}, "batch_size=0"),
        ({"count": 9, "batch_size": 2, "shuffle": True, "world": 3}, "shared by 3 processes"),
        ({"count": 2, "batch_size": 4, "shuffle": False, "world": 3}, "shared by 3 processes"),
        ({"count": 4, "batch_size": 4, "shuffle": True, "seed": -1}, "seed=-1"),
    ],
)
def test_impossible_batches_are_refused(arguments, message):
    # Catches an epoch of no steps, and a crash deep inside numpy.
    with pytest.raises(InputError, match=message):
        EpochBatches(**arguments)
