"""The six laws over recipes in their corners; one test a law and recipe, so that a failure names both.

Every step runs in some recipe; recipes whose steps all run in others are left to the slow suite.
Budget: 6 minutes on two cores, most of them compiling kernels; warm 1 minute.
"""

from __future__ import annotations

import os
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

import tests.laws as laws
from factory.floor import make
from factory.recipe import load, names
from factory.step import steps, topics

RECIPES = sorted(names())
EVERY = {name for topic in topics() for name in steps(topic)}


def _used(recipe: str) -> set[str]:
    text = names()[recipe].read_text()
    return {name for name in EVERY if f"{name}:" in text or f"- {name}\n" in text}


def _covering() -> list[str]:
    """Few recipes that use every step: always the one with most steps that no other one has shown yet."""
    chosen, shown = [], set[str]()
    while len(left := max((_used(name) - shown for name in RECIPES), key=len)):
        chosen.append(next(name for name in RECIPES if len(_used(name) - shown) == len(left)))
        shown |= left
    return chosen


COVERING = _covering()
CASES = [pytest.param(name, marks=[] if name in COVERING else [pytest.mark.slow]) for name in RECIPES]


@pytest.mark.parametrize("name", CASES)
def test_cut(name: str) -> None:
    laws.law_cut(load(name, corner=True))


@pytest.mark.parametrize("name", CASES)
def test_no_dead_knob(name: str) -> None:
    laws.law_no_dead_knob(load(name, corner=True))


@pytest.mark.parametrize("name", CASES)
def test_honest_signature(name: str) -> None:
    laws.law_honest_signature(load(name, corner=True))


@pytest.mark.parametrize("name", CASES)
def test_independence(name: str) -> None:
    laws.law_independence(load(name, corner=True))


@pytest.mark.parametrize("name", CASES)
def test_store(name: str, tmp_path: Path) -> None:
    laws.law_store(load(name, corner=True), tmp_path)


@pytest.mark.parametrize("name", CASES)
def test_one_truth(name: str, tmp_path: Path) -> None:
    laws.law_one_truth(load(name, corner=True), tmp_path)


def test_every_step_is_used_by_a_recipe() -> None:
    used = set().union(*map(_used, COVERING))
    assert used == EVERY, f"no recipe uses {sorted(EVERY - used)}"


def digest(name: str) -> str:
    """sha256 over every byte that the corner of a recipe makes."""
    recipe = load(name, corner=True)
    seen = sha256()
    for split in recipe.splits.values():
        made = make(recipe, split.name, 0, split.samples)
        for variable in made.variables.values():
            seen.update(np.ascontiguousarray(variable.to_numpy()).tobytes())
    return seen.hexdigest()


AVX2 = {"NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR", "NUMBA_CPU_NAME": "haswell"}


@pytest.mark.parametrize("some", [COVERING, pytest.param(RECIPES, marks=pytest.mark.slow)], ids=["covering", "all"])
def test_an_avx2_machine_makes_the_same_bytes(tmp_path: Path, some: list[str]) -> None:
    """A process that pretends to have no AVX-512, in NumPy and in numba."""
    code = "import sys; from tests.test_laws import digest; print(*[digest(n) for n in sys.argv[1:]])"
    environment = {**os.environ, **AVX2, "NUMBA_CACHE_DIR": str(tmp_path), "PYTHONWARNINGS": "ignore"}
    said = subprocess.run(
        [sys.executable, "-c", code, *some],
        capture_output=True, text=True, check=True, env=environment, cwd=Path(__file__).parents[1],
    )  # fmt: skip
    assert said.stdout.split() == [digest(name) for name in some]
