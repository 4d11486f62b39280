"""One order for every number of ranks and loader workers, as well mixed as chance, and at once at any sample.

Budget: 15 s on two cores.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

import factory
from factory.order import Order, turns
from factory.recipe import Recipe
from factory.store import materialise
from factory.stream import Stream
from tests.stream.small import amplitudes, small_recipe, told

WORLDS, WORKERS = range(1, 65), range(9)


@given(samples=st.integers(64, 1000), batch=st.integers(64, 150), seed=st.integers(0, 2**63 - 1),
       epoch=st.integers(0, 10**6), world=st.sampled_from(WORLDS), workers=st.sampled_from(WORKERS),
       tail=st.sampled_from(["drop", "pad"]), data=st.data())
@settings(max_examples=120, deadline=None)
def test_every_world_and_loader_gives_the_order_of_one_process(samples, batch, seed, epoch, world, workers, tail,
                                                               data) -> None:
    order = Order(samples, min(batch, samples), seed, tail=tail)
    consumed = data.draw(st.integers(0, samples), label="consumed")
    total = order.batches_from(consumed)
    takers = {n: w for w in range(max(1, workers)) for n in turns(total, w, max(1, workers))}
    assert sorted(takers) == list(range(total)), "each batch has one worker"
    assert [takers[n] for n in range(total)] == [n % max(1, workers) for n in range(total)], "they take turns"
    seen: list[int] = []
    for number in range(total):
        parts = [order.batch_at(epoch, number, consumed=consumed, rank=r, world=world) for r in range(world)]
        alone, mask = order.batch_at(epoch, number, consumed=consumed)
        assert np.concatenate([indices for indices, _ in parts]).tolist() == alone.tolist()
        assert np.concatenate([own for _, own in parts]).tolist() == mask.tolist()
        seen += alone[mask].tolist()
    left = samples - consumed
    assert len(seen) == (left if tail == "pad" else left // order.batch * order.batch)
    assert len(set(seen)) == len(seen), "a sample came twice"
    assert not consumed or not set(seen) & set(order.indices(epoch, np.arange(consumed)).tolist())


def test_all_worlds_of_one_batch() -> None:
    order = Order(10**6, 64, 1)
    alone = order.batch_at(2, 77)[0]
    for world in WORLDS:
        parts = [order.batch_at(2, 77, rank=rank, world=world)[0] for rank in range(world)]
        assert np.array_equal(np.concatenate(parts), alone)
        assert min(map(len, parts)) >= 64 // world


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    return small_recipe(tmp_path_factory.mktemp("recipe"))


@pytest.fixture(scope="module")
def store(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("store") / "s.zarr"
    materialise(recipe, path, threads=1)
    return path


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_ranks_with_real_loaders_give_the_global_batches(recipe: Recipe, store: Path, workers: int) -> None:
    known, world = amplitudes(recipe), 3
    order = Order(101, 20, 8)
    loaders = [DataLoader(Stream(store, "train", batch=20, seed=8, rank=rank, world=world), batch_size=None,
                          num_workers=workers) for rank in range(world)]
    count = 0
    for number, parts in enumerate(zip(*loaders, strict=True)):
        together = torch.cat([part["amplitude"] for part in parts])
        assert told(together, known) == order.batch_at(0, number)[0].tolist()
        count += 1
    assert count == 5


def windowed(rng: np.random.Generator, shards: int, per_shard: int, window: int) -> np.ndarray:
    """The usual shuffle of sharded data: shards in random order, samples mixed among a few open ones."""
    groups = rng.permutation(shards).reshape(-1, window)
    return np.concatenate([rng.permutation((g[:, None] * per_shard + np.arange(per_shard)).ravel()) for g in groups])


def quality(order: np.ndarray, per_shard: int, batch: int = 32) -> tuple[float, float]:
    """Distinct shards in a batch, on average, and the correlation of a sample's number with the next one's."""
    batches = np.sort((order // per_shard).reshape(-1, batch), 1)
    distinct = 1 + (np.diff(batches, axis=1) > 0).sum(1)
    return float(distinct.mean()), float(np.corrcoef(order[:-1], order[1:])[0, 1])


def test_the_shuffle_is_as_good_as_chance_and_a_window_is_not() -> None:
    shards, per_shard = 64, 256
    n, rng = shards * per_shard, np.random.default_rng(1)
    chance = np.array([quality(rng.permutation(n), per_shard) for _ in range(60)])
    middle, spread = chance.mean(0), chance.std(0)
    full = np.array([quality(Order(n, n, seed).batch_at(epoch, 0)[0], per_shard)
                     for seed in range(6) for epoch in range(2)])
    window = np.array([quality(windowed(rng, shards, per_shard, 4), per_shard) for _ in range(12)])
    assert np.all(np.abs(full - middle) < 4.5 * spread), "one order is no worse than a random one"
    assert np.all(np.abs(full.mean(0) - middle) < 4.5 * spread / np.sqrt(12) + 4.5 * spread / np.sqrt(60))
    assert window[:, 0].max() <= 4 < 25 < full[:, 0].min(), "25 of 64 shards are in a batch of 32, not 4"
    assert window[:, 1].min() > 0.1 > 20 * np.abs(full[:, 1].mean()), "neighbours know each other in a window"


def test_resuming_a_thousand_million_samples_takes_no_time(tmp_path: Path) -> None:
    recipe = small_recipe(tmp_path, train=10**9)
    state = Stream(recipe, "train", batch=4096, seed=5).state_dict() | {"epoch": 3, "consumed": 499_999_993}
    Order(10**6, 4096).batch_at(0, 0)  # the kernel is compiled once in a process
    spent = []
    for _ in range(3):
        begun = time.process_time()
        stream = Stream(recipe, "train", batch=4096, seed=5)
        stream.load_state_dict(state)
        at = stream.state_dict()
        indices, _ = stream.order.batch_at(at["epoch"], 0, consumed=at["consumed"])
        spent.append(time.process_time() - begun)
    assert min(spent) < 0.1
    assert np.array_equal(indices, stream.order.indices(3, np.arange(499_999_993, 499_999_993 + 4096)))
    assert np.ptp(indices) > 9e8
    small = Stream(recipe, "train", batch=8, seed=5)
    small.load_state_dict(state)
    batch = next(iter(small))
    assert batch["sample"].tolist() == indices[:8].tolist()
    for k in (0, 7):
        wanted = factory.make(recipe, "train", int(indices[k]), int(indices[k]) + 1)
        assert batch["signal"][k].numpy().tobytes() == wanted.signal.values.tobytes()
    assert small.state_dict()["consumed"] == 500_000_001
