"""A data set that is not made yet: opens at once, makes what is asked for, equals what a store would hold.

Budget: 5 s on two cores.
"""

from __future__ import annotations

import pickle
import threading
import time
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

import factory
import factory.floor
from factory import virtual
from factory.recipe import Recipe, load
from factory.store import materialise
from factory.virtual import FactoryBackend, Selection, VirtualArray

RECIPE = """\
about: a signal of five echoes
seed: 3
shard: 8
splits:
  train: {samples: 37}
  study: {levels: {subject: 4, noise: 6}}
draw:
  t2: {uniform: [10 ms, 300 ms]}
  amplitude: {uniform: [0.5, 1]}
  sigma: {constant: 0.05}
chain:
  - relaxation.t2_decay: {echo_time: {values: [10, 20, 40, 80, 160], unit: ms}, as: {signal: clean}}
  - noise.gaussian: {signal: clean, as: {measured: signal}}
keep: [signal, {clean: complex64}]
"""
HUGE = 10**12


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipes") / "echoes.yaml"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="module")
def whole(path: Path) -> xr.Dataset:
    return factory.make(load(path), "train", 0, 37)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The samples that are made at once from now on, nothing made before being remembered."""
    calls: list[list[int]] = []
    true_make = factory.floor.make_at

    def make_at(recipe: Recipe, split: str, index: np.ndarray) -> xr.Dataset:
        calls.append(index.tolist())
        return true_make(recipe, split, index)

    monkeypatch.setattr(factory.floor, "make_at", make_at)
    monkeypatch.setattr(virtual, "_made", virtual.Made(virtual.KEPT_BYTES))
    return calls


def huge(path: Path) -> xr.Dataset:
    return factory.open(path, "train", samples={"train": HUGE})


def test_xarray_finds_the_backend(path: Path, whole: xr.Dataset) -> None:
    xr.testing.assert_identical(xr.open_dataset(path, engine=FactoryBackend, split="train").load(), whole)
    assert "factory" in xr.backends.list_engines(), "install the package: its entry point names the backend"
    xr.testing.assert_identical(xr.open_dataset(path, engine="factory", split="train").load(), whole)
    xr.testing.assert_identical(xr.open_dataset(str(path), split="train").load(), whole)  # the engine is guessed


def test_opening_and_looking_make_nothing(path: Path, made: list[list[int]]) -> None:
    dataset = huge(path)
    assert dataset.sizes == {"sample": HUGE, "echo_time": 5}
    assert "sample" not in dataset.coords
    assert dataset.echo_time.values.tolist() == [0.01, 0.02, 0.04, 0.08, 0.16]
    for text in (repr(dataset), dataset._repr_html_(), repr(dataset.signal), repr(dataset.signal.variable._data)):
        assert "signal" in text
    dataset.transpose("echo_time", "sample")
    dataset.isel(sample=slice(5, None, 3)).signal.isel(echo_time=[1, 2]).transpose()
    assert made == []


def test_a_million_million_samples_open_in_five_milliseconds(path: Path) -> None:
    recipe = load(path, samples={"train": HUGE})
    times = []
    for _ in range(7):
        virtual._known_coordinates.cache_clear()
        virtual._coordinates.cache_clear()
        begin = time.perf_counter()
        factory.open(recipe, "train")
        times.append(time.perf_counter() - begin)
    assert min(times) < 5e-3, times


def test_a_selection_makes_exactly_its_samples(path: Path, made: list[list[int]]) -> None:
    dataset = huge(path)
    one = dataset.isel(sample=123_456_789).load()
    assert made == [[123_456_789]], "all variables of a sample come from making it once"
    assert one.signal.shape == (5,)
    made.clear()
    dataset.isel(sample=[7, -1, 7, 5, 8]).load()
    assert made == [[5, 7, 8, HUGE - 1]]
    made.clear()
    dataset.signal[slice(100, 90, -3)].load()
    assert made == [[91, 94, 97, 100]]


def test_a_sample_is_the_one_of_its_shard(path: Path) -> None:
    dataset = huge(path)
    recipe = load(path, samples={"train": HUGE})
    shard = factory.make(recipe, "train", 123_456_784, 123_456_792)
    xr.testing.assert_identical(dataset.isel(sample=123_456_789).load(), shard.isel(sample=5))


SELECTIONS: list[dict[str, Any]] = [
    {"sample": 36}, {"sample": -1}, {"sample": slice(3, 30, 7)}, {"sample": slice(None, None, -1)},
    {"sample": slice(30, 2, -5)}, {"sample": [4, 4, 0, -3]}, {"sample": np.arange(37) % 3 == 0}, {"sample": []},
    {"sample": slice(9, 9)}, {"echo_time": 2}, {"echo_time": [3, 0]}, {"sample": [1, 2], "echo_time": slice(4, 0, -2)},
    {"sample": [9, 3, 9], "echo_time": [1, 1, 0, 4]}, {"sample": 5, "echo_time": -1},
    {"sample": xr.DataArray([[3, 9], [36, 3]], dims=("a", "b"))},
    {"sample": xr.DataArray([3, -9, 36], dims="p"), "echo_time": xr.DataArray([0, 4, -2], dims="p")},
    {"echo_time": xr.DataArray([[2], [0]], dims=("a", "b"))},
    {"sample": slice(2, 30, 4), "echo_time": xr.DataArray([2, 0, 2], dims="p")},
    {"sample": xr.DataArray([5, 6], dims="q"), "echo_time": xr.DataArray([1, 2, 3], dims="p")},
]


@pytest.mark.parametrize("selection", SELECTIONS, ids=str)
def test_every_kind_of_indexing(path: Path, whole: xr.Dataset, selection: dict[str, Any]) -> None:
    dataset = factory.open(path, "train")
    xr.testing.assert_identical(dataset.isel(selection).load(), whole.isel(selection))
    turned = dataset.transpose("echo_time", "sample").isel(selection)
    xr.testing.assert_identical(turned.load(), whole.transpose("echo_time", "sample").isel(selection))
    again = dataset.isel(sample=slice(1, None)).isel(selection) if selection.get("sample") is None else None
    if again is not None:
        xr.testing.assert_identical(again.load(), whole.isel(sample=slice(1, None)).isel(selection))


def test_pointwise_indexing_expands_no_axis(path: Path, made: list[list[int]]) -> None:
    dataset = huge(path)
    points = {"sample": xr.DataArray([5, HUGE - 2, 5], dims="p"), "echo_time": xr.DataArray([0, 1, 2], dims="p")}
    begin = time.perf_counter()
    signal = dataset.signal.isel(points).load()
    assert time.perf_counter() - begin < 1.0
    assert made == [[5, HUGE - 2]]
    assert signal.values[2] == dataset.signal[5, 2].values
    later = dataset.signal.isel(echo_time=points["echo_time"]).isel(sample=slice(5, 8))  # the long axis comes later
    assert later.load().sizes == {"sample": 3, "p": 3}
    assert np.array_equal(later[0].values, dataset.signal[5, :3].values)


@given(data=st.data())
@settings(max_examples=250, deadline=None)
def test_selections_compose_as_in_numpy(data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=3), label="shape"))
    wanted = np.arange(np.prod(shape)).reshape(shape)
    chosen = Selection.everything(shape)
    for _ in range(data.draw(st.integers(1, 4))):
        if wanted.ndim == 0:
            break
        kind = data.draw(st.sampled_from(["transpose", "outer", "points"]))
        if kind == "transpose":
            order = data.draw(st.permutations(range(wanted.ndim)))
            wanted, chosen = wanted.transpose(order), chosen.transpose(order)
            continue
        common = tuple(data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=2)))
        key = [data.draw(_one_index(n, kind, common)) for n in wanted.shape]
        if kind == "outer":
            for axis in reversed(range(wanted.ndim)):
                wanted = wanted[(slice(None),) * axis + (key[axis],)]
            chosen = chosen.outer(key)
        elif not all(isinstance(k, slice) for k in key):
            pointed = [axis for axis, k in enumerate(key) if not isinstance(k, slice)]
            wanted = np.moveaxis(wanted, pointed, range(len(pointed)))[tuple(key[axis] for axis in pointed)]
            wanted = wanted[(slice(None),) * len(common) + tuple(k for k in key if isinstance(k, slice))]
            chosen = chosen.points(key)
        assert chosen.shape == wanted.shape
    if wanted.size:
        assert np.array_equal(_values(chosen, shape), wanted)


def _one_index(n: int, kind: str, common: tuple[int, ...]) -> st.SearchStrategy[Any]:
    if n == 0:
        return st.just(slice(None))
    place, count = st.integers(-n, n - 1), int(np.prod(common))
    if kind == "outer":
        return st.one_of(place, st.slices(n), st.lists(place, max_size=4).map(lambda v: np.array(v, np.int64)))
    return st.one_of(
        st.slices(n),
        st.lists(place, min_size=count, max_size=count).map(lambda v: np.array(v, np.int64).reshape(common)),
    )


def _values(chosen: Selection, shape: tuple[int, ...]) -> np.ndarray:
    """What a selection takes from ``arange`` of a shape, element by element."""
    result = np.empty(chosen.shape, np.int64)
    for place in np.ndindex(*result.shape):
        inner = [0] * len(place)
        for axis, i in zip(chosen.order, place, strict=True):
            inner[axis] = i
        index, axis = [], chosen.vectors
        for part in chosen.parts:
            if isinstance(part, range):
                index.append(part[inner[axis]])
                axis += 1
            else:
                index.append(part[tuple(min(i, n - 1) for i, n in zip(inner, part.shape, strict=False))])
        result[place] = np.ravel_multi_index(index, shape)
    return result


@pytest.mark.parametrize("key", [{"sample": 37}, {"sample": [0, 37]}, {"sample": -38},
                                 {"sample": xr.DataArray([37], dims="p"), "echo_time": xr.DataArray([0], dims="p")}])
def test_outside_the_axis_is_an_error(path: Path, key: dict[str, Any]) -> None:
    with pytest.raises(IndexError):
        factory.open(path, "train").isel(key).load()


def test_virtual_is_identical_to_stored(path: Path, tmp_path: Path) -> None:
    store = tmp_path / "echoes.zarr"
    materialise(load(path), store, threads=1)
    for split in ("train", "study"):
        dataset, stored = factory.open(path, split), factory.open(store, split)
        xr.testing.assert_identical(dataset.isel(sample=slice(3, 19)), stored.isel(sample=slice(3, 19)))
        xr.testing.assert_identical(dataset.load(), stored.load())
        assert (dataset.signal - stored.signal).max() == 0  # their coordinates align
    tree = factory.open(store)
    assert set(tree.children) == {"train", "study"}
    with pytest.raises(ValueError, match="no split 'dev'; it has train, study"):
        factory.open(store, "dev")
    with pytest.raises(ValueError, match="samples belong to recipes"):
        factory.open(store, "train", samples={"train": 3})


def test_dask_chunks_are_shards(path: Path) -> None:
    dataset = xr.open_dataset(path, engine=FactoryBackend, split="train", chunks={})
    assert dataset.chunks["sample"] == (8, 8, 8, 8, 5)
    xr.testing.assert_identical(dataset.compute(scheduler="threads"), factory.open(path, "train").load())
    far = xr.open_dataset(path, engine=FactoryBackend, split="train", chunks={}, samples={"train": HUGE})
    assert len(far.chunks["sample"]) <= virtual.MOST_CHUNKS
    near = far.signal.isel(sample=slice(HUGE - 3, None))
    with dask.config.set(scheduler="synchronous"):
        assert near.compute().shape == (3, 5)


def test_threads_that_want_one_block_make_it_once(path: Path, made: list[list[int]]) -> None:
    dataset = factory.open(path, "train")
    names = ["signal", "clean", "t2", "sigma"]
    threads = [threading.Thread(target=dataset[name].isel(sample=slice(0, 8)).load) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == [[*range(8)]]


def test_what_was_made_is_bounded_in_bytes(path: Path, made: list[list[int]], monkeypatch: Any) -> None:
    limited = virtual.Made(1000)
    monkeypatch.setattr(virtual, "_made", limited)
    dataset = factory.open(path, "train")
    for start in range(0, 30, 5):
        dataset.signal[start : start + 5].load()
        assert 0 < limited.held <= 1000
        assert limited.held == sum(block.nbytes for block in limited.blocks.values())
    assert not limited.busy
    made.clear()
    dataset.t2[25:30].load()
    assert made == [], "the last block is still there"


def test_a_large_selection_is_made_in_blocks(path: Path, whole: xr.Dataset, made: list[list[int]],
                                             monkeypatch: Any) -> None:
    monkeypatch.setattr(virtual, "BLOCK_BYTES", 10 * load(path).splits["train"].sample_bytes)
    assert np.array_equal(factory.open(path, "train").signal[2:].values, whole.signal[2:])
    assert made == [[*range(2, 12)], [*range(12, 22)], [*range(22, 32)], [*range(32, 37)]]


def test_a_block_needs_no_more_outer_draws_than_one_without_gaps(path: Path, made: list[list[int]],
                                                                 monkeypatch: Any) -> None:
    recipe = load(path, set={"splits.study.levels": "{subject: 100, noise: 6}"})
    monkeypatch.setattr(virtual, "BLOCK_BYTES", 6 * recipe.splits["study"].sample_bytes)
    dataset, whole = factory.open(recipe, "study"), factory.make(recipe, "study", 0, 600)
    made.clear()
    assert np.array_equal(dataset.signal[3:12].values, whole.signal[3:12])
    assert made == [[*range(3, 9)], [*range(9, 12)]]
    made.clear()
    far = [0, 1, 50, 100, 101, 200, 300, 599]
    assert np.array_equal(dataset.signal[far].values, whole.signal[far])
    assert made == [[0, 1, 50, 100, 101], [200, 300, 599]]


def test_values_are_the_users_own(path: Path, whole: xr.Dataset) -> None:
    dataset = factory.open(path, "train")
    dataset.signal[0:4].values[:] = -1
    assert np.array_equal(dataset.signal[0:4].values, whole.signal[0:4])


def test_everything_at_once_is_refused_in_a_sentence(path: Path) -> None:
    with pytest.raises(MemoryError, match=r"signal of echoes/train: the selection has 1000000000000000 samples"):
        factory.open(path, "train", samples={"train": 10**15}).signal.values  # noqa: B018


def test_pickle_holds_the_recipe_and_no_samples(path: Path) -> None:
    dataset = huge(path)
    dataset.isel(sample=slice(0, 2000)).load()
    text = pickle.dumps(dataset)
    assert len(text) < 20_000
    again = pickle.loads(text)
    xr.testing.assert_identical(again.isel(sample=[4, 2]).load(), dataset.isel(sample=[4, 2]).load())


@pytest.mark.parametrize("split", [None, "validation"])
def test_a_split_has_no_default_where_there_are_two(path: Path, split: str | None) -> None:
    with pytest.raises(ValueError, match="it has train, study"):
        factory.open(path, split)


def test_drop_and_options(path: Path) -> None:
    dataset = factory.open(path, "train", drop_variables=["clean", "t2"], samples={"train": 99})
    assert set(dataset.data_vars) == {"signal", "sigma", "amplitude"}
    assert dataset.sizes["sample"] == 99
    with pytest.raises(ValueError, match="loaded already"):
        factory.open(load(path), "train", samples={"train": 5})


def test_only_our_recipes_are_ours(path: Path, tmp_path: Path) -> None:
    backend = FactoryBackend()
    assert backend.guess_can_open(path)
    assert backend.guess_can_open(str(path))
    assert backend.guess_can_open(factory.list_recipes()[0])
    (tmp_path / "compose.yaml").write_text("services:\n  web: {image: x}\n")
    (tmp_path / "draw.yaml").write_text("draw: {}\n")
    (tmp_path / "large.yaml").write_text(RECIPE + "# " + "x" * 300_000)
    (tmp_path / "folder.yaml").mkdir()
    names = ("compose.yaml", "draw.yaml", "large.yaml", "folder.yaml", "none.yaml", "a.nc")
    for wrong in (*map(tmp_path.joinpath, names), "store.zarr", "no_recipe", "https://example.org/x.yaml", b"CDF", 3):
        assert not backend.guess_can_open(wrong)


def test_a_step_that_changes_its_list_is_caught(path: Path, monkeypatch: Any) -> None:
    recipe = load(path)
    dataset = factory.open(recipe, "train")
    monkeypatch.setattr(virtual, "_made", virtual.Made(0))
    monkeypatch.setattr(virtual, "_known_coordinates", lambda recipe, split: {"echo_time": np.zeros(5)})
    with pytest.raises(ValueError, match="echo_time"):
        dataset.signal[0].load()


def test_arrays_say_what_they_are(path: Path) -> None:
    array = factory.open(path, "train").clean
    assert array.dtype == np.complex64
    assert array.attrs["units"] == "1"
    inner = VirtualArray(load(path), "train", "clean", Selection.everything((37, 5)))
    assert repr(inner) == "VirtualArray('clean' of echoes/train, shape=(37, 5), not made yet)"
