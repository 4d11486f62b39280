"""The README's command on real label slices (BrainWeb, as KomaMRI ships them).  Budget: 20 s."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from typer.testing import CliRunner

from factory.cli import app
from factory.recipe import load
from factory.recipe.files import read_labels
from factory.units import TISSUES
from tests.laws import law_cut, tree_bytes

FOLDER = Path(os.environ.get("FACTORY_REFERENCE_DATA", Path(__file__).parents[2] / "shared/data"))
LABELS = FOLDER / "anatomy/koma__brain2D.mat"
pytestmark = pytest.mark.skipif(not LABELS.exists(), reason="no reference data (FACTORY_REFERENCE_DATA)")
SMALL = ["--samples", "train=24", "--samples", "validation=8", "--samples", "test=12", "--samples", "noise_study=4"]


def made(store: Path, labels: Path) -> Path:
    said = CliRunner().invoke(app, ["make", "rim_t1", str(store), *SMALL, "--set", f"files.anatomy={labels}"])
    assert said.exit_code == 0, said.output
    return store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("real") / "real.zarr", LABELS)


def windows(patch: np.ndarray, slices: list[np.ndarray]) -> bool:
    """Whether a patch is cut out of one of the slices."""
    return any(
        (np.lib.stride_tricks.sliding_window_view(one, patch.shape) == patch).all(axis=(2, 3)).any() for one in slices
    )


def test_patches_are_cut_from_the_real_slices_and_the_test_slice_is_held_out(store: Path) -> None:
    volumes = read_labels(LABELS)
    table = load("rim_t1", set={"files.anatomy": str(LABELS)}).splits["train"].chain[0].constants["table"]
    coded = np.zeros(256, np.uint8)
    for label, tissue in table.items():
        coded[label] = TISSUES.index(tissue)
    slices = {name: coded[array[0]] for name, array in zip(volumes.names, volumes.arrays, strict=True)}
    assert list(slices) == ["axial", "coronal", "sagittal"]
    seen, held_out = [slices["axial"], slices["coronal"]], [slices["sagittal"]]
    train = xr.open_zarr(store, group="train").tissue.to_numpy()
    test = xr.open_zarr(store, group="test").tissue.to_numpy()
    assert all(windows(patch, seen) and not windows(patch, held_out) for patch in train[:6])
    assert all(windows(patch, held_out) and not windows(patch, seen) for patch in test[:6])


def test_where_the_file_lies_is_not_in_the_bytes(store: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    copy = shutil.copy(LABELS, tmp_path / "elsewhere" / LABELS.name)
    assert tree_bytes(made(tmp_path / "again.zarr", Path(copy))) == tree_bytes(store)


def test_what_the_file_holds_is_in_the_identity() -> None:
    real = load("rim_t1", set={"files.anatomy": str(LABELS)})
    assert real.identity != load("rim_t1").identity
    assert str(FOLDER) not in real.text
    law_cut(load("rim_t1", set={"files.anatomy": str(LABELS)}, corner=True))


def test_t1_of_a_tissue_is_what_the_recipe_says(store: Path) -> None:
    data = xr.open_zarr(store, group="train")
    white = data.t1.to_numpy()[data.tissue.to_numpy() == TISSUES.index("white_matter")]
    assert 0.5 < white.mean() < 1.1  # mean 0.78 s, one draw of sd 0.25 s a patch, 24 patches
    air = data.t1.to_numpy()[data.tissue.to_numpy() == 0]
    assert (air == 0).all()
