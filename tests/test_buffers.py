"""Page-locked buffers and the way to a GPU.

Budget: 10 s on two cores.  The tests marked gpu need a CUDA device.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from factory.recipe import Recipe, load
from factory.store import materialise
from factory.stream import Batch, Stream, on_device
from factory.stream.memory import Pool
from factory.stream.tensors import BUFFERS

RECIPE = """\
about: two numbers and eight echoes
seed: 7
shard: 16
splits: {train: {samples: 100}}
draw: {t2: {uniform: [10 ms, 1 s]}, t1: {uniform: [1 s, 2 s]}, b1: {constant: 1}}
chain: [{epg.cpmg: {spacing: 8 ms, n_echo: 8}}]
keep: [signal, t2]
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    path = tmp_path_factory.mktemp("recipe") / "echoes.yaml"
    path.write_text(RECIPE)
    return load(path)


@pytest.fixture(scope="module")
def store(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("store") / "store"
    materialise(recipe, path, threads=1)
    return path


def equal(one: Batch, other: Batch) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("live", [False, True])
def test_buffers_that_are_used_again_hold_the_same(live: bool, recipe: Recipe, store: Path) -> None:
    """A batch is valid until the next but one is asked for; by default for ever."""
    source = recipe if live else store
    fresh = list(Stream(source, "train", batch=8, seed=3, epochs=2))
    before, places = None, set[int]()
    for number, batch in enumerate(Stream(source, "train", batch=8, seed=3, epochs=2, pinned=True)):
        assert equal(batch, fresh[number])
        assert before is None or equal(before, fresh[number - 1])
        before = batch
        places.add(batch["signal"].data_ptr())
    assert len(places) <= BUFFERS
    assert len({batch["signal"].data_ptr() for batch in fresh}) == len(fresh)


def test_without_a_gpu_batches_come_as_they_are(store: Path) -> None:
    batches = list(Stream(store, "train", batch=8))
    assert all(map(equal, on_device(batches, "cpu"), batches))


@pytest.mark.gpu
def test_batches_arrive_whole_on_a_gpu(store: Path) -> None:
    """Also when the buffers are used again while the GPU works on what it got."""
    fresh = list(Stream(store, "train", batch=8, seed=3, epochs=5))
    stream = Stream(store, "train", batch=8, seed=3, epochs=5, pinned=True)
    weight, seen = torch.randn(2000, 2000, device="cuda"), []
    for batch in on_device(stream, "cuda"):
        for _ in range(20):
            weight = torch.tanh(weight @ weight)
        seen.append({name: tensor.clone() for name, tensor in batch.items()})
    assert len(seen) == len(fresh)
    assert all(equal({name: tensor.cpu() for name, tensor in batch.items()}, wanted)
               for batch, wanted in zip(seen, fresh, strict=True))


def test_a_pool_lends_no_memory_twice() -> None:
    """A block comes back when the last view of it is gone, and not before."""
    pool = Pool(2)
    first = pool("a", (40, 1000), "float32")
    place, view = first.__array_interface__["data"][0], first[3:5].T
    first[:] = 7
    del first
    second = pool("a", (40, 1000), "float32")
    second[:] = 8
    assert (view == 7).all()
    del view
    third = torch.from_numpy(pool("a", (10, 1000), "complex64"))
    assert third.data_ptr() == place
    kept = third[1]
    del third
    assert pool("a", (40, 1000), "float32").__array_interface__["data"][0] not in (place, second.ctypes.data)
    assert kept.data_ptr() == place + 8000
    many = [pool("a", (40, 1000), "float32") for _ in range(5)]
    assert len({one.ctypes.data for one in many}) == 5
    del many
    assert len(pool.free["a"]) == 2
