"""What several tests of stores share: a small recipe, and its finished store."""

from __future__ import annotations

from pathlib import Path

import pytest

from factory.recipe import Recipe
from factory.store import materialise


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    from tests.test_store import recipe_of

    return recipe_of(tmp_path_factory.mktemp("recipe"))


@pytest.fixture(scope="module")
def undisturbed(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished store that no test changes."""
    path = tmp_path_factory.mktemp("undisturbed") / "store"
    materialise(recipe, path, threads=1)
    return path
