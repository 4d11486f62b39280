"""Every file of the reference data's anatomy folder: what is read from it, or why not; and formats of label volumes.

Budget: 30 s on two cores.
"""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest
from PIL import Image
from scipy.io import netcdf_file

from factory import floor
from factory.recipe import load
from factory.recipe.files import read_labels
from factory.recipe.formats import FileError, arrays_of
from factory.recipe.tables import label_tables
from factory.units import TISSUES

FOLDER = Path(os.environ.get("FACTORY_REFERENCE_DATA", Path(__file__).parents[2] / "shared/data")) / "anatomy"
needs_data = pytest.mark.skipif(not FOLDER.is_dir(), reason="no reference data (FACTORY_REFERENCE_DATA)")
# file -> shapes (slice, row, column) by name, or the reason why nothing is read
EXPECTED: dict[str, dict[str, tuple[int, int, int]] | str] = {
    "ants__r16slice.jpg": {"ants__r16slice": (1, 256, 256)},
    "ants__r27slice.jpg": {"ants__r27slice": (1, 256, 256)},
    "ants__r30slice.jpg": {"ants__r30slice": (1, 256, 256)},
    "dipy__t1_coronal_slice.npy": {"dipy__t1_coronal_slice": (1, 256, 256)},
    "koma__brain2D.mat": {"axial": (1, 434, 362), "coronal": (1, 362, 362), "sagittal": (1, 434, 362)},
    "koma__contracting_ring.phantom": "holds no 2-D or 3-D array of numbers",
    "koma__pelvis2D.mat": {"pelvis3D_slice": (1, 512, 512)},
    "mrilab__BrainModel.mat": {"Anatomy": (180, 216, 180)},
    "mrilab__WaterFatPhantom.mat": "holds no 2-D or 3-D array of numbers",
    "nii__chris_PD.nii.gz": {"nii__chris_PD": (54, 256, 191)},
    "nil__mni_icbm152_gm_tal_nlin_sym_09a_converted.nii.gz": {
        "nil__mni_icbm152_gm_tal_nlin_sym_09a_converted": (189, 233, 197)},
    "nil__mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz": {
        "nil__mni_icbm152_t1_tal_nlin_sym_09a_converted": (189, 233, 197)},
    "nil__mni_icbm152_wm_tal_nlin_sym_09a_converted.nii.gz": {
        "nil__mni_icbm152_wm_tal_nlin_sym_09a_converted": (189, 233, 197)},
    "novi__slicePhantom.mat": {"mask": (1, 111, 93)},
    "rad__breast1_image.nrrd": {},
    "rad__breast1_label.nrrd": {},
    "sct__mt0.nii.gz": {},
    "sct__mt1.nii.gz": {},
    "sct__mtr.nii.gz": {},
    "sct__t2s_uncropped.nii.gz": {},
    "sct__t2s_uncropped_gmseg_manual.nii.gz": {},
    "susc__SusceptibilityValues.mat": "holds no 2-D or 3-D array of numbers",
}  # fmt: skip


@needs_data
def test_every_file_has_its_row() -> None:
    assert {path.name for path in FOLDER.iterdir()} == set(EXPECTED)


@needs_data
@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_what_is_read(name: str) -> None:
    want = EXPECTED[name]
    if isinstance(want, str):
        with pytest.raises(FileError, match=want):
            arrays_of(FOLDER / name)
        return
    found = arrays_of(FOLDER / name)
    assert found
    assert all(array.ndim == 3 for array in found.values())
    for key, shape in want.items():
        assert found[key].shape == shape
    if not want:
        image = nibabel.load(FOLDER / name).get_fdata() if ".nii" in name else None
        (array,) = found.values()
        if image is not None:  # voxel (i, j, k) of the file is [k, j, i]
            np.testing.assert_allclose(array, np.squeeze(image).T if image.ndim == 3 else image.T[0], rtol=1e-6)


@needs_data
@pytest.mark.parametrize(
    ("name", "table"), [("koma__brain2D.mat", "koma"), ("mrilab__BrainModel.mat", "brainweb")]
)  # fmt: skip
def test_label_files_become_samples(name: str, table: str) -> None:
    recipe = load("rim_t1", set={"files.anatomy": str(FOLDER / name), "chain.anatomy.labels.table": table},
                  samples={"train": 4, "validation": 4, "test": 4})  # fmt: skip
    made = floor.make(recipe, "train", 0, 4)
    assert {"grey_matter", "white_matter"} <= {TISSUES[k] for k in np.unique(made.tissue)}
    assert (made.t1.to_numpy()[made.tissue.to_numpy() > 0] > 0).all()


def labels() -> np.ndarray:
    random = np.random.default_rng(0)
    return random.integers(0, 10, (6, 7, 8)).astype(np.uint8)


def written(folder: Path, kind: str) -> Path:
    """The same volume (slice, row, column) in a format of BrainWeb or FreeSurfer."""
    volume, path = labels(), folder / f"labels.{kind}"
    if kind in ("nii", "nii.gz"):
        nibabel.save(nibabel.Nifti1Image(volume.T, np.eye(4)), path)
    elif kind == "mgz":
        nibabel.save(nibabel.MGHImage(volume.T, np.eye(4)), path)
    elif kind == "raw":
        path.write_bytes(volume.tobytes())
    elif kind == "raws.gz":
        path.write_bytes(gzip.compress((volume.astype("<u2") * 16).tobytes()))
    elif kind == "1.mnc":
        with netcdf_file(path, "w") as file:
            for name, size in zip(("zspace", "yspace", "xspace"), volume.shape, strict=True):
                file.createDimension(name, size)
            image = file.createVariable("image", "b", ("zspace", "yspace", "xspace"))
            image.signtype = b"unsigned"
            image.valid_range = np.array([0.0, 255.0])
            image[:] = volume.view(np.int8)
            for name, value in (("image-min", 0.0), ("image-max", 255.0)):
                file.createVariable(name, "d", ("zspace",))[:] = value
    else:
        with h5py.File(path, "w") as file:
            image = file.create_dataset("minc-2.0/image/0/image", data=volume)
            image.attrs["dimorder"] = np.bytes_("zspace,yspace,xspace")
            image.attrs["valid_range"] = np.array([0.0, 255.0])
            file.create_dataset("minc-2.0/image/0/image-min", data=0.0)
            file.create_dataset("minc-2.0/image/0/image-max", data=255.0)
    return path


@pytest.mark.parametrize("kind", ["nii", "nii.gz", "mgz", "raw", "raws.gz", "1.mnc", "2.mnc"])
def test_formats_of_brainweb_and_freesurfer(tmp_path: Path, kind: str) -> None:
    path = written(tmp_path, kind)
    shape = labels().shape if kind.startswith("raw") else None
    (array,) = arrays_of(path, shape).values()
    np.testing.assert_array_equal(array // (16 if kind == "raws.gz" else 1), labels())


def test_freesurfer_labels_through_a_recipe(tmp_path: Path) -> None:
    known = [int(label) for label in label_tables()["freesurfer"]]
    volume = np.random.default_rng(1).choice(known, (4, 12, 12)).astype(np.int32)
    nibabel.save(nibabel.MGHImage(volume.T, np.eye(4)), tmp_path / "aseg.mgz")
    found = read_labels(tmp_path / "aseg.mgz")
    recipe = load("rim_t1", set={
        "files.anatomy": str(tmp_path / "aseg.mgz"), "chain.anatomy.labels.table": "freesurfer",
        "chain.anatomy.patch.size": "4", "draw.tissue_t1.per_tissue.lesion": "{constant: 1 s}",
        "draw.tissue_t2.per_tissue.lesion": "{constant: 100 ms}",
        "draw.tissue_amplitude.per_tissue.lesion": "{constant: 0.8}",
    })  # fmt: skip
    assert found.arrays[0].shape == (4, 12, 12)
    made = floor.make(recipe, "train", 0, 20)
    assert {TISSUES[k] for k in np.unique(made.tissue)} >= {"csf", "grey_matter", "white_matter", "lesion"}


def test_no_more_of_a_freesurfer_file_is_unpacked_than_its_header_claims(tmp_path: Path) -> None:
    nibabel.save(nibabel.MGHImage(labels().T, np.eye(4)), tmp_path / "a.mgh")
    (tmp_path / "a.mgz").write_bytes(gzip.compress((tmp_path / "a.mgh").read_bytes() + bytes(160 * 2**20), 1))
    (array,) = arrays_of(tmp_path / "a.mgz").values()
    np.testing.assert_array_equal(array, labels())


def test_a_jpeg_is_an_intensity_and_bounded(tmp_path: Path) -> None:
    Image.fromarray(np.full((16, 24, 3), 51, np.uint8)).save(tmp_path / "a.jpg")
    (array,) = arrays_of(tmp_path / "a.jpg").values()
    assert array.shape == (1, 16, 24)
    np.testing.assert_allclose(array, 0.2, atol=0.01)
    with pytest.raises(FileError, match="holds no labels"):
        read_labels(tmp_path / "a.jpg")
    body = (tmp_path / "a.jpg").read_bytes()
    place = body.index(b"\xff\xc0") + 5
    for side, sentence in [(10_000, "claims an array of shape"), (65_500, "exceeds limit")]:
        size = side.to_bytes(2, "big")
        (tmp_path / "b.jpg").write_bytes(body[:place] + size + size + body[place + 4 :])
        with pytest.raises(FileError, match=sentence):
            arrays_of(tmp_path / "b.jpg")
