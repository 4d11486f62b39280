"""Shares made apart, and stores that grow: the bytes are those of one run.

Budget: 40 s on two cores.
"""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import xarray as xr
from typer.testing import CliRunner

from factory.cli import app
from factory.recipe import Recipe, load
from factory.store import AnotherRecipe, damages, extend, make_part, materialise, open_store, status
from tests.test_store import RECIPE, recipe_of, tree


@pytest.mark.parametrize("count", [2, 3, 20])
def test_parts_in_any_order_add_up(recipe: Recipe, undisturbed: Path, tmp_path: Path, count: int) -> None:
    numbers = list(range(1, count + 1))
    random.Random(count).shuffle(numbers)
    finished = [make_part(recipe, tmp_path / "store", (i, count), threads=1) for i in numbers]
    assert finished[-1]
    assert tree(tmp_path / "store") == tree(undisturbed)


def test_a_part_makes_its_share_only(recipe: Recipe, tmp_path: Path) -> None:
    assert not make_part(recipe, tmp_path / "store", (2, 3), threads=1)
    found = status(tmp_path / "store")
    assert not found.finished
    assert sum(s.committed for s in found.splits) == -(-(sum(s.shards for s in found.splits) - 1) // 3)


def test_durability_does_not_change_the_bytes(recipe: Recipe, undisturbed: Path, tmp_path: Path) -> None:
    calls = []
    real = os.fsync
    with patch.object(os, "fsync", lambda handle: calls.append(handle) or real(handle)):
        materialise(recipe, tmp_path / "store", threads=1, durable="process")
        fast = len(calls)
        materialise(recipe, tmp_path / "power", threads=1)
    shards = sum(s.shards for s in status(undisturbed).splits)
    assert len(calls) - 2 * fast >= 3 * shards  # a file, its commit and a folder each, at least
    assert tree(tmp_path / "store") == tree(tmp_path / "power") == tree(undisturbed)


def test_parts_of_the_command(recipe: Recipe, undisturbed: Path, tmp_path: Path) -> None:
    runner = CliRunner()
    (tmp_path / "small.yaml").write_text(RECIPE)
    call = ["make", str(tmp_path / "small.yaml"), str(tmp_path / "store"), "--threads", "1", "--part"]
    first = runner.invoke(app, [*call, "1/2"])
    assert first.exit_code == 0
    assert "other parts are still missing" in first.output
    assert runner.invoke(app, [*call, "2/2"]).exit_code == 0
    assert tree(tmp_path / "store") == tree(undisturbed)
    assert runner.invoke(app, [*call, "3/2"]).exit_code == 2


@pytest.fixture(scope="module")
def larger(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    folder = tmp_path_factory.mktemp("larger")
    (folder / "small.yaml").write_text(RECIPE)
    return load(folder / "small.yaml", samples={"train": 150})


@pytest.fixture(scope="module")
def grown(larger: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("grown") / "store"
    materialise(larger, path, threads=1)
    return path


def test_an_extended_store_is_one_that_was_larger_from_the_start(
    larger: Recipe, grown: Path, undisturbed: Path, tmp_path: Path
) -> None:
    store = Path(shutil.copytree(undisturbed, tmp_path / "store"))
    before = open_store(store)["train"].to_dataset().load()
    kept = {p: p.stat().st_ino for p in store.rglob("train/*/c.0.*")}
    extend(larger, store, threads=1)
    assert tree(store) == tree(grown)
    assert list(damages(store)) == []
    assert {p: p.stat().st_ino for p in kept} == kept
    xr.testing.assert_identical(open_store(store)["train"].to_dataset().isel(sample=slice(0, 100)).load(), before)
    extend(larger, store, threads=1)
    assert tree(store) == tree(grown)


def test_an_extension_that_is_killed_goes_on(larger: Recipe, grown: Path, undisturbed: Path, tmp_path: Path) -> None:
    """At every rename of the extension; `extend` again, and what lies there in between is never taken for finished."""
    real, at = os.replace, 0
    while True:
        store = Path(shutil.copytree(undisturbed, tmp_path / f"store{at}"))
        count = iter(range(10**6))

        def killed(source: str, target: str, *, at: int = at, count: object = count, **folders: int) -> None:
            if next(count) == at:  # type: ignore[call-overload]
                raise KeyboardInterrupt
            real(source, target, **folders)

        with patch.object(os, "replace", killed):
            try:
                extend(larger, store, threads=1)
                break
            except KeyboardInterrupt:
                pass
        assert not status(store).finished
        assert [d for d in damages(store) if d.kind not in ("missing", "uncommitted", "flipped")] == []
        extend(larger, store, threads=1)
        assert tree(store) == tree(grown)
        shutil.rmtree(store)
        at += 5
    assert at > 10


def test_a_store_cannot_shrink_or_change(larger: Recipe, grown: Path, recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(AnotherRecipe, match=r"holds 150 samples of split 'train', and 100 are asked for"):
        extend(recipe, grown)
    other = recipe_of(tmp_path, RECIPE.replace("seed: 7", "seed: 8"))
    with pytest.raises(AnotherRecipe, match="its own recipe only"):
        extend(other, grown)


def test_the_command(grown: Path, undisturbed: Path, tmp_path: Path) -> None:
    store = Path(shutil.copytree(undisturbed, tmp_path / "store"))
    runner = CliRunner()
    assert runner.invoke(app, ["extend", str(store)]).exit_code == 2
    told = runner.invoke(app, ["extend", str(store), "--samples", "train=150", "--threads", "1"])
    assert told.exit_code == 0, told.output
    left, right = tree(store), tree(grown)
    assert {k for k in left if left[k] != right.get(k)} <= {"zarr.json", ".factory/root.json", ".factory/manifest.json",
                                                            ".factory/manifest.copy.json"}
    assert np.array_equal(open_store(store)["train"]["t2"], open_store(grown)["train"]["t2"])
