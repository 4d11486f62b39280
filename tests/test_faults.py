"""The n-th call fails, for every n and every kind of call: an error is said, nothing is corrupt, the rerun finishes.

Budget: 30 s on two cores for every seventh call, two minutes for all (slow).
"""

from __future__ import annotations

import builtins
import errno
import os
import random
import shutil
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from factory.recipe import Recipe, load
from factory.store import StoreError, damages, extend, materialise, repair, status
from factory.store import drop as drops
from factory.store.commit import commit_path
from factory.store.layout import layouts
from tests.test_damage import flip
from tests.test_kill import RECIPE, tree

SMALL = RECIPE.replace("samples: 300", "samples: 14").replace("samples: 30}", "samples: 5}")
KINDS = ("open", "write", "fsync", "replace", "unlink", "mkdir")


class Faults:
    """Counts calls of each kind, and lets one of them fail."""

    def __init__(self, kind: str = "", at: int = -1, code: int = errno.EIO) -> None:
        self.kind, self.at, self.code = kind, at, code
        self.counts: Counter[str] = Counter()
        self.failed = False

    def __call__(self, kind: str, real: Callable[..., Any], *args: Any, **options: Any) -> Any:
        self.counts[kind] += 1
        if kind == self.kind and self.counts[kind] == self.at:
            self.failed = True
            raise OSError(self.code, os.strerror(self.code))
        return real(*args, **options)

    def active(self) -> ExitStack:
        stack = ExitStack()

        def wrapped(kind: str, real: Callable[..., Any]) -> Callable[..., Any]:
            return lambda *args, **options: self(kind, real, *args, **options)

        def opened(*args: Any, **options: Any) -> Any:
            file = builtins.open(*args, **options)  # noqa: SIM115
            return Written(file, self) if "w" in (args[1] if len(args) > 1 else options.get("mode", "r")) else file

        stack.enter_context(patch.object(drops, "open", opened, create=True))
        for name in KINDS:
            if name != "write":
                stack.enter_context(patch.object(os, name, wrapped(name, getattr(os, name))))
        return stack


class Written:
    """A file whose writes may fail."""

    def __init__(self, file: Any, faults: Faults) -> None:
        self.file, self.faults = file, faults

    def write(self, data: Any) -> Any:
        return self.faults("write", self.file.write, data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def __enter__(self) -> Written:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()


@pytest.fixture(scope="module")
def recipes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recipe, Recipe]:
    path = tmp_path_factory.mktemp("recipes") / "small.yaml"
    path.write_text(SMALL)
    return load(path), load(path, samples={"train": 22})


@pytest.fixture(scope="module")
def stores(recipes: tuple[Recipe, Recipe], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("stores")
    for name, recipe in zip(("sound", "larger"), recipes, strict=True):
        materialise(recipe, folder / name, threads=1)
    shutil.copytree(folder / "sound", folder / "damaged")
    plan = layouts(recipes[0], folder / "damaged")["train"]
    flip(plan.file("noisy", 1), random.Random(0))
    commit_path(plan, 2).unlink()
    (folder / "damaged/train/noisy/zarr.json").write_text("{")
    return {name: folder / name for name in ("sound", "larger", "damaged")}


OPERATIONS = ("make", "repair", "extend")


@pytest.mark.parametrize("step", [7, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_the_nth_call_fails(
    operation: str, kind: str, step: int, recipes: tuple[Recipe, Recipe], stores: dict[str, Path], tmp_path: Path
) -> None:
    recipe, larger = recipes
    begin = {"make": None, "repair": stores["damaged"], "extend": stores["sound"]}[operation]
    wanted = tree(stores["larger" if operation == "extend" else "sound"])

    def run(store: Path) -> None:
        if operation == "make":
            materialise(recipe, store, threads=1)
        elif operation == "repair":
            repair(store, threads=1)
        else:
            extend(larger, store, threads=1)

    failures, at = 0, 1
    while True:
        store = tmp_path / f"store{at}"
        if begin is not None:
            shutil.copytree(begin, store)
        faults = Faults(kind, at, errno.ENOSPC if at % 2 else errno.EIO)
        with faults.active():
            try:
                run(store)
                said = ""
            except (OSError, StoreError) as error:
                said = str(error)
        if not said:  # only what is tidied up may fail without a word, and then the store is right all the same
            assert tree(store) == wanted, (at, faults.counts)
        if not faults.failed:
            break
        failures += 1
        if store.exists() and status(store).finished:
            assert not [d for d in damages(store) if d.kind not in ("missing",)] or operation == "repair"
        run(store)
        assert tree(store) == wanted, (operation, kind, at)
        shutil.rmtree(store)
        at += step
    assert failures or kind in ("mkdir", "unlink")
