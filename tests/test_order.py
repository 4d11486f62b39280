"""Who reads which sample: the same samples in the same order for any number of ranks and workers.

Budget: 5 s on two cores.
"""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factory.order import Order, share, turns

COUNTS = st.integers(1, 400)
KEYS = st.integers(0, 2**63 - 1)


def epoch_of(order: Order, epoch: int, consumed: int = 0, world: int = 1, workers: int = 1) -> np.ndarray:
    """The samples of an epoch as a trainer sees them: ranks side by side, workers taking turns; padding left out."""
    total = order.batches_from(consumed)
    made: dict[tuple[int, int], tuple[np.ndarray, np.ndarray]] = {}
    for rank in range(world):
        for worker in range(workers):
            for number in turns(total, worker, workers):
                made[number, rank] = order.batch_at(epoch, number, consumed=consumed, rank=rank, world=world)
    assert len(made) == total * world, "a batch was made twice or not at all"
    return np.concatenate([made[key][0][made[key][1]] for key in sorted(made)]) if made else np.empty(0, np.int64)


@given(samples=COUNTS, batch=st.integers(1, 40), seed=KEYS, epoch=st.integers(0, 10**6), world=st.integers(1, 8),
       workers=st.integers(1, 4), tail=st.sampled_from(["drop", "pad"]), shuffle=st.booleans())
@settings(max_examples=150, deadline=None)
def test_any_world_reads_the_same_order(samples, batch, seed, epoch, world, workers, tail, shuffle) -> None:
    batch = max(batch, world)
    if tail == "drop" and batch > samples:
        return
    order = Order(samples, batch, seed, shuffle, tail)
    alone = epoch_of(order, epoch)
    assert np.array_equal(alone, epoch_of(order, epoch, world=world, workers=workers))
    assert len(set(alone.tolist())) == len(alone), "a sample came twice"
    assert len(alone) == (samples if tail == "pad" else samples // batch * batch)
    if not shuffle:
        assert np.array_equal(alone, np.arange(len(alone)))


@given(samples=COUNTS, batch=st.integers(1, 40), data=st.data())
@settings(max_examples=100, deadline=None)
def test_resume_at_any_sample_and_in_another_world(samples, batch, data) -> None:
    order = Order(samples, batch, 11, tail="pad")
    whole = epoch_of(order, 3)
    consumed = data.draw(st.integers(0, samples))
    world, workers = data.draw(st.integers(1, min(8, batch))), data.draw(st.integers(1, 3))
    assert np.array_equal(whole[consumed:], epoch_of(order, 3, consumed, world, workers))


@given(batch=st.integers(1, 5000), world=st.integers(1, 64))
@settings(max_examples=100, deadline=None)
def test_slices_of_the_ranks_are_the_batch(batch, world) -> None:
    if world > batch:
        with pytest.raises(ValueError, match="cannot be divided among"):
            share(batch, 0, world)
        return
    slices = [share(batch, rank, world) for rank in range(world)]
    assert [i for first, last in slices for i in range(first, last)] == list(range(batch))
    assert max(b - a for a, b in slices) - min(b - a for a, b in slices) <= 1


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    orders = [epoch_of(Order(5000, 50, seed), epoch) for seed in (0, 1) for epoch in (0, 1)]
    orders.append(np.arange(5000))
    for i, one in enumerate(orders):
        for other in orders[:i]:
            assert np.mean(one == other) < 0.005
            assert abs(np.corrcoef(one, other)[0, 1]) < 0.06  # 4 sigma of independent orders
    serial = np.corrcoef(orders[0][:-1], orders[0][1:])[0, 1]
    assert abs(serial) < 0.06
    assert np.array_equal(orders[0], epoch_of(Order(5000, 25, 0), 0)), "the batch size moves no sample"


def test_a_batch_draws_from_all_over_the_axis() -> None:
    order, shards = Order(64 * 256, 32, 5), []
    for number in range(200):
        shards.append(len(set((order.batch_at(0, number)[0] // 256).tolist())))
    expected = 64 * (1 - (1 - 1 / 64) ** 32)  # 25.3 distinct shards for independent samples
    assert abs(np.mean(shards) - expected) < 0.7


def test_a_million_million_samples_cost_no_memory() -> None:
    order = Order(10**12, 4096, 1)
    order.batch_at(0, 0)
    tracemalloc.start()
    indices, mask = order.batch_at(7, 10**8, rank=1, world=2)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1e6
    assert indices.shape == (2048,)
    assert mask.all()
    assert indices.min() >= 0
    assert 9e11 < indices.max() < 10**12
    assert len(order) == 10**12 // 4096


def test_the_tail_is_dropped_or_padded() -> None:
    kept, mask = Order(10, 4, 0, tail="pad").batch_at(0, 2)
    assert mask.tolist() == [True, True, False, False]
    assert kept[1] == kept[2] == kept[3]
    assert [len(Order(10, 4, tail=tail)) for tail in ("drop", "pad")] == [2, 3]
    assert [Order(10, 4, tail=tail).batches_from(3) for tail in ("drop", "pad")] == [1, 2]


@pytest.mark.parametrize(("arguments", "sentence"), [
    ({"batch": 0}, "at least one sample, not 0"),
    ({"batch": 11}, "larger than the 10 samples"),
    ({"batch": 2, "tail": "keep"}, "'drop' or 'pad', not 'keep'"),
    ({"batch": 2, "samples": 0}, "at least one sample to read"),
])
def test_what_cannot_be_ordered_is_refused(arguments, sentence) -> None:
    with pytest.raises(ValueError, match=sentence):
        Order(**({"samples": 10} | arguments))


def test_a_place_outside_the_epoch_is_refused() -> None:
    with pytest.raises(ValueError, match="11 of them cannot have been consumed"):
        Order(10, 2).batches_from(11)
    with pytest.raises(ValueError, match="rank 2 does not exist in a world of 2"):
        Order(10, 2).batch_at(0, 0, rank=2, world=2)
