"""Damage: the list is what was planted, and repair gives the bytes back and touches nothing else.

Every kind of damage is planted in every file of a small store, each alone; then up to fifty at once.

Budget: 60 s on two cores; the slow variant takes two minutes.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import factory.store.layout
import factory.store.run
from factory.recipe import Recipe, load
from factory.store import (
    StoreError,
    damages,
    extend,
    make_part,
    materialise,
    open_store,
    read_layout,
    repair,
)
from factory.store.commit import commit_path
from factory.store.damage import KINDS
from factory.store.layout import layouts
from factory.stream import Stream
from tests.test_store import recipe_of, tree

Plant = Callable[[Path, random.Random], object]
SMALL = """\
about: two arrays, three scalars, two coordinates
seed: 7
shard: 4
splits:
  train: {samples: 10}
  test: {samples: 5}
draw:
  t1: {uniform: [300 ms, 3 s]}
  t2: {uniform: [10 ms, t1]}
  b1: {uniform: [0.7, 1.3]}
chain:
  - epg.cpmg: {spacing: 8 ms, n_echo: 5}
  - relaxation.t2_decay: {amplitude: b1, echo_time: [10 ms, 20 ms, 40 ms], as: {signal: decayed}}
keep: [signal, {decayed: complex128}]
corner: {samples: 3}
"""
FOREIGN = SMALL.replace("seed: 7", "seed: 8").replace("8 ms", "9 ms").replace("20 ms", "30 ms")
TWICE = ({"zarr.json", ".factory/root.json"}, {".factory/manifest.json", ".factory/manifest.copy.json"})


@pytest.fixture(scope="module", autouse=True)
def tiny() -> Iterator[None]:
    """Shards of several inner chunks and scalars of several chunks from a handful of samples; no power is cut."""
    with pytest.MonkeyPatch.context() as patch:
        small_chunks(patch)
        yield


def small_chunks(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(factory.store.layout, "CHUNK_BYTES", 60)
    patch.setattr(factory.store.layout, "SCALAR_CHUNK", 8)
    patch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    return recipe_of(tmp_path_factory.mktemp("recipe"), SMALL)


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory, tiny: None) -> Path:
    """A store of the same shapes from another recipe."""
    path = tmp_path_factory.mktemp("foreign")
    materialise(recipe_of(path, FOREIGN), path / "store", threads=1)
    return path / "store"


def flip(path: Path, chance: random.Random) -> None:
    data = bytearray(path.read_bytes())
    data[chance.randrange(first_of(path.name, bytes(data)), len(data))] ^= 1 << chance.randrange(8)
    path.write_bytes(data)


def first_of(name: str, data: bytes) -> int:
    """Where flips begin; what the root itself says is left to `test_one_byte_of_what_the_root_says`."""
    word = {"zarr.json": b'"train/signal"', "root.json": b"store_format"}.get(name, b"")
    return max(0, data.find(word))


def truncate(path: Path, chance: random.Random) -> None:
    os.truncate(path, chance.randrange(1, path.stat().st_size))


PLANTS: dict[str, Plant] = {
    "missing": lambda path, _: path.unlink(),
    "empty": lambda path, _: path.write_bytes(b""),
    "truncated": truncate,
    "overlong": lambda path, chance: path.write_bytes(path.read_bytes() + b"x" * chance.randrange(1, 9)),
    "flipped": flip,
    "zeroed": lambda path, _: path.write_bytes(bytes(path.stat().st_size)),
    "a link": lambda path, _: (path.unlink(), path.symlink_to("/etc/hostname")),
    "a folder": lambda path, _: (path.unlink(), path.mkdir()),
    "a pipe": lambda path, _: (path.unlink(), os.mkfifo(path)),
}
SIZES_SHOW = set(PLANTS) - {"flipped", "zeroed"}
# kind -> class of file -> what the list may call it; "" is any other class
IRREGULAR = {"": {"no regular file"}}
CALLED: dict[str, dict[str, set[str]]] = {
    "missing": {"": {"missing"}}, "empty": {"": {"empty"}},
    "a link": IRREGULAR, "a folder": IRREGULAR, "a pipe": IRREGULAR,
    "truncated": {"": {"truncated"}, "document": {"garbled", "flipped"}, "commit": {"garbled"}, "list": {"flipped"}},
    "overlong": {"": {"overlong"}, "document": {"garbled"}, "commit": {"garbled"}},
    "flipped": {"": {"flipped"}, "document": {"garbled", "flipped"},
                "commit": {"garbled", "flipped", "swapped", "foreign recipe"}},
    "zeroed": {"": {"flipped"}, "document": {"garbled"}, "commit": {"garbled"}},
    "swapped": {"shard": {"swapped", "truncated", "overlong"}, "plain": {"flipped", "truncated", "overlong"},
                "document": {"flipped"}, "commit": {"swapped"}},
    "foreign recipe": {"": {"flipped"}, "commit": {"foreign recipe"}},
}  # fmt: skip


def class_of(name: str) -> str:
    if name.endswith(".json"):
        return "document"
    if name.startswith(".factory/"):
        return "commit" if "/commits/" in name else "list"
    return "shard" if name.count("/c.") and name.rpartition("/")[2].count(".") > 1 else "plain"


def called(kind: str, name: str) -> set[str]:
    return CALLED[kind].get(class_of(name), CALLED[kind].get("", set()))


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """A repair does not open the store that it has put right."""
    monkeypatch.setattr(factory.store.run, "open_store", lambda store: None)


@pytest.fixture
def store(undisturbed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(undisturbed, tmp_path / "store"))


def files(store: Path) -> list[str]:
    """Every file that a store answers for."""
    return [name for name, content in tree(store).items() if content is not None]


def stamps(store: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of every file, the log aside; folders' times follow their files'."""
    paths = [p for p in store.rglob("*") if p.is_symlink() or not p.is_dir()]
    found = {p.relative_to(store).as_posix(): os.lstat(p) for p in paths if ".factory/log" not in p.as_posix()}
    return {name: (one.st_ino, one.st_mtime_ns) for name, one in found.items()}


def found_in(store: Path, **how: Any) -> list[tuple[str, str]]:
    return [(one.path, one.kind) for one in damages(store, **how)]


def refused(store: Path, split: str) -> None:
    """At every door, before the first batch."""
    for door in (lambda: open_store(store), lambda: next(iter(Stream(store, split, batch=1)))):
        with pytest.raises(StoreError) as caught:
            door()
        assert len(str(caught.value)) > 20


def put_right(store: Path, whole: dict[str, bytes | None], name: str) -> None:
    """Repair changes the damaged file and the two manifests, which are taken away while it is at work."""
    before = stamps(store)
    repair(store, threads=1)
    assert tree(store) == whole, name
    after = stamps(store)
    touched = {n for n in after if before.get(n) != after[n]}
    assert touched <= {name, ".factory/manifest.json", ".factory/manifest.copy.json"}, (name, touched)


def test_the_small_store_has_everything(recipe: Recipe, undisturbed: Path) -> None:
    """Two arrays of other types and shapes, shards of many sizes, chunks of scalars, coordinates: 49 files."""
    classes = [class_of(name) for name in files(undisturbed)]
    assert {c: classes.count(c) for c in classes} == {"commit": 5, "document": 20, "list": 1, "shard": 10, "plain": 13}
    plan = layouts(recipe, undisturbed)["train"]
    assert {(b.dtype, b.shape) for b in plan.bulk.values()} == {("float32", (5,)), ("complex128", (3,))}
    assert len({size for shard in range(plan.shards) for size in plan.sizes(shard).values()}) > 2
    assert (undisturbed / "train/t2/c.1").exists()


@pytest.mark.parametrize("kind", PLANTS)
def test_every_kind_in_every_file(kind: str, store: Path, undisturbed: Path, hasty: None) -> None:
    """Each alone: found as what it is, refused by every reader if sizes show it, put right to the byte."""
    chance, whole = random.Random(kind), tree(undisturbed)
    for name in files(undisturbed):
        PLANTS[kind](store / name, chance)
        found = found_in(store)
        assert [path for path, _ in found] == [name]
        assert found[0][1] in called(kind, name) & set(KINDS), found
        if kind in SIZES_SHOW and class_of(name) in ("shard", "plain"):
            assert found_in(store, deep=False) == found
            refused(store, name.partition("/")[0])
        put_right(store, whole, name)


@pytest.mark.parametrize("kind", ["swapped", "foreign recipe"])
def test_bytes_of_another_place_or_recipe(kind: str, store: Path, undisturbed: Path, foreign: Path,
                                          hasty: None) -> None:
    """In every file that is not the same there anyway, but for what the last tests plant."""
    whole, theirs, planted = tree(undisturbed), tree(foreign), 0
    unsure = TWICE[0] | (TWICE[1] if kind == "foreign recipe" else set())
    for name in sorted(set(files(undisturbed)) - unsure):
        data = theirs[name] if kind == "foreign recipe" else neighbour(name, whole)
        if data is None or data == whole[name]:
            assert class_of(name) in ("document", "list"), name
            continue
        planted += 1
        (store / name).write_bytes(data)
        found = found_in(store)
        assert [path for path, _ in found] == [name]
        assert found[0][1] in called(kind, name), found
        put_right(store, whole, name)
    assert planted >= 30


def neighbour(name: str, whole: dict[str, bytes | None]) -> bytes | None:
    """What lies in the next file of the same class."""
    alike = [other for other, data in whole.items() if data is not None and class_of(other) == class_of(name)]
    return whole[alike[(alike.index(name) + 1) % len(alike)]]


def test_a_store_that_is_sound_raises_no_alarm(recipe: Recipe, undisturbed: Path, tmp_path: Path) -> None:
    """Finished, begun, in parts, finished by the last part, without its log, being extended, extended."""
    assert found_in(undisturbed) == []
    assert repair(undisturbed) == []
    store, larger = tmp_path / "store", grown(tmp_path)
    for part in ((2, 3), (3, 3), (1, 3)):
        make_part(recipe, store, part, threads=1)
        assert found_in(store) == []
    shutil.rmtree(store / ".factory/log")
    assert found_in(store) == []
    extend(larger, store, threads=1)
    assert found_in(store) == []
    assert repair(store) == []


def grown(folder: Path) -> Recipe:
    """The small recipe with more samples, in both splits into what was a short tail."""
    (folder / "small.yaml").write_text(SMALL)
    return load(folder / "small.yaml", samples={"train": 15, "test": 6})


@pytest.mark.parametrize("many", [5, pytest.param(100, marks=pytest.mark.slow)])
def test_many_at_once(many: int, undisturbed: Path, tmp_path: Path, hasty: None) -> None:
    """One to fifty damaged files at once; of what lies there twice, one is left."""
    seed = int(os.environ.get("FACTORY_DAMAGE_SEED", random.SystemRandom().randrange(10**6)))
    print(f"FACTORY_DAMAGE_SEED={seed}")
    chance, whole, names = random.Random(seed), tree(undisturbed), files(undisturbed)
    for number in range(many):
        store = Path(shutil.copytree(undisturbed, tmp_path / f"store{number}"))
        victims = chance.sample(names, min(len(names), chance.randint(1, 50)))
        planted = {name: chance.choice(sorted(PLANTS)) for name in survivable(victims, chance)}
        if {"zarr.json", ".factory/manifest.json"} <= set(planted):  # see `test_the_root_and_the_manifest_are_missing`
            del planted[".factory/manifest.json"]
        for name, kind in planted.items():
            PLANTS[kind](store / name, chance)
        found = found_in(store)
        assert sorted(path for path, _ in found) == sorted(planted), (seed, number, planted, found)
        for name, kind in found:
            assert kind in called(planted[name], name) | {"garbled", "flipped"}, (seed, number, name, planted[name])
        before = stamps(store)
        repair(store, threads=1)
        assert tree(store) == whole, (seed, number, planted)
        same = {n for n, stamp in stamps(store).items() if before.get(n) == stamp}
        assert same >= set(names) - set(planted) - TWICE[1], (seed, number, planted)


def survivable(victims: list[str], chance: random.Random) -> list[str]:
    """Without one of the root and its copy, of the manifest and its copy, of the commits and their list."""
    listed = {name for name in victims if class_of(name) == "commit"}
    lost: set[str] = set()
    for one, other in [*(({a}, {b}) for a, b in map(sorted, TWICE)), (listed, {".factory/shards.jsonl"})]:
        if one and one | other <= set(victims):
            lost |= chance.choice([one, other])
    return [name for name in victims if name not in lost]


def test_what_vouches_is_lost_twice(recipe: Recipe, store: Path, undisturbed: Path) -> None:
    """A shard without its commit and the list is made again; without manifests, all that is left vouches."""
    whole = tree(undisturbed)
    for name in (".factory/shards.jsonl", ".factory/commits/train.1", "train/signal/c.1.0"):
        (store / name).unlink()
    assert dict(found_in(store)) == {".factory/shards.jsonl": "missing", ".factory/commits/train.1": "missing",
                                     "train/decayed/c.1.0": "uncommitted"}
    repair(store, threads=1)
    assert tree(store) == whole
    for name in TWICE[1]:
        (store / name).unlink()
    assert dict(found_in(store)) == dict.fromkeys(TWICE[1], "missing")
    repair(store, threads=1)
    assert tree(store) == whole
    for name in TWICE[0]:
        (store / name).write_text("{")
    with pytest.raises(StoreError):
        repair(store, threads=1)


@pytest.mark.parametrize("step", [11, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["zarr.json", ".factory/root.json"])
def test_one_byte_of_what_the_root_says(name: str, step: int, store: Path, undisturbed: Path) -> None:
    """Every byte in turn (every eleventh in CI) before the metadata that the root repeats."""
    data, wrong = (undisturbed / name).read_bytes(), []
    for at in range(0, len(data) if "root.json" in name else first_of("zarr.json", data), step):
        (store / name).write_bytes(data[:at] + bytes([data[at] ^ 1 << at % 7]) + data[at + 1 :])
        try:
            found: object = [path for path, _ in found_in(store)]
        except Exception as error:
            found = repr(error)
        if found != [name]:
            wrong.append((at, found))
    assert not wrong, (len(wrong), wrong[:3])


@pytest.mark.parametrize("name", sorted(TWICE[1]))
def test_the_manifest_of_another_recipe(name: str, store: Path, undisturbed: Path, foreign: Path) -> None:
    shutil.copy(foreign / name, store / name)
    assert [path for path, _ in found_in(store)] == [name]
    put_right(store, tree(undisturbed), name)


def test_the_root_and_the_manifest_are_missing(store: Path, undisturbed: Path) -> None:
    for name in ("zarr.json", ".factory/manifest.json"):
        (store / name).unlink()
    assert found_in(store) == [("zarr.json", "missing"), (".factory/manifest.json", "missing")]
    repair(store, threads=1)
    assert tree(store) == tree(undisturbed)


def test_metadata_of_a_split_in_the_root_s_place(store: Path, undisturbed: Path) -> None:
    shutil.copy(store / "train/zarr.json", store / "zarr.json")
    assert [path for path, _ in found_in(store)] == ["zarr.json"]
    put_right(store, tree(undisturbed), "zarr.json")


@pytest.mark.parametrize("name", ["train/signal/c.1.0", "train/t2/c.0", "test/echo/c.0"])
def test_flipped_bytes_do_not_pass_a_reader_that_checks(name: str, store: Path) -> None:
    """xarray and zarr check the crc of what they read; a `Stream` that of coordinates, and the rest is `verify`'s."""
    data = bytearray((store / name).read_bytes())
    data[1] ^= 1
    (store / name).write_bytes(data)
    split, array, _ = name.split("/")
    assert found_in(store, deep=False) == []
    assert found_in(store) == [(name, "flipped")]
    with pytest.raises((StoreError, ValueError), match=r"(?i)crc|checksum"):
        open_store(store)[split][array].load()
    if array == "echo":
        with pytest.raises(StoreError):
            next(iter(Stream(store, split, batch=1)))
    assert read_layout(store, split).samples


def test_swapped_shards_and_arrays(recipe: Recipe, store: Path, undisturbed: Path) -> None:
    plan = layouts(recipe, store)["train"]
    name = next(iter(plan.bulk))
    one, other = plan.file(name, 0), plan.file(name, 1)
    data = one.read_bytes(), other.read_bytes()
    one.write_bytes(data[1])
    other.write_bytes(data[0])
    assert [(d.kind, d.array, d.shard) for d in damages(store)] == [("swapped", name, 0), ("swapped", name, 1)]
    repair(store, threads=1)
    first, second = commit_path(plan, 0), commit_path(plan, 1)
    first.write_bytes(second.read_bytes())
    assert [(d.kind, d.shard) for d in damages(store)] == [("swapped", 0)]
    repair(store, threads=1)
    assert tree(store) == tree(undisturbed)


def test_a_commit_of_another_recipe(recipe: Recipe, store: Path, undisturbed: Path, tmp_path: Path) -> None:
    other = recipe_of(tmp_path / "other", SMALL.replace("seed: 7", "seed: 8"))
    materialise(other, tmp_path / "foreign", threads=1)
    plan, theirs = layouts(recipe, store)["train"], layouts(other, tmp_path / "foreign")["train"]
    for name in plan.bulk:
        shutil.copy(theirs.file(name, 2), plan.file(name, 2))
    shutil.copy(commit_path(theirs, 2), commit_path(plan, 2))
    found = {d.path: d.kind for d in damages(store)}
    assert found.pop(commit_path(plan, 2).relative_to(store).as_posix()) == "foreign recipe"
    assert set(found.values()) == {"flipped"}
    assert len(found) == len(plan.bulk)
    repair(store, threads=1)
    assert tree(store) == tree(undisturbed)


def test_strays_and_shards_without_a_commit(recipe: Recipe, store: Path, undisturbed: Path) -> None:
    plan = layouts(recipe, store)["train"]
    name = next(iter(plan.bulk))
    stray = plan.file(name, 0).with_name("c.99.0.0")
    stray.write_bytes(b"?")
    assert [(d.path, d.kind) for d in damages(store)] == [(stray.relative_to(store).as_posix(), "stray")]
    repair(store, threads=1)
    assert tree(store) == tree(undisturbed)
    (store / ".factory/manifest.json").unlink()
    commit_path(plan, 1).unlink()
    kinds = {d.path: d.kind for d in damages(store)}
    assert kinds[".factory/manifest.json"] == "missing"


def test_sizes_alone_miss_a_flip_and_a_subset_sees_a_share(store: Path, undisturbed: Path) -> None:
    shards = [name for name in files(undisturbed) if name.count("/") == 2 and "/c." in name and name.count(".") > 1]
    for name in shards:
        flip(store / name, random.Random(0))
    assert list(damages(store, deep=False)) == []
    some, all_ = list(damages(store, part=0.5)), list(damages(store))
    assert 0 < len(some) < len(all_)
    assert {one.path for one in some} <= {one.path for one in all_}
