"""The six laws over every recipe, in its corner; one test a law and recipe, so that a failure names both.

Budget: 25 s on two cores.
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


@pytest.mark.parametrize("name", RECIPES)
def test_cut(name: str) -> None:
    laws.law_cut(load(name, corner=True))


@pytest.mark.parametrize("name", RECIPES)
def test_no_dead_knob(name: str) -> None:
    laws.law_no_dead_knob(load(name, corner=True))


@pytest.mark.parametrize("name", RECIPES)
def test_honest_signature(name: str) -> None:
    laws.law_honest_signature(load(name, corner=True))


@pytest.mark.parametrize("name", RECIPES)
def test_independence(name: str) -> None:
    laws.law_independence(load(name, corner=True))


@pytest.mark.parametrize("name", RECIPES)
def test_store(name: str, tmp_path: Path) -> None:
    laws.law_store(load(name, corner=True), tmp_path)


@pytest.mark.parametrize("name", RECIPES)
def test_one_truth(name: str, tmp_path: Path) -> None:
    laws.law_one_truth(load(name, corner=True), tmp_path)


def test_every_step_is_used_by_a_recipe() -> None:
    every = {name for topic in topics() for name in steps(topic)}
    used = {node for name in RECIPES for node in every if f"{node}:" in _text(name) or f"- {node}\n" in _text(name)}
    assert used == every, f"no recipe uses {sorted(every - used)}"


def _text(name: str) -> str:
    return names()[name].read_text()


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


def test_an_avx2_machine_makes_the_same_bytes(tmp_path: Path) -> None:
    """A process that pretends to have no AVX-512, in NumPy and in numba."""
    code = "import sys; from tests.test_laws import digest; print(*[digest(n) for n in sys.argv[1:]])"
    environment = {**os.environ, **AVX2, "NUMBA_CACHE_DIR": str(tmp_path), "PYTHONWARNINGS": "ignore"}
    said = subprocess.run(
        [sys.executable, "-c", code, *RECIPES],
        capture_output=True, text=True, check=True, env=environment, cwd=Path(__file__).parents[1],
    )  # fmt: skip
    assert said.stdout.split() == [digest(name) for name in RECIPES]
