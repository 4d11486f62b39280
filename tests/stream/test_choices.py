"""Parts of a store, mixtures, lanes and unfinished stores: who is read, in which order, and what is refused.

Budget: 20 s on two cores.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from factory.floor import drawn, make
from factory.order import LANES, Order
from factory.recipe import Recipe, load
from factory.store import IncompleteStore, StoreError, make_part, materialise
from factory.stream import Batches, Member, Stream
from factory.units import UnitError

TEXT = """\
about: a decay
seed: {seed}
shard: 8
splits: {{train: {{levels: {{subject: 20, noise: 5}}}}, test: {{samples: 9}}}}
draw:
  t2: {{uniform: [10 ms, 300 ms], at: subject}}
  amplitude: {{uniform: [0.5, 1]}}
chain:
  - relaxation.t2_decay: {{echo_time: {{values: {echoes}, unit: ms}}}}
keep: [signal]
"""
N = 100


def recipe_of(folder: Path, seed: int = 3, echoes: str = "[10, 20, 40]") -> Recipe:
    path = folder / f"decay{seed}.yaml"
    path.write_text(TEXT.format(seed=seed, echoes=echoes))
    return load(path, set={"splits.test": "{levels: {subject: 3, noise: 3}}"})


@pytest.fixture(scope="module")
def recipes(tmp_path_factory: pytest.TempPathFactory) -> list[Recipe]:
    folder = tmp_path_factory.mktemp("recipes")
    return [recipe_of(folder, seed) for seed in (3, 4, 5)]


@pytest.fixture(scope="module")
def stores(recipes: list[Recipe], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("stores")
    for k, recipe in enumerate(recipes):
        materialise(recipe, folder / f"{k}.zarr", threads=1)
    return [folder / f"{k}.zarr" for k in range(len(recipes))]


def samples(batches: Any) -> list[int]:
    return [int(i) for batch in batches for i in batch["sample"]]


def test_what_is_drawn_is_what_is_made(recipes: list[Recipe]) -> None:
    for start, stop in ((0, N), (3, 4), (37, 91)):
        made, found = make(recipes[0], "train", start, stop), drawn(recipes[0], "train", start, stop)
        assert set(found) == {"t2", "amplitude"}
        for name, values in found.items():
            np.testing.assert_array_equal(values.astype("f4"), made[name].to_numpy())


@pytest.mark.parametrize("ends", [("50 ms", "0.2 s"), (None, "100 ms"), ("100 ms", None)])
def test_where_takes_what_lies_in_the_range(recipes: list[Recipe], stores: list[Path], ends: Any) -> None:
    whole = make(recipes[0], "train", 0, N)
    low, high = (default if end is None else {"50 ms": 0.05, "0.2 s": 0.2, "100 ms": 0.1}[end]
                 for end, default in zip(ends, (-1, 9), strict=True))
    where = {"t2": ends, "amplitude": (0.6, None)}
    wanted = np.flatnonzero((whole.t2 >= low) & (whole.t2 <= high) & (whole.amplitude >= 0.6))
    assert 0 < len(wanted) < N
    for source in (recipes[0], stores[0]):
        stream = Stream(source, "train", batch=4, where=where, shuffle=False, tail="pad")
        found = [i for b in stream for i in b["sample"][b["mask"]].tolist()]
        assert found == wanted.tolist()
        shuffled = Stream(source, "train", batch=len(wanted), where=where, seed=2)
        (batch,) = shuffled
        assert sorted(batch["sample"].tolist()) == found != batch["sample"].tolist()
        np.testing.assert_array_equal(batch["signal"].numpy(), whole.signal.values[batch["sample"]])


def test_limits_and_wrong_ranges(recipes: list[Recipe], stores: list[Path]) -> None:
    for source in (recipes[0], stores[0]):
        assert samples(Stream(source, "train", batch=5, limit=10, shuffle=False)) == list(range(10))
        assert Stream(source, "train", batch=5, limit=1000).samples == N
        for where, said in (({"t1": (0, 1)}, "'t1' is no scalar of the samples .there are"),
                            ({"t2": ("1 s", None)}, "none of the 100 samples is left with t2 from 1 s to None"),
                            ({"t2": "1 s"}, "needs a range")):
            with pytest.raises(ValueError, match=said):
                Stream(source, "train", batch=5, where=where)  # type: ignore[arg-type]
        with pytest.raises(UnitError, match="needs a unit of time"):
            Stream(source, "train", batch=5, where={"t2": (0.1, 1)})
        with pytest.raises(ValueError, match="at least one sample"):
            Stream(source, "train", batch=5, limit=0)


def test_another_choice_is_another_data_set(stores: list[Path]) -> None:
    streams = [Stream(stores[0], "train", batch=5, **o) for o in (
        {}, {"limit": 50}, {"where": {"amplitude": (0.6, None)}}, {"where": {"amplitude": (0.7, None)}})]  # type: ignore[arg-type]
    assert len({s.dataset_id for s in streams}) == 4
    with pytest.raises(ValueError, match="of another order: its dataset"):
        streams[1].load_state_dict(streams[2].state_dict())


def test_an_unfinished_store_is_read_as_far_as_it_is(recipes: list[Recipe], tmp_path: Path) -> None:
    whole = make(recipes[0], "train", 0, N)
    make_part(recipes[0], tmp_path / "s", (1, 2), threads=1)
    with pytest.raises(IncompleteStore):
        Stream(tmp_path / "s", "train", batch=4)
    stream = Stream(tmp_path / "s", "train", batch=4, partial=True, tail="pad", verify="always")
    assert 0 < stream.missing < N
    assert stream.samples == N - stream.missing
    found = []
    for batch in stream:
        index = batch["sample"].numpy()
        found += index[batch["mask"].numpy()].tolist()
        for name in ("signal", "t2", "amplitude"):
            np.testing.assert_array_equal(batch[name].numpy(), whole[name].values[index])
    assert sorted(found) == list(range(stream.samples))
    few = Stream(tmp_path / "s", "train", batch=2, partial=True, where={"amplitude": (0.8, None)}, shuffle=False)
    assert (whole.amplitude.values[samples(few)] >= 0.8).all()
    with pytest.raises(StoreError, match="holds no finished shard of split test"):
        Stream(tmp_path / "s", "test", batch=2, partial=True)
    with pytest.raises(ValueError, match="partial is for unfinished stores"):
        Stream(recipes[0], "train", batch=2, partial=True)


@settings(max_examples=60, deadline=None)
@given(n=st.integers(1, 3000), group=st.integers(1, 40), seed=st.integers(0, 9), epoch=st.integers(0, 3))
def test_lanes_read_every_sample_once(n: int, group: int, seed: int, epoch: int) -> None:
    order = Order(n, 1, seed, group=group)
    found = order.indices(epoch, np.arange(n))
    assert np.array_equal(np.sort(found), np.arange(n))
    assert np.array_equal(order.indices(epoch, np.array([n // 2])), found[[n // 2]])


def test_lanes_are_near_and_yet_mixed() -> None:
    """A batch comes from as many groups as it has samples, and all that is open at a time are as many as lanes."""
    order = Order(200 * 32 + 5, 64, seed=1, group=32)
    groups = np.concatenate([order.batch_at(0, k)[0] for k in range(len(order))]) // 32
    assert len(np.unique(groups[:64])) == LANES
    first = {int(g): int(np.argmax(groups == g)) for g in np.unique(groups)}
    last = {g: len(groups) - 1 - int(np.argmax(groups[::-1] == g)) for g in first}
    open_at = [sum(first[g] <= t <= last[g] for g in first) for t in range(0, len(groups), 97)]
    assert max(open_at) <= LANES
    assert order.batch_at(1, 0)[0].tolist() != order.batch_at(0, 0)[0].tolist()


@pytest.mark.parametrize("world", [1, 2, 4, 16, 64])
def test_no_group_is_read_by_two_ranks(world: int) -> None:
    order = Order(256 * 32, 64, seed=1, group=32)
    of_rank: list[set[int]] = [set() for _ in range(world)]
    for number in range(len(order)):
        together = []
        for rank in range(world):
            mine, _ = order.batch_at(0, number, rank=rank, world=world)
            of_rank[rank] |= set((mine // 32).tolist())
            together += mine.tolist()
        assert sorted(together) == sorted(order.batch_at(0, number)[0].tolist())
    assert sum(map(len, of_rank)) == 256


def test_lanes_of_a_store(recipes: list[Recipe], stores: list[Path]) -> None:
    both = [Stream(source, "train", batch=7, shuffle="lanes", seed=3, tail="pad") for source in (recipes[0], stores[0])]
    seen = []
    for live, stored in zip(*both, strict=True):
        assert all(torch.equal(live[name], stored[name]) for name in live)
        seen += stored["sample"][stored["mask"]].tolist()
    assert sorted(seen) == list(range(N))


# mixtures


def mixture(stores: Any, batch: int = 10, weights: Any = (3, 1), **options: Any) -> Stream:
    members = [Member(store, "train", weight) for store, weight in zip(stores, weights, strict=False)]
    return Stream(members, batch=batch, seed=1, **options)


def rows(stream: Any) -> list[tuple[int, int, int]]:
    names = ("member", "epoch", "sample")
    return [row for b in stream for row in zip(*(b[name].tolist() for name in names), strict=True)]


def test_a_mixture_keeps_its_weights(recipes: list[Recipe], stores: list[Path]) -> None:
    whole = [make(recipe, "train", 0, N) for recipe in recipes]
    stream = mixture(stores, epochs=4)
    found = []
    for batch in stream:
        found += batch["member"].tolist()
        for k, (member, index) in enumerate(zip(batch["member"].tolist(), batch["sample"].tolist(), strict=True)):
            assert batch["signal"][k].numpy().tobytes() == whole[member].signal.values[index].tobytes()
        assert torch.equal(batch["echo_time"], torch.tensor([0.01, 0.02, 0.04], dtype=torch.float64))
    share = np.cumsum(np.array(found) == 0) - 0.75 * np.arange(1, len(found) + 1)
    assert len(found) == 800
    assert np.abs(share).max() < 3  # multiples of the golden ratio are never farther than some log(n) from even


def test_members_are_read_epoch_by_epoch(stores: list[Path]) -> None:
    """Every sample of a member once before any is read again."""
    found = rows(mixture(stores, epochs=4))
    for member in (0, 1):
        mine = [(epoch, sample) for m, epoch, sample in found if m == member]
        assert len(set(mine)) == len(mine)
        assert [epoch for epoch, _ in mine] == sorted(epoch for epoch, _ in mine)
        assert len([1 for epoch, _ in mine if epoch == 0]) == N
        if member == 0:
            assert [s for e, s in mine if e == 0] != [s for e, s in mine if e == 1]


def test_a_curriculum_follows_the_step(stores: list[Path]) -> None:
    stream = mixture(stores, weights=(1, lambda step: 0 if step < 10 else 3), epochs=2)
    found = np.array([[m for m, _, _ in rows([b])] for b in stream])
    assert (found[:10] == 0).all()
    assert abs((found[10:] == 1).mean() - 0.75) < 0.02
    with pytest.raises(ValueError, match=r"the weights at step 0 are \[-1.0, 1.0\]"):
        list(mixture(stores, weights=(lambda step: -1.0, 1)))


@settings(max_examples=15, deadline=None)
@given(stop=st.integers(0, 45), again=st.sampled_from([10, 5, 20]), world=st.integers(1, 4))
def test_a_mixture_goes_on(stores: list[Path], stop: int, again: int, world: int) -> None:
    """With other batches and ranks, as if it had not stopped."""
    undisturbed = rows(mixture(stores, epochs=3))
    stream = mixture(stores, epochs=3)
    passed = iter(stream)
    for _ in range(stop):
        next(passed)
    state = stream.state_dict()
    ranks = [mixture(stores, again, epochs=3, rank=r, world=world) for r in range(world)]
    for rank in ranks:
        rank.load_state_dict(state)
    after = [row for batches in zip(*ranks, strict=True) for row in rows(batches)]
    expected = undisturbed[stop * 10 : stop * 10 + len(after)]
    assert len(after) >= len(expected) >= min(len(after), 600 - stop * 10)
    assert after[: len(expected)] == expected


def test_a_mixture_through_workers(stores: list[Path]) -> None:
    stream = mixture(stores, weights=(1, lambda step: 1 + step % 3))
    for epoch in range(2):
        stream.set_epoch(epoch)
        alone = rows(stream)
        loader = DataLoader(mixture(stores, weights=(1, lambda step: 1 + step % 3)), batch_size=None, num_workers=2)
        loader.dataset.set_epoch(epoch)  # type: ignore[attr-defined]
        assert rows(loader) == alone


def test_what_does_not_fit_together_is_refused(recipes: list[Recipe], stores: list[Path], tmp_path: Path) -> None:
    other = recipe_of(tmp_path, 9, "[10, 20]")
    for members, said in (
        ([Member(recipes[0], "train"), Member(other, "train")], "members 0 and 1 do not .*echo_time 3.*echo_time 2"),
        ([Member(recipes[0], "train"), Member(stores[0], "train")], r"the same seed \(3\) and split \(train\)"),
    ):
        with pytest.raises(ValueError, match=said):
            Stream(members, batch=4)
    assert len(Stream([Member(recipes[0], "train"), Member(stores[0], "train")], batch=4, paired=True)) == 50
    assert Stream([Member(recipes[0], "train"), Member(recipes[0], "test")], batch=4).samples == 109
    with pytest.raises(ValueError, match="each Member has its own split"):
        Stream([Member(recipes[0], "train")], "train", batch=4)


def test_arrays_without_torch(stores: list[Path]) -> None:
    arrays, tensors = (kind(stores[0], "train", batch=8, seed=4) for kind in (Batches, Stream))
    for one, two in zip(arrays, tensors, strict=True):
        assert list(one) == list(two)
        assert all(type(v) is np.ndarray and np.array_equal(v, two[name].numpy()) for name, v in one.items())
    assert arrays.state_dict() == tensors.state_dict()
    assert pickle.loads(pickle.dumps(arrays)).state_dict() == arrays.state_dict()
