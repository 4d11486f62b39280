"""A store that is cut, replaced or removed while a process reads it: named, without a wrong batch and without a signal.

Budget: 20 s on two cores.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import pytest

from factory.recipe import Recipe, load
from factory.store import DamagedStore, materialise
from factory.stream import Stream
from tests.stream.reader_target import digest, read
from tests.stream.small import RECIPE, environment, recipe_in, small_recipe

BATCH, SEED = 8, 4
PROCESSES = multiprocessing.get_context("forkserver")
Damage = Callable[[Path, Path], None]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    return small_recipe(tmp_path_factory.mktemp("recipe"))


@pytest.fixture(scope="module")
def stores(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The store, and one of the same shape with other samples."""
    folder = tmp_path_factory.mktemp("stores")
    materialise(recipe, folder / "s.zarr", threads=1)
    other = tmp_path_factory.mktemp("other")
    materialise(load(recipe_in(other, RECIPE.replace("seed: 3", "seed: 4"))), folder / "other.zarr", threads=1)
    return folder / "s.zarr", folder / "other.zarr"


def cut(file: Path, other: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def empty(file: Path, other: Path) -> None:
    os.truncate(file, 0)


def remove(file: Path, other: Path) -> None:
    file.unlink()


def put(file: Path, content: bytes) -> None:
    assert len(content) == file.stat().st_size
    new = file.with_name(file.name + ".new")
    new.write_bytes(content)
    os.replace(new, file)


def replace_by_noise(file: Path, other: Path) -> None:
    put(file, os.urandom(file.stat().st_size))


def replace_by_other(file: Path, other: Path) -> None:
    put(file, other.read_bytes())


def overwrite(file: Path, other: Path) -> None:
    with file.open("r+b") as handle:
        handle.write(os.urandom(file.stat().st_size))


class Reader:
    """The reading process; `batches` are the digests of what it was handed so far."""

    def __init__(self, store: Path, way: str = "maps", **options: Any) -> None:
        self.line, other = PROCESSES.Pipe()
        given = {"batch": BATCH, "seed": SEED} | options
        self.process = PROCESSES.Process(target=read, args=(other, str(store), way, given), daemon=True)
        self.process.start()
        other.close()
        self.batches: list[str] = []
        self.error = ""

    def take(self) -> bool:
        """Wait for what it says: whether it was a batch."""
        assert self.line.poll(60)
        try:
            kind, said = self.line.recv()
        except EOFError:
            return False
        if kind == "batch":
            self.batches.append(said)
        else:
            self.error = said
        return bool(kind == "batch")

    def go(self, batches: int = 10**9) -> None:
        """Take up to so many batches more."""
        for _ in range(batches):
            with contextlib.suppress(BrokenPipeError):
                self.line.send("go")
            if not self.take():
                break

    def end(self) -> int:
        """The exit status: 0 for a whole pass, 3 for a named error; a signal is a failure."""
        self.process.join(60)
        status = self.process.exitcode
        self.process.close()
        self.line.close()
        assert status in (0, 3), f"the reader ended with {status}"
        return status


@pytest.fixture(scope="module", autouse=True)
def _one_import_for_all_readers() -> Iterator[None]:
    PROCESSES.set_forkserver_preload(["tests.stream.reader_target"])
    yield
    forkserver._forkserver._stop()


def wanted(recipe: Recipe, epochs: int = 1) -> list[str]:
    return [digest(batch) for batch in Stream(recipe, "train", batch=BATCH, seed=SEED, epochs=epochs)]


DAMAGES: list[Damage] = [cut, empty, remove, replace_by_noise, replace_by_other, overwrite]


@pytest.mark.parametrize("way", ["maps", "pread"])
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda d: d.__name__)
def test_no_wrong_batch_and_no_signal(recipe: Recipe, stores: tuple[Path, Path], tmp_path: Path, damage: Damage,
                                      way: str) -> None:
    store = Path(shutil.copytree(stores[0], tmp_path / "s.zarr"))
    right = wanted(recipe, epochs=3)
    reader = Reader(store, epochs=3, way=way, verify="always")
    assert reader.take()
    reader.go(3)
    for shard in range(13):
        damage(store / "train" / "signal" / f"c.{shard}.0", stores[1] / "train" / "signal" / f"c.{shard}.0")
    reader.go()
    status = reader.end()
    assert reader.batches == right[: len(reader.batches)], "a batch that was handed over was wrong"
    assert len(reader.batches) >= 4
    if status == 0:
        assert len(reader.batches) == len(right), "only who read on to the end from files held open says nothing"
    else:
        assert "s.zarr: split train, array signal, shard" in reader.error
    if damage in (cut, empty, overwrite):
        assert status == 3, "the bytes that were there are gone"


@pytest.mark.parametrize("way", ["maps", "pread"])
@pytest.mark.parametrize("damage", [replace_by_noise, replace_by_other, overwrite], ids=lambda d: d.__name__)
def test_what_was_checked_once_is_checked_again_in_another_file(recipe: Recipe, stores: tuple[Path, Path],
                                                                tmp_path: Path, damage: Damage, way: str,
                                                                monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("factory.stream.stored.is_local", lambda path: way == "maps")
    store = Path(shutil.copytree(stores[0], tmp_path / "s.zarr"))
    stream, right = Stream(store, "train", batch=BATCH, seed=SEED, epochs=1), wanted(recipe, epochs=2)
    found = [digest(batch) for batch in stream]
    error = ""
    damage(store / "train" / "signal" / "c.3.0", stores[1] / "train" / "signal" / "c.3.0")
    try:
        found += [digest(batch) for batch in stream]
    except DamagedStore as caught:
        error = str(caught)
    assert "array signal, shard 3" in error
    assert found == right[: len(found)]


@pytest.mark.parametrize("way", ["maps", "pread"])
def test_a_file_replaced_before_it_is_opened_is_not_taken_for_its_own(recipe: Recipe, stores: tuple[Path, Path],
                                                                      tmp_path: Path, way: str,
                                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("factory.stream.stored.is_local", lambda path: way == "maps")
    store = Path(shutil.copytree(stores[0], tmp_path / "s.zarr"))
    stream = Stream(store, "train", batch=BATCH, shuffle=False)
    right = [digest(batch) for batch in Stream(recipe, "train", batch=BATCH, shuffle=False)]
    found: list[str] = []
    error = ""
    try:
        for batch in stream:
            found.append(digest(batch))
            if len(found) == 2:
                replace_by_other(store / "train" / "signal" / "c.11.0", stores[1] / "train" / "signal" / "c.11.0")
    except DamagedStore as caught:
        error = str(caught)
    assert "array signal, shard 11" in error
    assert found == right[: len(found)]


@pytest.mark.parametrize("way", ["maps", "pread"])
def test_a_store_that_vanishes(recipe: Recipe, stores: tuple[Path, Path], tmp_path: Path, way: str) -> None:
    store = Path(shutil.copytree(stores[0], tmp_path / "s.zarr"))
    reader = Reader(store, epochs=3, way=way)
    assert reader.take()
    shutil.rmtree(store)
    reader.go()
    status = reader.end()
    right = wanted(recipe, epochs=3)
    assert reader.batches == right[: len(reader.batches)]
    assert status == 3, "files that were not open yet are missing"
    assert "s.zarr" in reader.error


@pytest.mark.parametrize("way", ["maps", "pread"])
def test_what_is_overwritten_in_the_middle_of_a_pass(recipe: Recipe, stores: tuple[Path, Path], tmp_path: Path,
                                                     way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("factory.stream.stored.is_local", lambda path: way == "maps")
    store, right, found = Path(shutil.copytree(stores[0], tmp_path / "s.zarr")), wanted(recipe, epochs=3), []
    error = ""
    try:
        for batch in Stream(store, "train", batch=BATCH, seed=SEED, epochs=3):
            found.append(digest(batch))
            if len(found) == len(right) // 3 * 2:  # all shards have been read twice
                for file in (store / "train" / "signal").glob("c.*"):
                    overwrite(file, file)
    except DamagedStore as caught:
        error = str(caught)
    assert found == right[: len(found)]
    assert "array signal, shard" in error


CUT_AT_THE_WORST = """
import os, sys
from factory.store import StoreError
from factory.stream import Stream, stored
real = stored.gather
def late(*given):
    for k in range(13):
        os.truncate(f"{sys.argv[1]}/train/signal/c.{k}.0", 0)
    return real(*given)
stored.gather = late
try:
    print(len(list(Stream(sys.argv[1], "train", batch=40))))
except StoreError as error:
    print(error, flush=True)
    sys.exit(3)
"""


def test_a_cut_between_the_look_and_the_copy_is_no_signal(stores: tuple[Path, Path], tmp_path: Path) -> None:
    store = Path(shutil.copytree(stores[0], tmp_path / "s.zarr"))
    done = subprocess.run([sys.executable, "-c", CUT_AT_THE_WORST, str(store)], env=environment(), timeout=60,
                          capture_output=True, text=True, check=False)
    assert done.returncode == 3, f"status {done.returncode}: {done.stdout}{done.stderr[-300:]}"
    assert "s.zarr: split train, array" in done.stdout


@pytest.mark.parametrize("name", ["signal", "amplitude"])
@pytest.mark.parametrize("damage", [cut, remove], ids=lambda d: d.__name__)
def test_a_new_stream_refuses_what_is_damaged(stores: tuple[Path, Path], tmp_path: Path, damage: Damage,
                                              name: str) -> None:
    store = Path(shutil.copytree(stores[0], tmp_path / "s.zarr"))
    file = store / "train" / name / ("c.2.0" if name == "signal" else "c.0")
    damage(file, file)
    reader = Reader(store)
    assert not reader.take(), "no batch before the refusal"
    assert reader.end() == 3
    assert f"{name}/{file.name}" in reader.error
