"""Stores: the same bytes whoever makes them, and a plain sentence when something is wrong.

Budget: 20 s on two cores.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import xarray as xr
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.core.buffer import default_buffer_prototype
from zarr.storage import MemoryStore

import factory.floor
import factory.store.behaviour
import factory.store.layout
import factory.store.memory
import factory.store.run
from cluster.connect import connect
from cluster.profiles import Profile
from factory.recipe import Recipe, load
from factory.recipe.model import Split, Variable
from factory.store import (
    AnotherRecipe,
    Commit,
    DamagedStore,
    IncompleteStore,
    LayoutError,
    NoStore,
    StoreError,
    check,
    coordinate_values,
    estimate,
    materialise,
    open_store,
    read_layout,
    scalar_values,
    status,
    write,
)
from factory.store.encode import decode, encode_chunk, encode_shard
from factory.store.finish import Merkle
from factory.store.layout import DTYPES, Bulk, Layout, inner_chunk, layout, layouts, samples_per_shard, tasks
from factory.store.metadata import array_document, create
from factory.store.workers import MOST, _Groups
from tests.test_recipe import GOOD

RECIPE = (
    GOOD.replace("seed: 7\n", "seed: 7\nshard: 16\n")
    .replace("{samples: 24}", "{samples: 100}")
    .replace("{samples: 8,", "{samples: 16,")
)


def tree(store: Path) -> dict[str, bytes | None]:
    """Every file's bytes and every folder of a store, without its log."""
    found = {}
    for path in sorted(store.rglob("*")):
        name = path.relative_to(store).as_posix()
        if not name.startswith(".factory/log"):
            found[name] = path.read_bytes() if path.is_file() else None
    return found


def recipe_of(folder: Path, text: str = RECIPE) -> Recipe:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "small.yaml"
    path.write_text(text)
    return load(path)


@pytest.fixture
def store(recipe: Recipe, tmp_path: Path) -> Path:
    """A finished store that a test may damage."""
    materialise(recipe, tmp_path / "store", threads=1)
    return tmp_path / "store"


# --- made-up recipes: any variables, numbers that say where they belong ---------------------------------------------

def made_up(variables: list[Variable], samples: int = 10, shard: int | None = 4) -> Recipe:
    split = Split("train", samples, (("sample", samples),), (), (), {v.name: v for v in variables})
    return Recipe("made_up", "", 0, f"samples: {samples}\n", "ab" * 32, {"train": split}, shard)


def numbers(variable: Variable, start: int, stop: int) -> np.ndarray[Any, Any]:
    count = int(np.prod(variable.shape))
    values = np.arange(start * count, stop * count).reshape(stop - start, *variable.shape)
    if variable.dtype.startswith("complex"):
        return (values - 2j * values).astype(variable.dtype)
    return (values % 2 if variable.dtype == "bool" else values % 100).astype(variable.dtype)


def make_numbers(recipe: Recipe, split: str, start: int, stop: int) -> xr.Dataset:
    data, coords = {}, {}
    for v in recipe.splits[split].variables.values():
        if v.coordinate:
            coords[v.name] = xr.Variable(v.dims, np.arange(v.shape[0]).astype(v.dtype), {"units": v.unit})
        else:
            data[v.name] = xr.Variable(("sample", *v.dims), numbers(v, start, stop), {"units": v.unit})
    return xr.Dataset(data, coords)


@pytest.fixture
def fake_floor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(factory.floor, "make", make_numbers)


# --- the layout ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("dtype", "shape", "per_shard", "chunk"), [
    ("complex64", (256,), 16384, (64, 256)),  # 2 kB
    ("float32", (40, 40, 31), 256, (1, 40, 40, 31)),  # 198 kB
    ("float32", (64, 64, 64), 32, (1, 64, 64, 64)),  # 1 MB
    ("float32", (32,), 1 << 18, (1024, 32)),  # 128 B
    ("float32", (512, 512, 512), 1, (1, 1, 512, 512)),  # 537 MB: cut along its slowest dimension
    ("float32", (300, 100, 1000), 1, (1, 1, 100, 1000)),
    ("float32", (60000, 10, 30), 1, (1, 120, 10, 30)),  # rows of 1200 B: 120 of them reach 128 kB and divide 60000
])
def test_shards_hold_32_to_64_MB_and_chunks_128_kB(dtype: str, shape: tuple[int, ...], per_shard: int,
                                                   chunk: tuple[int, ...]) -> None:
    dims = tuple(f"d{k}" for k in range(len(shape)))
    plan = layout(made_up([Variable("a", "1", dtype, dims, shape)], 10**6, None), "train")
    assert (plan.per_shard, plan.bulk["a"].chunk) == (per_shard, chunk)
    nbytes = plan.per_shard * plan.bulk["a"].sample_bytes
    assert 32e6 <= nbytes <= 64e6 or plan.per_shard == 1
    assert plan.bulk["a"].chunk_bytes >= 128_000


def test_the_layout_does_not_depend_on_the_number_of_samples() -> None:
    variable = Variable("a", "1", "float32", ("x",), (100,))
    few, many = (layout(made_up([variable], n, None), "train") for n in (3, 10**9))
    assert (few.per_shard, few.bulk) == (many.per_shard, many.bulk)
    assert (few.shards, many.shards) == (1, -(-(10**9) // few.per_shard))


def test_scalars_bound_a_shard_too() -> None:
    variables = [Variable(f"s{k}", "1", "float64", (), ()) for k in range(16)]
    split = made_up(variables, 10**9, None).splits["train"]
    assert samples_per_shard(split) * 16 * 8 <= 64e6, "a commit carries the scalars of its shard"


@given(st.integers(1, 4000), st.lists(st.integers(1, 400), min_size=1, max_size=3), st.sampled_from(sorted(DTYPES)))
def test_inner_chunks_divide_a_shard(per_shard: int, shape: list[int], dtype: str) -> None:
    if np.dtype(dtype).itemsize * int(np.prod(shape)) > 64e6:
        per_shard = 1  # as samples_per_shard says
    chunk = inner_chunk(dtype, tuple(shape), per_shard)
    assert per_shard % chunk[0] == 0
    assert shape[0] % chunk[1] == 0
    assert list(chunk[2:]) == shape[1:]
    bulk = Bulk("a", "1", dtype, ("x",) * len(shape), tuple(shape), per_shard, chunk)
    assert bulk.chunks_per_shard <= 65_536
    assert bulk.chunk_bytes >= 128_000 or chunk[:2] == (per_shard, shape[0])


def by_zarr(document: Any, values: Any) -> bytes:
    """The only chunk or shard of an array as zarr-python writes it."""
    held: dict[str, Any] = {"zarr.json": default_buffer_prototype().buffer.from_bytes(json.dumps(document).encode())}
    array = zarr.open_array(MemoryStore(held), mode="r+", zarr_format=3, config={"write_empty_chunks": True})
    array[...] = values
    (key,) = [key for key in held if key != "zarr.json"]
    return bytes(held[key].to_bytes())


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int32", "float32"])
def test_zeros_are_written_like_any_number(dtype: str) -> None:
    """Air is no missing data: an inner chunk of zeros takes its place in the shard, and zarr-python reads it."""
    bulk = Bulk("a", "1", dtype, ("x",), (3,), 4, (2, 3))
    document = array_document(bulk, Layout("train", 4, 4, {"a": bulk}, {}, {}, ("a",)), {})
    for values in (np.zeros((4, 3), dtype), np.array([[0, 0, 0]] * 2 + [[1, 0, 1]] * 2, dtype)):
        raw = b"".join(encode_shard(bulk, values))
        assert len(raw) == bulk.size(4)
        np.testing.assert_array_equal(decode(document, "c.0.0", raw), values)


@pytest.mark.parametrize("dtype", sorted(DTYPES))
@pytest.mark.parametrize(("length", "samples"), [(7, 7), (7, 3), (1, 1)])
def test_plain_chunks_are_those_of_zarr_python(dtype: str, length: int, samples: int) -> None:
    values = numbers(Variable("a", "1", dtype, (), ()), 5, 5 + samples)
    plan = replace(layout(made_up([Variable("a", "1", dtype, (), ())], length, 4), "train"), samples=samples)
    document = array_document(plan.scalars["a"], plan, {})
    document["chunk_grid"]["configuration"]["chunk_shape"] = [length]
    assert bytes(encode_chunk(values, length)) == by_zarr(document, values)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_addresses_find_every_sample_in_what_zarr_wrote(data: st.DataObject) -> None:
    """The reader's arithmetic, our encoder and zarr-python's agree: any dtype, shape, shard, tail, and cut samples."""
    dtype = data.draw(st.sampled_from(sorted(DTYPES)))
    shape = tuple(data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=3)))
    pieces = data.draw(st.booleans())
    per_shard = 1 if pieces else data.draw(st.integers(1, 24))
    samples = data.draw(st.integers(1, per_shard))
    whole = data.draw(st.sampled_from([n for n in range(1, per_shard + 1) if per_shard % n == 0]))
    rows = data.draw(st.sampled_from([n for n in range(1, shape[0] + 1) if shape[0] % n == 0])) if pieces else shape[0]
    bulk = Bulk("a", "1", dtype, ("x",) * len(shape), shape, per_shard, (whole, rows, *shape[1:]))
    plan = Layout("train", samples, per_shard, {"a": bulk}, {}, {}, ("a",))
    values = numbers(Variable("a", "1", dtype, ("x",) * len(shape), shape), 5, 5 + samples)
    if values.dtype.kind in "biu":  # zarr-python leaves out an inner chunk of zeros, whatever it is told
        values = np.where(values == 0, np.ones_like(values), values)
    raw = by_zarr(array_document(bulk, plan, {}), values)
    assert len(raw) == bulk.size(samples)
    assert b"".join(encode_shard(bulk, values)) == raw
    for row in range(samples):
        begins = [bulk.offset(row) + k * bulk.stride for k in range(bulk.pieces)]
        step = min(bulk.chunk_bytes, bulk.sample_bytes)
        assert b"".join(raw[b : b + step] for b in begins) == values[row].tobytes()


@pytest.mark.parametrize("dtype", sorted(DTYPES))
def test_our_metadata_say_what_zarr_python_says(dtype: str) -> None:
    plan = layout(made_up([Variable("a", "s", dtype, ("y", "x"), (3, 5))], 10, 4), "train")
    nan = {"f": np.nan, "c": complex(np.nan, np.nan), "b": False}.get(np.dtype(dtype).kind, 0)
    array: Any = zarr.create_array(
        MemoryStore(), shape=(10, 3, 5), shards=(4, 3, 5), chunks=plan.bulk["a"].chunk, dtype=dtype, fill_value=nan,
        compressors=[{"name": "crc32c"}], chunk_key_encoding={"name": "default", "separator": "."},
        dimension_names=("sample", "y", "x"), attributes={"units": "s"})
    theirs = json.loads(json.dumps(array.metadata.to_dict()))
    assert array_document(plan.bulk["a"], plan, {"units": "s"}) == theirs


def test_what_cannot_be_stored_is_named() -> None:
    with pytest.raises(LayoutError, match="'a' has the dtype <U3"):
        layout(made_up([Variable("a", "1", "<U3", ("x",), (3,))]), "train")
    with pytest.raises(LayoutError, match=r"'a' has the shape \(0,"):
        layout(made_up([Variable("a", "1", "float32", ("x",), (0,))]), "train")


def test_the_estimate_is_what_lies_on_the_disk(recipe: Recipe, undisturbed: Path) -> None:
    files = [p for p in undisturbed.rglob("*") if p.is_file() and ".factory/log" not in p.as_posix()]
    guess = estimate(recipe)
    # One line of each commit and the metadata are text that no arithmetic foresees.
    data = sum(p.stat().st_size for p in files if p.name.startswith("c.") and p.parent.name == "noisy")
    scalars = 2 * 116 * 4 * 4
    assert guess.nbytes == data + scalars
    assert (guess.files, guess.shards, guess.samples) == (len(files), 8, 116)
    assert guess.shard_bytes == 16 * 8 * 4 + 4 + 16 + 4 + 16 * 4 * 4


# --- the same bytes ---------------------------------------------------------------------------------------------------

def test_random_order_by_hand_gives_the_same_bytes(recipe: Recipe, undisturbed: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    create(recipe, store)
    todo = list(tasks(layouts(recipe)))
    random.Random(3).shuffle(todo)
    commits = [write(recipe, store, *task) for task in todo]
    assert [write(recipe, store, *task) for task in todo] == commits, "writing again only says what is there"
    materialise(recipe, store)
    assert tree(store) == tree(undisturbed)


def test_threads_give_the_same_bytes(recipe: Recipe, undisturbed: Path, tmp_path: Path) -> None:
    materialise(recipe, tmp_path / "store", threads=4)
    assert tree(tmp_path / "store") == tree(undisturbed)


def test_processes_give_the_same_bytes(recipe: Recipe, undisturbed: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    create(recipe, store)
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        for future in [pool.submit(write, recipe, store, *task) for task in tasks(layouts(recipe))]:
            assert isinstance(future.result(), Commit)
    materialise(recipe, store)
    assert tree(store) == tree(undisturbed)


def test_dask_gives_the_same_bytes_over_encrypted_loopback(recipe: Recipe, undisturbed: Path, tmp_path: Path) -> None:
    with connect(Profile("local", workers=2)) as client:
        assert client.scheduler.address.startswith("tls://127.0.0.1")
        family = [psutil.Process(), *psutil.Process().children(recursive=True)]
        heard = {c.laddr.ip for p in family for c in p.net_connections() if c.status == psutil.CONN_LISTEN}
        assert heard == {"127.0.0.1"}, "nobody outside this machine can reach the cluster"
        materialise(recipe, tmp_path / "store", client)
    assert tree(tmp_path / "store") == tree(undisturbed)


def test_two_runs_at_once_make_one_store(recipe: Recipe, undisturbed: Path, tmp_path: Path) -> None:
    for attempt in range(3):
        path = tmp_path / str(attempt) / "store"
        with ThreadPoolExecutor(2) as pool:
            for future in [pool.submit(materialise, recipe, path, threads=1) for _ in range(2)]:
                future.result()
        assert tree(path) == tree(undisturbed)
        assert [p.name for p in path.parent.iterdir()] == ["store"]


def test_a_second_run_writes_nothing(recipe: Recipe, store: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in store.rglob("*")}
    materialise(recipe, store)
    assert {p: p.stat().st_mtime_ns for p in store.rglob("*")} == before


def test_what_is_stored_is_what_is_made(recipe: Recipe, undisturbed: Path) -> None:
    for name, split in recipe.splits.items():
        made = factory.floor.make(recipe, name, 0, split.samples)
        stored = xr.open_zarr(undisturbed, group=name, chunks=None).load()
        assert stored.identical(made)
        assert list(stored.variables) == list(made.variables) or set(stored.variables) == set(made.variables)


def test_xarray_opens_a_store_without_a_word(undisturbed: Path) -> None:
    """Warnings are errors in this suite."""
    whole = xr.open_datatree(undisturbed, engine="zarr")
    assert set(whole.children) == {"train", "test"}
    assert whole.attrs["id"] == status(undisturbed).id
    assert xr.open_zarr(undisturbed, group="train")["noisy"].chunksizes["sample"] == (16,) * 6 + (4,)
    assert xr.open_zarr(undisturbed / "test").sizes == {"sample": 16, "echo": 8}
    assert zarr.open_group(undisturbed, mode="r").metadata.consolidated_metadata is not None
    assert open_store(undisturbed)["train"].identical(whole["train"])


@pytest.mark.usefixtures("fake_floor")
def test_every_dtype_and_kind_of_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also samples in several chunks, scalars in several files and a partial tail."""
    monkeypatch.setattr(factory.store.layout, "SCALAR_CHUNK", 3)
    variables = [Variable(f"bulk_{d}", "1", d, ("y", "x"), (2, 3)) for d in sorted(DTYPES)]
    variables += [Variable(f"scalar_{d}", "s", d, (), ()) for d in sorted(DTYPES)]
    variables += [Variable("x", "m", "float64", ("x",), (3,), True), Variable("y", "1", "int64", ("y",), (2,), True)]
    recipe = made_up(variables)
    found = materialise(recipe, tmp_path / "whole", threads=1)["train"].to_dataset().load()
    assert found.identical(make_numbers(recipe, "train", 0, 10))
    assert len(list((tmp_path / "whole/train/scalar_bool").glob("c.*"))) == 4

    monkeypatch.setattr(factory.store.layout, "SHARD_BYTES", 11)  # smaller than any sample but those of one byte
    monkeypatch.setattr(factory.store.layout, "CHUNK_BYTES", 1)
    found = materialise(recipe, tmp_path / "cut", threads=1)["train"].to_dataset().load()
    assert found.identical(make_numbers(recipe, "train", 0, 10))
    plan = read_layout(tmp_path / "cut")
    assert (plan.per_shard, plan.bulk["bulk_float32"].pieces, plan.bulk["bulk_uint8"].pieces) == (1, 2, 1)


@pytest.mark.usefixtures("fake_floor")
def test_a_split_of_scalars_alone(tmp_path: Path) -> None:
    recipe = made_up([Variable("t1", "s", "float32", (), ())], 10, None)
    assert materialise(recipe, tmp_path / "store")["train"]["t1"].shape == (10,)


def test_readers_get_layout_scalars_and_coordinates(recipe: Recipe, undisturbed: Path) -> None:
    plan, made = read_layout(undisturbed, "train"), factory.floor.make(recipe, "train", 0, 100)
    assert plan.samples == 100
    assert plan.id == status(undisturbed).id
    assert plan.order == tuple(recipe.splits["train"].variables)
    assert plan.bulk == layout(recipe, "train").bulk
    check(plan)
    np.testing.assert_array_equal(scalar_values(plan, "t2"), made["t2"])
    np.testing.assert_array_equal(coordinate_values(plan, "echo"), made["echo"])
    shard, row = divmod(99, plan.per_shard)
    offset = plan.bulk["noisy"].offset(row)
    assert plan.file("noisy", shard).read_bytes()[offset : offset + 32] == made["noisy"][99].values.tobytes()
    with pytest.raises(ValueError, match="has the splits train, test"):
        read_layout(undisturbed)


def test_commits_know_sums(recipe: Recipe, undisturbed: Path) -> None:
    from factory.store.commit import commit_path, read_commit

    commit = read_commit(commit_path(layout(recipe, "train", undisturbed), 6))
    made = factory.floor.make(recipe, "train", 96, 100)["noisy"].astype(float)
    total, squares = commit.sums["noisy"]
    assert commit.samples == 4
    assert total[0] == pytest.approx(float(made.sum()), rel=1e-13)
    assert squares == pytest.approx(float((made**2).sum()), rel=1e-13)


@given(st.lists(st.binary(max_size=4), max_size=40))
def test_the_id_is_a_merkle_root(leaves: list[bytes]) -> None:
    def digest(part: bytes) -> bytes:
        return blake2b(part, digest_size=16).digest()

    def root(part: list[bytes]) -> bytes:
        if len(part) == 1:
            return digest(b"\0" + part[0])
        half = 1 << (len(part) - 1).bit_length() - 1
        return digest(b"\1" + root(part[:half]) + root(part[half:]))

    grown = Merkle()
    for leaf in leaves:
        grown.add(leaf)
    assert grown.root() == (root(leaves) if leaves else digest(b"")).hex()


# --- going on, and refusing to ----------------------------------------------------------------------------------------

def test_a_lost_or_short_shard_is_made_again(recipe: Recipe, store: Path, undisturbed: Path) -> None:
    (store / "train/noisy/c.2.0").unlink()
    (store / "train/noisy/c.3.0").write_bytes(b"")
    (store / ".factory/commits/train.4").write_bytes(b"{")
    (store / "test/t2/c.0").unlink()
    found = status(store)
    assert not found.finished
    assert "train shard 2, train shard 3, train shard 4" in found.sentence
    with pytest.raises(DamagedStore, match=r"c\.2\.0 is missing"):
        open_store(store)
    with pytest.raises(DamagedStore, match=r"t2/c\.0 is missing"):
        check(read_layout(store, "test"))
    with pytest.raises(DamagedStore, match=r"c\.2\.0 is missing.*c\.3\.0 has 0 bytes instead of 536"):
        check(read_layout(store, "train"))
    materialise(recipe, store)
    assert tree(store) == tree(undisturbed)
    assert len(list((store / ".factory/log").iterdir())) == 2


def test_lost_scalars_are_written_again(recipe: Recipe, store: Path, undisturbed: Path) -> None:
    (store / "train/t2/c.0").unlink()
    materialise(recipe, store)
    assert tree(store) == tree(undisturbed)


def test_an_incomplete_store_is_refused_by_name(recipe: Recipe, tmp_path: Path) -> None:
    store = tmp_path / "half"
    create(recipe, store)
    write(recipe, store, "train", 2)
    for opener in (open_store, lambda path: read_layout(path, "train")):
        with pytest.raises(IncompleteStore, match=r"half is incomplete \(train 1 of 7 shards, test 0 of 1 shards\)"):
            opener(store)
    found = status(store)
    assert (found.code, found.splits[0].committed_samples, found.splits[0].missing) == (2, 16, (0, 1, 3, 4, 5))


def test_another_recipe_is_refused_with_the_difference(recipe: Recipe, undisturbed: Path, tmp_path: Path) -> None:
    other = recipe_of(tmp_path, RECIPE.replace("8 ms", "9 ms"))
    with pytest.raises(AnotherRecipe, match=r"(?s)made by another recipe.*-[^\n]*spacing: 8.*\+[^\n]*spacing: 9"):
        materialise(other, undisturbed)
    with pytest.raises(AnotherRecipe, match="belongs to another recipe"):
        write(other, undisturbed, "train", 0)


def test_another_number_of_samples_is_refused(undisturbed: Path, tmp_path: Path) -> None:
    other = recipe_of(tmp_path, RECIPE.replace("samples: 100", "samples: 101"))
    with pytest.raises(AnotherRecipe, match="holds 100 samples of split 'train', and 101 are asked for"):
        materialise(other, undisturbed)


def test_only_what_is_said_about_a_recipe_may_change(undisturbed: Path, tmp_path: Path) -> None:
    before = tree(undisturbed)
    materialise(recipe_of(tmp_path, RECIPE.replace("a short CPMG train", "eight echoes")), undisturbed)
    assert tree(undisturbed) == before


@pytest.fixture
def began_elsewhere(recipe: Recipe, store: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A store with one shard to be made, by code that has not worked on it yet."""
    (store / "train/noisy/c.5.0").unlink()
    monkeypatch.setattr(factory.store.behaviour, "fingerprint", lambda: {"source": "new"})
    return store


def test_new_code_that_behaves_the_same_goes_on(recipe: Recipe, began_elsewhere: Path, undisturbed: Path) -> None:
    materialise(recipe, began_elsewhere)
    assert tree(began_elsewhere) == tree(undisturbed)
    logs = [json.loads(p.read_bytes().splitlines()[0]) for p in (began_elsewhere / ".factory/log").iterdir()]
    assert sorted((log["fingerprint"].get("source") == "new", log["probed"]) for log in logs) == [
        (False, False), (True, True)]


@pytest.mark.parametrize(("name", "sample"), [("noisy", 0), ("noisy", 15), ("t2", 15)])
def test_new_code_that_behaves_differently_is_refused(
    recipe: Recipe, began_elsewhere: Path, monkeypatch: pytest.MonkeyPatch, name: str, sample: int,
) -> None:
    real = factory.floor.make

    def altered(recipe: Recipe, split: str, start: int, stop: int) -> xr.Dataset:
        made = real(recipe, split, start, stop).copy(deep=True)
        if start <= sample < stop:
            made[name][sample - start] = np.nextafter(made[name][sample - start], np.float32(9))
        return made

    monkeypatch.setattr(factory.floor, "make", altered)
    before = tree(began_elsewhere)
    with pytest.raises(AnotherRecipe, match=f"split train, sample {sample}: '{name}' comes out different"):
        materialise(recipe, began_elsewhere)
    assert tree(began_elsewhere) == before


def test_a_probe_of_a_damaged_shard_says_so(recipe: Recipe, began_elsewhere: Path) -> None:
    path = began_elsewhere / "train/noisy/c.0.0"
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    with pytest.raises(DamagedStore, match=r"c\.0\.0 was altered"):
        materialise(recipe, began_elsewhere)


def test_a_shard_that_comes_out_different_from_its_commit_is_not_written(
    recipe: Recipe, store: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    (store / "train/noisy/c.5.0").unlink()
    real = factory.floor.make
    monkeypatch.setattr(factory.floor, "make", lambda *a: real(*a).assign(noisy=lambda d: d.noisy * np.float32(2)))
    with pytest.raises(DamagedStore, match="shard 5: noisy came out different from its commit"):
        materialise(recipe, store)
    assert not (store / "train/noisy/c.5.0").exists()


def test_a_sample_that_is_not_finite_names_itself(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                  ) -> None:
    real = factory.floor.make

    def poisoned(recipe: Recipe, split: str, start: int, stop: int) -> xr.Dataset:
        made = real(recipe, split, start, stop).copy(deep=True)
        if split == "train" and start <= 37 < stop:
            made["noisy"][37 - start, 3] = np.nan
        return made

    monkeypatch.setattr(factory.floor, "make", poisoned)
    with pytest.raises(StoreError, match="split train, sample 37: 'noisy' holds a NaN"):
        materialise(recipe, tmp_path / "store", threads=2)
    assert not (tmp_path / "store/.factory/partial").exists(), "a run clears its own temporary files"
    assert not (tmp_path / "store/.factory/commits/train.2").exists()


# --- before any work --------------------------------------------------------------------------------------------------

def test_a_target_that_is_no_store_is_refused(recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    for path in (tmp_path, tmp_path / "thesis.txt"):
        with pytest.raises(NoStore, match=r"is not a store of this factory.*name a path that does not exist yet"):
            materialise(recipe, path)
    zarr.create_group(tmp_path / "group")
    with pytest.raises(NoStore):
        materialise(recipe, tmp_path / "group")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["group", "thesis.txt"]


def test_an_empty_folder_may_become_a_store(recipe: Recipe, undisturbed: Path, tmp_path: Path) -> None:
    materialise(recipe, tmp_path)
    assert tree(tmp_path) == tree(undisturbed)


def test_a_folder_that_cannot_be_written_is_refused(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                    ) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # the tests may run as root, who may write anywhere
    with pytest.raises(StoreError, match=r"cannot write to .*; name a folder that you may write to"):
        materialise(recipe, tmp_path / "deep" / "store")
    with pytest.raises(StoreError, match="cannot write to"):
        materialise(recipe, Path("/proc/version/store"))


def test_a_shard_that_does_not_fit_into_memory_is_refused(recipe: Recipe, tmp_path: Path,
                                                          monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(factory.store.memory, "available", lambda: 1000.0)
    with pytest.raises(StoreError, match=r"this machine has 0\.0 GB; use fewer threads, or say `shard: N`"):
        materialise(recipe, tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_abandoned_beginnings_are_swept_up(recipe: Recipe, tmp_path: Path) -> None:
    old, new, foreign = (tmp_path / f"store.init-{mark}" for mark in ("0" * 32, "1" * 32, "mine"))
    for folder in (old, new, foreign):
        folder.mkdir()
    for folder in (old, foreign):
        os.utime(folder, (0, 0))
    create(recipe, tmp_path / "store")
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["store", new.name, foreign.name])


# --- status of anything ---------------------------------------------------------------------------------------------

def test_status_of_nothing(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere", tmp_path):
        found = status(path)
        assert found.code == 10
        with pytest.raises(NoStore):
            open_store(path)
    assert "no store at" in status(tmp_path / "nowhere").sentence


@pytest.mark.parametrize("file", [
    "zarr.json", "train/noisy/zarr.json", "train/t2/zarr.json", ".factory/manifest.json",
])
@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"\xff\xfe", b'{"attributes": 3}', b"[" * 100_000])
def test_status_of_a_damaged_store_is_a_sentence(undisturbed: Path, tmp_path: Path, file: str, content: bytes) -> None:
    import shutil

    store = tmp_path / "store"
    shutil.copytree(undisturbed, store)
    (store / file).write_bytes(content)
    found = status(store)
    assert found.code in (1, 10)
    assert "\n" not in found.sentence
    with pytest.raises(StoreError):
        open_store(store)


@pytest.mark.parametrize("content", [b"", b"\n", b"{}\n", b"[1]\n", b'{"files": 3}\n', b"\xff" * 50, b"[" * 100_000])
def test_a_damaged_commit_counts_as_none(recipe: Recipe, store: Path, content: bytes) -> None:
    (store / ".factory/commits/train.1").write_bytes(content)
    assert status(store).splits[0].missing == (1,)


def test_progress_is_told_what_is_left(recipe: Recipe, store: Path) -> None:
    class Heard:
        def __init__(self) -> None:
            self.told: list[Any] = []

        def begin(self, samples: int, nbytes: int, done_samples: int, done_bytes: int) -> None:
            self.told.append((samples, nbytes, done_samples, done_bytes))

        def shard(self, commit: Commit) -> None:
            self.told.append((commit.split, commit.shard))

        def end(self) -> None:
            self.told.append("end")

    (store / "train/noisy/c.6.0").unlink()
    heard = Heard()
    materialise(recipe, store, progress=heard)
    assert heard.told == [(116, 116 * 48, 112, 112 * 48), ("train", 6), "end"]


def test_the_terminal_shows_speed_and_what_is_left(recipe: Recipe, tmp_path: Path) -> None:
    from io import StringIO

    from rich.console import Console

    from factory.store import RichProgress

    screen = StringIO()
    with RichProgress(Console(file=screen, force_terminal=True, width=140)) as progress:
        materialise(recipe, tmp_path / "store", progress=progress)
    assert "samples/s" in screen.getvalue()
    assert "MB/s" in screen.getvalue()


def test_a_worker_takes_neighbours_that_share_an_outer_level() -> None:
    """Groups stay below one subject, are cut where threads would else have nothing to do, and leave nothing out."""
    recipe = load("rim_t1", set={"shard": "50"})
    plans = layouts(recipe)
    every = list(tasks(plans))
    found = _Groups(recipe, iter(every), len(every))
    groups = list(found.groups)
    assert [task for group in groups for task in group] == every
    subjects = [{(name, plans[name].span(shard)[0] // recipe.splits[name].strides[0]) for name, shard in group}
                for group in groups]  # fmt: skip
    assert all(len(one) == 1 for one in subjects)
    assert [len(group) for group in groups[:4]] == [MOST, 4, MOST, 4]
    assert found.left == 0
    many = _Groups(recipe, iter(every), len(every))
    many.threads = len(every)
    assert all(len(group) == 1 for group in many.groups)
