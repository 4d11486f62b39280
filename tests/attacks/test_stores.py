"""Hostile stores: each ends in a sentence, before zarr or xarray have opened anything.

Budget: 30 s on two cores.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from factory.cli import app
from factory.store import StoreError, make_part, materialise, open_store, read_layout
from factory.store.care import scalar_values
from factory.stream import Stream
from tests.test_store import recipe_of


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sound")
    materialise(recipe_of(folder / "recipe"), folder / "store", threads=1)
    return folder / "store"


@pytest.fixture
def store(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "store"))


def edited(path: Path, change: Callable[[Any], Any]) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def array(store: Path, change: Callable[[Any], Any]) -> None:
    """Change an array's metadata wherever they stand."""
    edited(store / "train/noisy/zarr.json", change)
    edited(store / "train/zarr.json", lambda d: change(repeated(d)["noisy"]))
    edited(store / "zarr.json", lambda d: change(repeated(d)["train/noisy"]))


def linked(path: Path, target: str) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    path.symlink_to(target)


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def sharding(document: Any) -> Any:
    return document["codecs"][0]["configuration"]


def repeated(document: Any) -> Any:
    return document["consolidated_metadata"]["metadata"]


ATTACKS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a huge shape": (lambda s: array(s, lambda d: d.update(shape=[10**15, 8])), "samples, where the root says"),
    "a huge chunk": (
        lambda s: array(s, lambda d: (d.update(shape=[100, 1 << 40]),
                                      d["chunk_grid"]["configuration"].update(chunk_shape=[16, 1 << 40]),
                                      sharding(d).update(chunk_shape=[16, 1 << 40]))), "chunks of"),
    "a million chunks a shard": (
        lambda s: array(s, lambda d: (d["chunk_grid"]["configuration"].update(chunk_shape=[16, 1 << 20]),
                                      sharding(d).update(chunk_shape=[1, 1]))), "inner chunks a shard"),
    "another codec": (
        lambda s: array(s, lambda d: sharding(d)["codecs"].append({"name": "blosc"})), "the codec 'blosc'"),
    "objects": (lambda s: array(s, lambda d: d.update(data_type="object")), "the data type 'object'"),
    "an old Zarr": (lambda s: array(s, lambda d: d.update(zarr_format=2)), "where a Zarr 3 array should be"),
    "negative sizes": (lambda s: array(s, lambda d: d.update(shape=[100, -8])), "the shape"),
    "a folder elsewhere": (
        lambda s: edited(s / "zarr.json", lambda d: d["attributes"]["splits"]["train"]["variables"].append("../../x")),
        "names"),
    "a hundred thousand arrays": (
        lambda s: edited(s / "zarr.json", lambda d: d["attributes"]["splits"]["train"].update(
            variables=[f"a{k}" for k in range(100_000)])), "names 1000[0-9]{2} splits and variables"),
    "only the repeated metadata": (
        lambda s: edited(s / "zarr.json", lambda d: repeated(d)["train/noisy"].update(shape=[1, 1])),
        "what the store itself does not say"),
    "an array more in the repeated metadata": (
        lambda s: edited(s / "zarr.json", lambda d: repeated(d).update({"../x": {}})),
        "what the store itself does not say"),
    "a linked shard": (lambda s: linked(s / "train/noisy/c.1.0", "/etc/passwd"), "no regular file"),
    "a linked array": (lambda s: linked(s / "train/noisy", "/etc"), "is no folder"),
    "a linked split": (lambda s: linked(s / "train", "/etc"), "is no folder"),
    "a linked document": (lambda s: linked(s / "train/noisy/zarr.json", "/etc/passwd"), "is no regular file"),
    "a pipe as a shard": (lambda s: pipe(s / "train/noisy/c.1.0"), "no regular file"),
    "a pipe as a document": (lambda s: pipe(s / "train/noisy/zarr.json"), "is no regular file"),
    "a pipe as a scalar": (lambda s: pipe(s / "train/t2/c.0"), "no regular file"),
    "a pipe as the root": (lambda s: pipe(s / "zarr.json"), "is no regular file"),
    "a huge document": (
        lambda s: (s / "train/noisy/zarr.json").write_bytes(b"[" + b"0," * (1 << 25) + b"0]"), "never so large"),
    "a deep document": (lambda s: (s / "train/noisy/zarr.json").write_bytes(b"[" * 10**6), "cannot be read"),
    "no document": (lambda s: (s / "train/noisy/zarr.json").write_bytes(b"7"), "is not Zarr metadata"),
}


REFUSED: list[tuple[float, float]] = []  # seconds and GB of each


@pytest.mark.parametrize("name", ATTACKS)
def test_it_ends_in_a_sentence(name: str, store: Path) -> None:
    """Opened, streamed, listed and verified: within 5 s and 1 GB each."""
    attack, said = ATTACKS[name]
    attack(store)
    before, slowest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, 0.0
    doors: list[Callable[[], Any]] = [
        lambda: open_store(store), lambda: next(iter(Stream(store, "train", batch=4))),
        lambda: (read_layout(store, "train"), open_store(store)),
    ]  # fmt: skip
    for door in doors:
        begun = time.monotonic()
        with pytest.raises(StoreError, match=said):
            door()
        slowest = max(slowest, time.monotonic() - begun)
    for command in ("verify", "status", "show"):
        begun = time.monotonic()
        result = CliRunner().invoke(app, [command, str(store)])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        slowest = max(slowest, time.monotonic() - begun)
    more = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert slowest < 5
    assert more < 1_000_000  # kB
    REFUSED.append((slowest, more / 1e6))


def test_the_whole_in_numbers() -> None:
    """For those who ask with -s."""
    seconds, memory = (max(column, default=0) for column in zip(*REFUSED, strict=True))
    print(f"{len(REFUSED)} hostile stores refused, slowest {seconds:.2f} s, most {memory:.3f} GB")


def test_escape_codes_do_not_reach_the_terminal(store: Path) -> None:
    for path in (store / "zarr.json", store / "train/zarr.json"):
        edited(path, lambda d: d["attributes"].update(recipe="\x1b]0;owned\x07 seed: 7"))
    for command in (["show"], ["status"], ["verify"], ["diff", str(store)]):
        result = CliRunner().invoke(app, [*command, str(store)])
        assert "\x1b]0" not in result.output
        assert "\x07" not in result.output


def test_poisoned_numbers_are_refused_by_their_checksum(store: Path) -> None:
    path = store / "train/t2/c.0"
    path.write_bytes(b"\xff" * path.stat().st_size)
    with pytest.raises(StoreError, match="cannot be read"):
        scalar_values(read_layout(store, "train"), "t2")


FOLDERS = ["train", "train/noisy", ".factory", ".factory/commits", ".factory/partial", ".factory/log"]


@pytest.mark.parametrize("name", FOLDERS)
def test_no_link_leads_a_write_out_of_a_store(name: str, tmp_path: Path) -> None:
    """Whoever may change names in a store that is being made turns a folder into a link."""
    store, outside = tmp_path / "store", tmp_path / "outside"
    recipe = recipe_of(tmp_path)
    make_part(recipe, store, (1, 2), threads=1)
    if (store / name).exists():
        shutil.move(store / name, outside)
    else:
        outside.mkdir()
    before = {p: p.stat().st_mtime_ns for p in [outside, *outside.rglob("*")]}
    (store / name).symlink_to(outside)
    with pytest.raises(StoreError):
        materialise(recipe, store, threads=1)
    assert {p: p.stat().st_mtime_ns for p in [outside, *outside.rglob("*")]} == before
