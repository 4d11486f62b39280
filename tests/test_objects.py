"""Stores in an object store: a real S3 server on loopback, written, killed, resumed, verified, repaired and read.

Budget: 60 s on two cores.
"""

from __future__ import annotations

import http.server
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from factory.recipe import Recipe, load
from factory.store import (
    AnotherRecipe,
    DamagedStore,
    IncompleteStore,
    NoStore,
    StoreError,
    damages,
    extend,
    make_part,
    materialise,
    open_store,
    repair,
    status,
)
from factory.store.objects import ObjectPath
from tests.test_kill import RECIPE, tree

obstore = pytest.importorskip("obstore", reason="the extra 'remote' is not installed")
SMALL = RECIPE.replace("samples: 300", "samples: 26").replace("samples: 30}", "samples: 5}")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    path = tmp_path_factory.mktemp("recipe") / "small.yaml"
    path.write_text(SMALL)
    return load(path)


@pytest.fixture(scope="module")
def sound(small: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("local") / "store"
    materialise(small, path, threads=1)
    return path


def objects(store: str) -> dict[str, bytes]:
    """Every object of a store but its log."""
    root = ObjectPath.of(store)
    found = {str(p.relative_to(root)): p for p in root.below()}
    return {key: p.read_bytes() for key, p in found.items() if not key.startswith(".factory/log")}


def files(store: Path) -> dict[str, bytes]:
    return {key: data for key, data in tree(store).items() if data is not None}


def test_made_read_and_left_alone(bucket: str, small: Recipe, sound: Path) -> None:
    store = f"{bucket}/deep/in/it"
    data = materialise(small, store, threads=2)
    assert objects(store) == files(sound)
    local = open_store(sound)
    for split in small.splits:
        xr.testing.assert_identical(data[split].to_dataset(), local[split].to_dataset())
    assert status(store).finished
    assert not list(damages(store))
    before = {p: p.read_bytes() for p in ObjectPath.of(store).below()}
    materialise(small, store)
    assert {p: p.read_bytes() for p in ObjectPath.of(store).below()} == before


def test_parts_add_up_and_extend(bucket: str, small: Recipe, tmp_path: Path) -> None:
    store = f"{bucket}/parts"
    assert not make_part(small, store, (2, 2), threads=1)
    with pytest.raises(IncompleteStore, match="incomplete"):
        open_store(store)
    assert make_part(small, store, (1, 2), threads=1)
    (tmp_path / "small.yaml").write_text(SMALL)
    larger = load(tmp_path / "small.yaml", samples={"train": 33})
    extend(larger, store, threads=1)
    materialise(larger, tmp_path / "larger", threads=1)
    assert objects(store) == files(tmp_path / "larger")


def test_killed_and_gone_on_with(bucket: str, small: Recipe, sound: Path, tmp_path: Path) -> None:
    """kill -9 at random moments; what a kill leaves is a beginning, never a finished store that is not."""
    (tmp_path / "small.yaml").write_text(SMALL)
    seed = random.SystemRandom().randrange(10**6)
    print(f"seed {seed}")
    chance, store, kills = random.Random(seed), f"{bucket}/killed", 0
    code = ("import sys; from factory.recipe import load; from factory.store import materialise; "
            "recipe = load(sys.argv[1]); print('ready', flush=True); materialise(recipe, sys.argv[2], threads=1)")
    for _ in range(4):
        child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "small.yaml"), store], text=True,
                                 stdout=subprocess.PIPE, cwd=Path(__file__).parents[1])
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        time.sleep(chance.uniform(0.2, 0.9))
        child.send_signal(signal.SIGKILL)
        kills += child.wait() == -signal.SIGKILL
        child.stdout.close()
        assert status(store).finished == (".factory/manifest.json" in objects(store))
    materialise(small, store, threads=1)
    assert kills
    assert objects(store) == files(sound)


PLACES = ["noisy/c.1.0", "manifest.json", "train/zarr.json", "t2/c.0"]
HOW = ["missing", "flipped", "truncated", "empty"]


@pytest.mark.parametrize("turn", range(len(HOW)))
@pytest.mark.parametrize("book", ["commits/train.2", "shards.jsonl"])  # both at once, and nothing vouches for the shard
def test_damage_is_found_and_repaired(book: str, turn: int, bucket: str, small: Recipe, sound: Path) -> None:
    """Every kind on every sort of object, several at once."""
    store, planted = f"{bucket}/damage", set()
    materialise(small, store, threads=1)
    for number, what in enumerate([*PLACES, book]):
        victim = next(p for p in ObjectPath.of(store).below() if str(p).endswith(what))
        data = bytearray(victim.read_bytes())
        data[len(data) // 2] ^= 1
        victim.unlink()
        how = HOW[(number + turn) % len(HOW)]
        if how != "missing":
            victim.write_bytes({"flipped": bytes(data), "truncated": bytes(data[:-3]), "empty": b""}[how])
        planted.add(str(victim.relative_to(ObjectPath.of(store))))
    assert {one.path for one in damages(store)} == planted
    assert {one.path for one in repair(store, threads=1)} == planted
    assert objects(store) == files(sound)


def test_refusals_are_sentences(bucket: str, small: Recipe, tmp_path: Path) -> None:
    ObjectPath.of(f"{bucket}/taken/notes.txt").write_bytes(b"mine")
    with pytest.raises(NoStore, match=r"taken/notes\.txt is there.*name a prefix"):
        materialise(small, f"{bucket}/taken")
    assert objects(f"{bucket}/taken") == {"notes.txt": b"mine"}
    (tmp_path / "small.yaml").write_text(SMALL.replace("seed: 11", "seed: 12"))
    materialise(small, f"{bucket}/other", threads=1)
    with pytest.raises(AnotherRecipe, match="seed: 12"):
        materialise(load(tmp_path / "small.yaml"), f"{bucket}/other")
    with pytest.raises(NoStore, match="there is no store"):
        open_store(f"{bucket}/nothing")
    assert status(f"{bucket}/nothing").code == 10
    for address in ("ftp://host/store", "s3://", "s3://bucket/a/../b", "s3://key@bucket/a", "s3://bucket/a?x=1"):
        with pytest.raises(StoreError, match=r"address|holds"):
            ObjectPath.of(address)
    with pytest.raises(StoreError, match="can only be read"):
        materialise(small, "https://127.0.0.1:1/store")


def test_a_begun_creation_is_gone_on_with(bucket: str, small: Recipe, sound: Path) -> None:
    """A run that was killed while it wrote the first metadata left no root: the next one goes on."""
    store = f"{bucket}/begun"
    ObjectPath.of(f"{store}/train/zarr.json").write_bytes((sound / "train/zarr.json").read_bytes())
    materialise(small, store, threads=1)
    assert objects(store) == files(sound)


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


def test_a_finished_store_opens_over_http(small: Recipe, sound: Path, tmp_path: Path) -> None:
    """Read only, without listings: what a plain web server gives."""
    shutil.copytree(sound, tmp_path / "store")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        address = f"http://127.0.0.1:{server.server_address[1]}"
        data, local = open_store(f"{address}/store"), open_store(sound)
        np.testing.assert_array_equal(data["train"].noisy, local["train"].noisy)
        assert status(f"{address}/store").id == status(sound).id
        assert repair(f"{address}/store") == []
        with pytest.raises(StoreError, match="can only be read"):
            materialise(small, f"{address}/store")
        next((tmp_path / "store/train/noisy").glob("c.1.*")).unlink()
        with pytest.raises(DamagedStore, match=r"c\.1\.0.* is missing"):
            open_store(f"{address}/store")
        with pytest.raises(NoStore):
            open_store(f"{address}/elsewhere")
    finally:
        server.shutdown()
        server.server_close()
