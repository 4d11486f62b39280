"""Streams from an object store: a real S3 server on loopback, shards kept on this machine within a limit.

Budget: 30 s on two cores.
"""

from __future__ import annotations

import multiprocessing
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch.utils.data import DataLoader

import factory.store.layout
from factory.recipe import Recipe, load
from factory.store import DamagedStore, StoreError, materialise
from factory.store.objects import ObjectPath
from factory.stream import Stream
from factory.stream import remote as room
from tests.stream.test_choices import TEXT

N = 100


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    path = tmp_path_factory.mktemp("recipes") / "decay.yaml"
    path.write_text(TEXT.format(seed=3, echoes="[10, 20, 40]"))
    return load(path)


@pytest.fixture(scope="module")
def store(recipe: Recipe, bucket: str) -> str:
    """13 shards of 8 samples in inner chunks of two; the last one has 4."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(factory.store.layout, "CHUNK_BYTES", 20)
        materialise(recipe, f"{bucket}/decay", threads=1)
    return f"{bucket}/decay"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "mr-factory" / "stores"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How often the server is asked for a range, and for a whole shard."""
    counts = {"range": 0, "whole": 0}
    ranges, pieces = ObjectPath.read_range, ObjectPath.pieces

    def one(self: ObjectPath, start: int, nbytes: int) -> bytes:
        counts["range"] += 1
        return ranges(self, start, nbytes)

    def all_of(self: ObjectPath) -> Iterator[bytes]:
        counts["whole"] += "signal" in self.key
        return pieces(self)

    monkeypatch.setattr(ObjectPath, "read_range", one)
    monkeypatch.setattr(ObjectPath, "pieces", all_of)
    return counts


def passed(stream: Any) -> list[dict[str, bytes]]:
    return [{name: value.numpy().tobytes() for name, value in batch.items()} for batch in stream]


def kept(cache: Path) -> list[str]:
    return sorted(p.name for p in cache.rglob("c.*") if p.parent.name == "signal")


@pytest.mark.parametrize("limit", [0, 300, 10**9])
def test_the_samples_are_those_of_the_recipe(recipe: Recipe, store: str, cache: Path, limit: int) -> None:
    live = passed(Stream(recipe, "train", batch=7, shuffle="lanes", seed=2, tail="pad", epochs=2))
    stream = Stream(store, "train", batch=7, seed=2, tail="pad", epochs=2, cache_bytes=limit)
    assert passed(stream) == live
    shard = stream.members[0].layout.sizes(0)["signal"]  # type: ignore[union-attr]
    assert len(kept(cache)) == (13 if limit > 300 else limit // shard)
    assert all(path.stat().st_mode & 0o077 == 0 for path in [cache, *cache.glob("*/*")])


def test_shards_that_are_done_make_room(store: str, cache: Path, asked: dict[str, int], monkeypatch: Any) -> None:
    """Never more on the disk than allowed; with lanes of its own, what is done is soon known."""
    for module in ("order", "stream.batches"):
        monkeypatch.setattr(f"factory.{module}.LANES", 2)
    monkeypatch.setattr(room, "DONE_READS", 4)
    most, real = 0, room.Remote.read

    def watched(self: room.Remote, *args: Any) -> Any:
        nonlocal most
        most = max(most, len(kept(cache)))
        return real(self, *args)

    monkeypatch.setattr(room.Remote, "read", watched)
    stream = Stream(store, "train", batch=4, seed=77, epochs=4)  # an order of its own: lanes are remembered
    limit = 5 * sum(stream.members[0].layout.sizes(0).values())  # type: ignore[union-attr]
    stream.cache_bytes = limit
    assert sorted(i for b in stream for i in b["sample"].tolist()) == sorted(4 * [*range(N)])
    assert 2 <= most <= 5
    assert asked["whole"] > 10  # more came than may stay


def test_what_is_here_is_not_asked_for_again(store: str, cache: Path, asked: dict[str, int]) -> None:
    stream = Stream(store, "train", batch=10, seed=2)
    first = passed(stream)
    assert asked["whole"] == 13
    begun = dict(asked)
    stream.set_epoch(0)
    assert passed(stream) == first
    assert passed(Stream(store, "train", batch=10, seed=2)) == first
    assert asked == begun


def test_without_room_every_sample_is_asked_for_once(store: str, asked: dict[str, int], cache: Path) -> None:
    passed(Stream(store, "train", batch=10, cache_bytes=0))
    assert asked == {"range": N, "whole": 0}
    assert kept(cache) == []


def test_ranks_fetch_different_shards(store: str, asked: dict[str, int]) -> None:
    ranks = [Stream(store, "train", batch=64, seed=2, tail="pad", rank=rank, world=2) for rank in range(2)]
    together = [i for batches in zip(*ranks, strict=True) for b in batches for i in b["sample"][b["mask"]].tolist()]
    assert sorted(together) == list(range(N))


def test_a_shard_that_is_lost_or_altered_is_named(store: str, bucket: str) -> None:
    copy = f"{bucket}/damaged"
    for path in ObjectPath.of(store).below():
        (ObjectPath.of(copy) / str(path.relative_to(ObjectPath.of(store)))).write_bytes(path.read_bytes())
    victim = ObjectPath.of(copy) / "train" / "signal" / "c.5.0"
    right = victim.read_bytes()
    flipped = bytearray(right)
    flipped[30] ^= 1
    stream = Stream(copy, "train", batch=10, cache_bytes=0)
    victim.write_bytes(bytes(flipped))
    with pytest.raises(DamagedStore, match="array signal, shard 5 cannot be read: a checksum does not hold"):
        list(stream)
    with pytest.raises(DamagedStore, match="array signal, shard 5 cannot be read: a checksum does not hold"):
        list(Stream(copy, "train", batch=10))
    victim.unlink()
    for limit in (0, 10**9):
        stream.cache_bytes = limit
        with pytest.raises(DamagedStore, match=r"array signal, shard 5 cannot be read.*there is no such object"):
            list(stream)


def test_no_room_on_the_disk_is_a_sentence(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device", "somewhere")

    monkeypatch.setattr(room.os, "replace", full)
    with pytest.raises(StoreError, match=r"cannot take more of s3://.*No space left on device; make room"):
        list(Stream(store, "train", batch=10))


def test_what_a_killed_process_left_is_of_no_harm(store: str, cache: Path) -> None:
    first = passed(Stream(store, "train", batch=10, seed=2))
    victim = next(p for p in cache.rglob("c.3.0") if p.parent.name == "signal")
    shutil.move(victim, f"{victim}.part")
    Path(f"{victim}.part").write_bytes(b"half")
    assert passed(Stream(store, "train", batch=10, seed=2)) == first
    assert not list(cache.rglob("*.part"))


def test_a_copy_that_spoiled_here_is_fetched_again(store: str, cache: Path) -> None:
    first = passed(Stream(store, "train", batch=10, seed=2))
    for name, k in (("signal", "c.3.0"), ("t2", "c.0")):
        (victim,) = (p for p in cache.rglob(k) if p.parent.name == name)
        data = bytearray(victim.read_bytes())
        data[5] ^= 1
        victim.write_bytes(data)
    assert passed(Stream(store, "train", batch=10, seed=2)) == first
    assert passed(Stream(store, "train", batch=10, seed=2, verify="always")) == first


def test_two_streams_at_once_do_not_share_a_folder(store: str, cache: Path) -> None:
    one, two = (Stream(store, "train", batch=10, seed=seed) for seed in (1, 1))
    for a, b in zip(one, two, strict=True):
        assert np.array_equal(a["sample"], b["sample"])
    assert sorted(p.name for p in next(cache.iterdir()).iterdir()) == ["0", "1"]


def test_workers(store: str, recipe: Recipe) -> None:
    stream = Stream(store, "train", batch=10, seed=2)
    alone = passed(stream)
    stream.set_epoch(0)
    spawned = DataLoader(stream, batch_size=None, num_workers=1, multiprocessing_context="spawn")
    assert passed(spawned) == alone
    stream.set_epoch(0)
    if "fork" in multiprocessing.get_all_start_methods():
        forked = DataLoader(stream, batch_size=None, num_workers=1, multiprocessing_context="fork")
        with pytest.raises(StoreError, match="multiprocessing_context='spawn'"):
            list(forked)
