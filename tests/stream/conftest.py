"""A recipe of echoes, its finished store and its samples; a file of tests that needs others has fixtures of its own."""

from __future__ import annotations

from pathlib import Path

import pytest
import xarray as xr

import factory
import factory.store.layout
from factory.recipe import Recipe, load
from factory.store import materialise, read_layout
from tests.stream.small import CHUNK_BYTES, FLAT, N


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    path = tmp_path_factory.mktemp("recipes") / "echoes.yaml"
    path.write_text(FLAT)
    return load(path)


@pytest.fixture(scope="module")
def store(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of 8 samples in inner chunks of two (signal) and one (clean); the last shard has 5."""
    path = tmp_path_factory.mktemp("stores") / "echoes.zarr"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(factory.store.layout, "CHUNK_BYTES", CHUNK_BYTES)
        materialise(recipe, path, threads=1)
    plan = read_layout(path, "train")
    assert (plan.bulk["signal"].chunk_samples, plan.bulk["clean"].chunk_samples, plan.shards) == (2, 1, 13)
    return path


@pytest.fixture(scope="module")
def whole(recipe: Recipe) -> xr.Dataset:
    return factory.make(recipe, "train", 0, N)
