"""Batches: the samples of the store in the order of the arithmetic, whoever reads them and wherever they stopped.

Budget: 15 s on two cores.
"""

from __future__ import annotations

import gc
import os
import pickle
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

import factory
import factory.store.layout
from factory.recipe import Recipe, load
from factory.store import DamagedStore, IncompleteStore, NoStore, StoreError, materialise, read_layout
from factory.stream import Batch, Stream
from factory.stream import live as live_room
from factory.stream import stored as stored_room
from factory.stream import tensors as room
from factory.stream.stored import Stored, gather, is_local
from tests.stream.small import TWO_SPLITS, N


def numbers(stream: Stream, whole: xr.Dataset) -> list[int]:
    """Which samples a pass hands over, told by the drawn amplitude, no two of which are equal."""
    return [int(i) for batch in stream for i in told(batch, whole)]


def told(batch: Batch, whole: xr.Dataset) -> np.ndarray:
    values = batch["amplitude"].numpy()
    values = values[batch["mask"].numpy()] if "mask" in batch else values
    order = np.argsort(whole.amplitude.values)
    found = order[np.searchsorted(whole.amplitude.values[order], values)]
    assert np.array_equal(whole.amplitude.values[found], values)
    return found


def assert_is(batch: Batch, indices: np.ndarray, whole: xr.Dataset) -> None:
    names = [name for name in batch if name not in ("mask", "sample", "epoch")]
    assert np.array_equal(batch["sample"].numpy(), indices)
    assert sorted(names) == sorted(map(str, whole.variables))
    for name in names:
        wanted = whole.variables[name]
        values = wanted.values[indices] if "sample" in wanted.dims else wanted.values
        assert batch[name].is_contiguous()
        assert batch[name].numpy().dtype == values.dtype
        assert batch[name].numpy().tobytes() == values.tobytes(), name


def open_files() -> int:
    gc.collect()  # of tests before this one, too
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("way", ["maps", "pread", "few files", "few files, pread", "remote"])
def test_stored_batches_are_the_samples(store: Path, whole: xr.Dataset, way: str, monkeypatch: Any) -> None:
    if "pread" in way:
        monkeypatch.setattr(stored_room, "in_memory", lambda address: False)
    if "few files" in way:
        monkeypatch.setattr(stored_room, "OPEN_FILES", 1)
        monkeypatch.setattr(stored_room.resource, "getrlimit", lambda which: (32, 32))
    monkeypatch.setattr(stored_room, "is_local", lambda path: way != "remote")
    stream = Stream(store, "train", batch=16, seed=5)
    for number, batch in enumerate(stream):
        indices, _ = stream.order.batch_at(0, number)
        assert_is(batch, indices, whole)
    assert number == len(stream) - 1 == 5


def test_samples_in_pieces(recipe: Recipe, whole: xr.Dataset, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(factory.store.layout, "SHARD_BYTES", 16)
    monkeypatch.setattr(factory.store.layout, "CHUNK_BYTES", 8)
    materialise(recipe, tmp_path / "s", threads=1)
    assert [b.pieces for b in read_layout(tmp_path / "s", "train").bulk.values()] == [3, 6]
    stream = Stream(tmp_path / "s", "train", batch=20)
    for number, batch in enumerate(stream):
        assert_is(batch, stream.order.batch_at(0, number)[0], whole)


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("tail", ["drop", "pad"])
def test_live_is_stored_bit_for_bit(recipe: Recipe, store: Path, shuffle: bool, tail: Any) -> None:
    for split in ("train", "study"):
        two = [Stream(source, split, batch=7, seed=2, shuffle=shuffle, tail=tail) for source in (recipe, store)]
        count = 0
        for live, stored in zip(*two, strict=True):
            assert list(live) == list(stored)
            for name in live:
                assert live[name].dtype == stored[name].dtype
                assert live[name].numpy().tobytes() == stored[name].numpy().tobytes(), name
            count += 1
        assert count == len(two[0]) == len(two[1])


def test_live_samples_that_share_a_subject(tmp_path: Path) -> None:
    path = tmp_path / "levels.yaml"
    path.write_text(TWO_SPLITS.replace("  train: {samples: 101}\n", ""))
    recipe = load(path)
    wanted = factory.make(recipe, "study", 0, 30)
    stream = Stream(recipe, batch=10)
    for number, batch in enumerate(stream):
        assert_is(batch, stream.order.batch_at(0, number)[0], wanted)
    materialise(recipe, tmp_path / "s", threads=1)
    stored = [batch["signal"] for batch in Stream(tmp_path / "s", batch=10)]
    assert all(torch.equal(a["signal"], b) for a, b in zip(Stream(recipe, batch=10), stored, strict=True))


def test_batches_are_fresh_and_as_stored(store: Path) -> None:
    batches = list(Stream(store, "train", batch=50, shuffle=False, tail="pad"))
    first, last = batches[0], batches[-1]
    assert {name: (tuple(t.shape), t.dtype) for name, t in first.items()} == {
        "signal": ((50, 6), torch.float32), "clean": ((50, 6), torch.complex64), "t2": ((50,), torch.float32),
        "amplitude": ((50,), torch.float32), "sigma": ((50,), torch.float32), "echo_time": ((6,), torch.float64),
        "mask": ((50,), torch.bool), "sample": ((50,), torch.int64), "epoch": ((50,), torch.int64),
    }
    assert first["echo_time"].data_ptr() != last["echo_time"].data_ptr()
    kept = last["signal"].clone()
    for tensor in first.values():
        tensor.zero_()
    assert torch.equal(last["signal"], kept)
    assert last["echo_time"][0] == 0.01
    assert last["mask"].tolist() == [True] + [False] * 49
    assert torch.equal(last["signal"][0], last["signal"][49])
    assert "mask" not in next(iter(Stream(store, "train", batch=50)))


@given(batch=st.integers(1, 40), again=st.integers(1, 40), stop=st.integers(0, 200), world=st.integers(1, 8),
       workers=st.integers(1, 3))
@settings(max_examples=40, deadline=None)
def test_resume_at_any_sample(store: Path, whole: xr.Dataset, batch: int, again: int, stop: int, world: int,
                              workers: int) -> None:
    again = max(again, world)
    stream = Stream(store, "train", batch=batch, seed=9, tail="pad")
    before: list[int] = []
    iterator = iter(stream)
    for _ in range(min(stop, len(stream))):
        before += told(next(iterator), whole).tolist()
    state = stream.state_dict()
    assert stream.state_dict(batches=min(stop, len(stream))) == state
    del iterator
    parts: dict[tuple[int, int], list[int]] = {}
    for rank in range(world):
        for worker in range(workers):
            later = Stream(store, "train", batch=again, seed=9, tail="pad", rank=rank, world=world)
            later.load_state_dict(pickle.loads(pickle.dumps(state)))
            with as_worker(worker, workers):
                for number, made in enumerate(later):
                    parts[number * workers + worker, rank] = told(made, whole).tolist()
    after = [i for key in sorted(parts) for i in parts[key]]
    if state["epoch"] == 0:
        assert before + after == Stream(store, "train", batch=N, seed=9).order.batch_at(0, 0)[0].tolist()
    else:
        assert sorted(after) == sorted(before) == list(range(N)), "a whole epoch was consumed: the next one follows"
        assert after != before


class as_worker:
    """Inside, the stream believes that it is one of a loader's workers."""

    def __init__(self, worker: int, workers: int) -> None:
        self.info = type("Info", (), {"id": worker, "num_workers": workers})()

    def __enter__(self) -> None:
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(room, "get_worker_info", lambda: self.info)

    def __exit__(self, *_: object) -> None:
        self.patch.undo()


@pytest.mark.parametrize("source", ["stored", "live"])
def test_any_number_of_loader_workers_gives_the_same_batches(recipe: Recipe, store: Path, whole: xr.Dataset,
                                                             source: str) -> None:
    stream = Stream(recipe if source == "live" else store, "train", batch=10, seed=4, epochs=2)
    wanted = [batch["signal"] for batch in stream]
    assert len(wanted) == len(stream) == 20
    for workers in (0, 1, 2):
        stream.set_epoch(0)
        loader = DataLoader(stream, batch_size=None, num_workers=workers)
        assert len(loader) == 20
        found = list(loader)
        assert all(torch.equal(a, b["signal"]) for a, b in zip(wanted, found, strict=True))
        assert found[0]["clean"].dtype == torch.complex64
    assert stream.state_dict(batches=20)["epoch"] == 2


def test_slices_of_the_ranks_are_the_global_batch(store: Path, whole: xr.Dataset) -> None:
    alone = [told(batch, whole) for batch in Stream(store, "train", batch=12, seed=1)]
    ranks = [list(Stream(store, "train", batch=12, seed=1, rank=rank, world=5)) for rank in range(5)]
    for number, wanted in enumerate(alone):
        together = np.concatenate([told(batches[number], whole) for batches in ranks])
        assert np.array_equal(together, wanted)
        assert [len(batches[number]["sigma"]) for batches in ranks] == [2, 2, 3, 2, 3]


def test_rank_and_world_come_from_torch_and_travel_to_workers(store: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 2)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 3)
    stream = Stream(store, "train", batch=12)
    assert stream.place == (2, 3)
    text = pickle.dumps(stream)
    monkeypatch.undo()
    assert len(text) < 10_000
    assert pickle.loads(text).place == (2, 3)
    assert stream.place == (0, 1)


def test_epochs_follow_each_other(store: Path, whole: xr.Dataset) -> None:
    stream = Stream(store, "train", batch=10, seed=6)
    passes = [numbers(stream, whole) for _ in range(3)]
    assert stream.epoch == 3
    assert passes[0] != passes[1] != passes[2]
    assert numbers(Stream(store, "train", batch=10, seed=6, epochs=3), whole) == [i for one in passes for i in one]
    stream.set_epoch(1)
    assert numbers(stream, whole) == passes[1]
    for _ in range(2):  # a pass that was broken off begins again: a look at some batches moves nothing
        assert told(next(iter(stream)), whole).tolist() == passes[2][:10]


def test_the_state_counts_what_was_handed_over(store: Path) -> None:
    stream = Stream(store, "train", batch=10, seed=6)
    assert stream.state_dict() == {
        "dataset": stream.dataset_id, "seed": 6, "shuffle": True, "epoch": 0, "consumed": 0, "samples": N,
        "recipe": f"{stream.members[0].identity}/train",
    }
    for number, _ in enumerate(stream):
        state = stream.state_dict()
        if number < 9:
            assert (state["epoch"], state["consumed"]) == (0, 10 * (number + 1))
    assert (state["epoch"], state["consumed"]) == (1, 0), "the last batch ends the epoch: one sample is dropped"
    assert stream.state_dict() == state


def test_states_of_other_orders_are_refused(recipe: Recipe, store: Path) -> None:
    stream = Stream(store, "train", batch=10)
    for other in (Stream(store, "train", batch=10, seed=1), Stream(store, "study", batch=10),
                  Stream(recipe, "train", batch=9), Stream(store, "train", batch=10, shuffle=False)):
        with pytest.raises(ValueError, match="the state is of another order: its"):
            stream.load_state_dict(other.state_dict())
    with pytest.raises(ValueError, match="102 of them cannot have been consumed"):
        stream.load_state_dict(stream.state_dict() | {"consumed": 102})
    with as_worker(0, 2):  # a loader that keeps the states of its workers
        assert stream.state_dict()["turns"] == 0


def test_no_thread_outlives_a_pass_and_no_file_its_stream(store: Path) -> None:
    stream = Stream(store, "train", batch=4)
    threads, files = threading.active_count(), open_files()
    iterator = iter(stream)
    assert threading.active_count() == threads, "nothing starts before the first batch is asked for"
    next(iterator)
    assert threading.active_count() == threads + 1
    assert open_files() > files
    del iterator
    assert threading.active_count() == threads
    list(stream)
    held = open_files()
    assert files < held < files + 60  # two descriptors for each map
    for _ in range(3):
        assert len(list(stream)) == len(list(zip(stream, stream, strict=True)))  # two passes at once
        assert (threading.active_count(), open_files()) == (threads, held)
    with pytest.raises(KeyError, match="mine"):
        broken_off(stream)
    assert (threading.active_count(), open_files()) == (threads, held)
    del stream
    assert open_files() == files, "the error that was caught may hold a frame until it is collected"


def test_what_was_exchanged_between_passes_is_read_anew(copy: Path, whole: xr.Dataset) -> None:
    """A repair, or damage: the next pass sees what lies there now, with its checksum looked at again."""
    stream = Stream(copy, "train", batch=10, shuffle=False)
    list(stream)
    victim = copy / "train" / "signal" / "c.3.0"
    right = victim.read_bytes()
    for data in (right[:9] + bytes([right[9] ^ 1]) + right[10:], right):
        victim.with_name("new").write_bytes(data)
        os.replace(victim.with_name("new"), victim)
        stream.set_epoch(0)
        if data == right:
            assert np.array_equal(np.concatenate([b["signal"].numpy() for b in stream]), whole.signal.values[:100])
        else:
            with pytest.raises(DamagedStore, match="array signal, shard 3 cannot be read: it was exchanged"):
                list(stream)


def broken_off(stream: Stream) -> None:
    for batch in stream:
        batch["mine"]


def test_open_files_are_bounded(store: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(stored_room, "OPEN_FILES", 3)
    monkeypatch.setattr(stored_room, "in_memory", lambda address: False)
    source = Stored(read_layout(store, "train"))
    source.most = 3
    before = open_files()
    for start in range(0, 96, 8):
        source.read(np.arange(start, start + 8))
        assert open_files() <= before + 2 * 3  # a map holds a descriptor of its own
    source.close()
    assert open_files() == before


def test_errors_of_the_reading_thread_arrive(recipe: Recipe, monkeypatch: Any) -> None:
    def make(*arguments: Any) -> xr.Dataset:
        raise FloatingPointError("not finite")

    monkeypatch.setattr(live_room, "make_at", make)
    threads = threading.active_count()
    with pytest.raises(FloatingPointError, match="not finite"):
        next(iter(Stream(recipe, "train", batch=4)))
    assert threading.active_count() == threads


def test_a_fork_in_the_middle_is_refused(store: Path, monkeypatch: Any) -> None:
    iterator = iter(Stream(store, "train", batch=4))
    next(iterator)
    monkeypatch.setattr(os, "getpid", lambda: -1)
    with pytest.raises(RuntimeError, match="forked while the stream was read"):
        next(iterator)


@pytest.fixture
def copy(store: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(store, tmp_path / "copy.zarr"))


@pytest.mark.parametrize("maps", [True, False])
@pytest.mark.parametrize("damage", ["missing", "short", "long"])
@pytest.mark.parametrize("name", ["signal", "sigma"])
def test_damage_is_named(copy: Path, damage: str, name: str, maps: bool, monkeypatch: Any) -> None:
    monkeypatch.setattr(stored_room, "in_memory", lambda address: maps)
    file = copy / "train" / name / ("c.12.0" if name == "signal" else "c.0")
    content, stream = file.read_bytes(), Stream(copy, "train", batch=N)
    file.unlink()
    if damage != "missing":
        file.write_bytes(content[:-1] if damage == "short" else content + b"0")
    shard, files = 12 if name == "signal" else 0, open_files()
    with pytest.raises(DamagedStore, match=f"{name}/{file.name}"):  # before the first batch
        Stream(copy, "train", batch=N)
    with pytest.raises(DamagedStore) as caught:
        list(stream)
    assert f"copy.zarr: split train, array {name}, shard {shard} cannot be read" in str(caught.value)
    assert open_files() == files, "a report that is kept must not keep files open"


@pytest.mark.parametrize("maps", [True, False])
def test_a_file_cut_while_it_is_read_is_named(copy: Path, maps: bool, monkeypatch: Any) -> None:
    monkeypatch.setattr(stored_room, "in_memory", lambda address: maps)
    source = Stored(read_layout(copy, "train"))
    source.read(np.arange(N))
    os.truncate(copy / "train" / "signal" / "c.3.0", 10)
    with pytest.raises(DamagedStore, match="array signal, shard 3 cannot be read"):
        source.read(np.arange(N))


def test_unfinished_absent_and_changed_stores_are_refused(copy: Path, recipe: Recipe, tmp_path: Path) -> None:
    stream = Stream(copy, "train", batch=10)
    layout = stream.members[0].layout
    assert layout is not None
    shutil.rmtree(copy)
    with pytest.raises(NoStore, match=r"copy\.zarr"):
        next(iter(stream))
    other = load(tmp_path_of(recipe, tmp_path), samples={"train": 50})
    materialise(other, copy, threads=1)
    with pytest.raises(StoreError, match="no longer the store that this stream was made for"):
        next(iter(stream))
    for manifest in (copy / ".factory").glob("manifest*"):
        manifest.unlink()
    (copy / "train" / "signal" / "c.1.0").unlink()
    with pytest.raises(IncompleteStore, match=r"copy\.zarr is incomplete"):
        Stream(copy, "train", batch=10)
    with pytest.raises(NoStore):
        Stream(tmp_path / "nowhere", batch=10)


def tmp_path_of(recipe: Recipe, folder: Path) -> Path:
    path = folder / "echoes.yaml"
    path.write_text(recipe.text)
    return path


@pytest.mark.parametrize(("arguments", "sentence"), [
    ({"split": None}, "train, study"),
    ({"split": "dev"}, "train, study"),
    ({"batch": 102}, "larger than the 101 samples"),
    ({"epochs": 0}, "at least one epoch"),
    ({"rank": 1}, "both rank and world"),
    ({"rank": 3, "world": 3}, "rank 3 does not exist"),
    ({"rank": 0, "world": 11}, "cannot be divided among 11 ranks"),
])
@pytest.mark.parametrize("source", ["stored", "live"])
def test_arguments_that_cannot_be_meant(recipe: Recipe, store: Path, source: str, arguments: Any,
                                        sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Stream(recipe if source == "live" else store, **({"split": "train", "batch": 10} | arguments))


def test_what_lies_on_this_machine(tmp_path: Path, monkeypatch: Any) -> None:
    mounts = tmp_path / "mountinfo"
    device = os.stat(tmp_path).st_dev
    line = f"36 35 {os.major(device)}:{os.minor(device)} / / rw master:1 - {{}} /dev/sda rw\n"
    true_read = Path.read_text
    monkeypatch.setattr(Path, "read_text", lambda self: true_read(mounts))
    for kind, local in (("ext4", True), ("nfs4", False), ("fuse.sshfs", False), ("lustre", False)):
        mounts.write_text("22 1 0:21 / /proc rw - proc proc rw\n" + line.format(kind))
        assert is_local(tmp_path) is local
    mounts.unlink()
    assert is_local(tmp_path) is False


def test_gather_copies_the_rows_of_its_files_only() -> None:
    files = [np.arange(100, dtype=np.uint8), np.arange(100, 200, dtype=np.uint8)]
    addresses = np.array([file.__array_interface__["data"][0] for file in files])
    addresses = np.array([0, *addresses, 0])
    which, offsets = np.array([1, 2, 0, 2, 3]), np.array([1, 97, 0, 50, 0])
    out = np.full((5, 3), 255, np.uint8)
    gather(addresses, which, offsets, out)
    assert out.tolist() == [[1, 2, 3], [197, 198, 199], [255] * 3, [150, 151, 152], [255] * 3]


@pytest.fixture(autouse=True)
def _no_thread_stays() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert not [t for t in set(threading.enumerate()) - before if t.name.startswith("factory-stream")]


@pytest.mark.parametrize("way", ["maps", "pread"])
@pytest.mark.parametrize("name", ["signal", "sigma"])
def test_a_flipped_byte_is_named_before_its_batch(store: Path, tmp_path: Path, way: str, name: str,
                                                  monkeypatch: Any) -> None:
    monkeypatch.setattr(stored_room, "is_local", lambda path: way == "maps")
    copy = Path(shutil.copytree(store, tmp_path / "copy"))
    layout = read_layout(copy, "train")
    path = layout.file(name, 2) if name in layout.bulk else layout.folder / name / "c.0"
    data = bytearray(path.read_bytes())
    data[5] ^= 1
    path.write_bytes(data)
    for verify in ("once", "always"):
        stream = Stream(copy, "train", batch=4, shuffle=False, verify=verify)
        taken: list[Batch] = []
        said = rf"array {name}, shard \d.*(a checksum does not hold|it was exchanged).*; run `factory rep"
        with pytest.raises(DamagedStore, match=said):
            taken.extend(stream)
        assert len(taken) == (4 if name == "signal" else 0), "only what comes before the damage is handed over"
    assert len(list(Stream(copy, "train", batch=4, verify="never"))) == layout.samples // 4


@pytest.mark.parametrize("verify", ["once", "always", "never"])
def test_how_often_checksums_are_looked_at(store: Path, verify: Any, monkeypatch: Any) -> None:
    looks: list[int] = []
    real = stored_room.crc32c
    monkeypatch.setattr(stored_room, "crc32c", lambda data: looks.append(1) or real(data))
    stream = Stream(store, "train", batch=10, tail="pad", verify=verify)
    layout = read_layout(store, "train")
    spans = [layout.span(k) for k in range(layout.shards)]
    chunks = len(layout.scalars) + sum(b.chunks(stop - start) for b in layout.bulk.values() for start, stop in spans)
    counts = []
    for _ in range(2):
        before = len(looks)
        list(stream)
        counts.append(len(looks) - before)
    if verify == "always":
        assert min(counts) >= chunks
    else:
        assert counts == ([chunks, 0] if verify == "once" else [0, 0])
