"""Files that a recipe names: where they may lie, and that every reader gives what independent readers give.

Budget: 5 s on two cores.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import zlib
from pathlib import Path
from typing import Any

import h5py
import nibabel
import numpy as np
import pytest
import scipy.io

from factory.recipe.files import FileError, read_labels, read_numbers, resolve, sha256_of
from factory.units import TISSUES, Volumes

REFERENCE = Path(os.environ.get("FACTORY_REFERENCE_DATA", Path(__file__).parents[2] / "shared" / "data"))
ANATOMY = REFERENCE / "anatomy"
needs_anatomy = pytest.mark.skipif(
    not ANATOMY.is_dir(), reason="no reference data: set FACTORY_REFERENCE_DATA to the folder that holds them"
)

HEAD = np.random.default_rng(1).integers(0, 10, (3, 4, 5)).astype(np.uint8)  # (slice, row, column)


def only(volumes: Volumes) -> np.ndarray:
    (array,) = volumes.arrays
    return array


# Where a file may lie -------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    recipe = tmp_path / "recipe"
    (recipe / "maps").mkdir(parents=True)
    (tmp_path / "data").mkdir()
    for place in (recipe / "maps/head.npy", recipe / "tail.npy", tmp_path / "data/far.npy", tmp_path / "secret.npy"):
        np.save(place, HEAD)
    (recipe / "out.npy").symlink_to(tmp_path / "secret.npy")
    (recipe / "in.npy").symlink_to("maps/head.npy")
    (recipe / "circle.npy").symlink_to("circle.npy")
    os.mkfifo(recipe / "fifo.npy")
    monkeypatch.setenv("FACTORY_DATA", str(tmp_path / "data"))
    return recipe


def test_names_lead_to_files_beside_the_recipe(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve("maps/head.npy", folder) == (folder / "maps/head.npy").resolve()
    assert resolve("in.npy", folder) == (folder / "maps/head.npy").resolve()
    assert resolve("data:far.npy", folder) == (folder.parent / "data/far.npy").resolve()
    monkeypatch.chdir(folder)
    assert resolve("tail.npy", Path()) == (folder / "tail.npy").resolve()


def test_only_the_command_line_names_other_places(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = folder.parent / "secret.npy"
    assert resolve(str(secret), folder, trusted=True) == secret.resolve()
    assert resolve("tail.npy", folder, trusted=True) == (folder / "tail.npy").resolve()
    monkeypatch.chdir(folder / "maps")
    assert resolve("../../secret.npy", folder, trusted=True) == secret.resolve()
    with pytest.raises(FileError, match="there is no file"):
        resolve("/none.npy", folder, trusted=True)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("../secret.npy", "leads out of the recipe's folder"),
        ("maps/../../secret.npy", "leads out"),
        ("/etc/passwd", "or give its path by --set"),
        ("data:../secret.npy", "leads out"),
        ("data:/etc/passwd", "leads out"),
        ("data:", "leads out"),
        ("out.npy", "a link that leads out of its folder"),
        ("circle.npy", "there is no file"),
        ("fifo.npy", "is no regular file"),
        ("maps", "is no regular file"),
        ("tial.npy", "there is no file 'tial.npy'; did you mean 'tail.npy'?"),
        ("tail.npy/x", "there is no file"),
        ("https://example.org/x.npy", "an address of the network"),
        ("file:///etc/passwd", "an address of the network"),
        ("~/x.npy", "there is no file"),
        ("", "is no name of a file"),
        ("a\x00b", "is no name of a file"),
        ("a\nb", "is no name of a file"),
        ("x" * 2000, "is no name of a file"),
    ],
)
def test_names_that_lead_elsewhere_are_refused(folder: Path, name: str, sentence: str) -> None:
    with pytest.raises(FileError, match=r"\S") as caught:
        resolve(name, folder)
    assert sentence in str(caught.value)
    assert str(caught.value).isprintable()


def test_data_names_need_their_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FACTORY_DATA")
    with pytest.raises(FileError, match="FACTORY_DATA, which is not set"):
        resolve("data:far.npy", folder)


def test_sha256(folder: Path) -> None:
    path = folder / "tail.npy"
    assert sha256_of(path) == hashlib.sha256(path.read_bytes()).hexdigest()
    for name, sentence in [("fifo.npy", "no regular file"), ("none", "No such file")]:
        with pytest.raises(FileError, match=sentence):
            sha256_of(folder / name)


# Formats: each is written by another library, and read back equal -----------------------------------------------------


def nifti(path: Path, array: np.ndarray, **settings: Any) -> Path:
    """(slice, row, column) as nibabel's (i, j, k)."""
    image = nibabel.Nifti1Image(array.transpose(), np.eye(4))
    if settings:
        image.header.set_slope_inter(settings["slope"], settings["inter"])
    nibabel.save(image, path)
    return path


def minc1(path: Path, array: np.ndarray, top: np.ndarray, bottom: np.ndarray, sign: str = "unsigned") -> Path:
    file = scipy.io.netcdf_file(path, "w", version=1)
    names = ("zspace", "yspace", "xspace")
    for name, size in zip(names, array.shape, strict=True):
        file.createDimension(name, size)
        file.createVariable(name, "i", ()).spacing = "regular__"
    image = file.createVariable("image", array.dtype.char.lower(), names)
    image.signtype = sign
    image.valid_range = np.array([np.iinfo(array.dtype).min, np.iinfo(array.dtype).max], float)
    image[:] = array.view(array.dtype.char.lower())
    for name, value in (("image-max", top), ("image-min", bottom)):
        file.createVariable(name, "d", names[: value.ndim])[...] = value
    file.close()
    return path


def minc2(path: Path, array: np.ndarray, top: np.ndarray, bottom: np.ndarray, **storage: Any) -> Path:
    with h5py.File(path, "w") as file:
        for name in ("zspace", "yspace", "xspace"):
            file.create_dataset(f"minc-2.0/dimensions/{name}", data=0).attrs["spacing"] = np.bytes_("regular__")
        image = file.create_dataset("minc-2.0/image/0/image", data=array, **storage)
        image.attrs["dimorder"] = np.bytes_("zspace,yspace,xspace")
        image.attrs["valid_range"] = np.array([0.0, 255.0])
        for name, value in (("image-max", top), ("image-min", bottom)):
            made = file.create_dataset(f"minc-2.0/image/0/{name}", data=value)
            if value.ndim:
                made.attrs["dimorder"] = np.bytes_("zspace")
    return path


def mat73(path: Path, **arrays: np.ndarray) -> Path:
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=array.transpose(), chunks=True, compression="gzip", shuffle=True)
        file.create_dataset("text", data=np.full((3, 3), 65, np.uint16)).attrs["MATLAB_class"] = np.bytes_("char")
        file.create_group("structure")["inner"] = np.zeros((3, 3), np.uint8)
    with path.open("r+b") as raw:
        raw.write(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM")
    return path


@pytest.mark.parametrize("ending", ["nii", "nii.gz"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.float32, np.float64])
def test_nifti(tmp_path: Path, ending: str, dtype: type) -> None:
    volumes = read_labels(nifti(tmp_path / f"head.{ending}", HEAD.astype(dtype)))
    assert volumes.names == ("head",)
    np.testing.assert_array_equal(only(volumes), HEAD)
    assert only(volumes).dtype == np.uint8, "the smallest type that holds the labels"


def test_nifti_with_a_scale_two_headers_and_either_byte_order(tmp_path: Path) -> None:
    path = nifti(tmp_path / "head.nii", HEAD.astype(np.int16), slope=2.0, inter=-1.0)
    np.testing.assert_array_equal(only(read_labels(path)), np.rint(nibabel.load(path).get_fdata()).T)
    assert only(read_labels(path)).min() == -1
    nibabel.save(nibabel.Nifti2Image(HEAD.transpose(), np.eye(4)), tmp_path / "two.nii.gz")
    np.testing.assert_array_equal(only(read_labels(tmp_path / "two.nii.gz")), HEAD)
    header = nibabel.Nifti1Header(endianness=">")
    nibabel.save(nibabel.Nifti1Image(HEAD.astype(">i2").transpose(), np.eye(4), header), tmp_path / "big.nii")
    np.testing.assert_array_equal(only(read_labels(tmp_path / "big.nii")), HEAD)
    nibabel.save(nibabel.Nifti1Image(HEAD.transpose()[..., None], np.eye(4)), tmp_path / "four.nii")
    np.testing.assert_array_equal(only(read_labels(tmp_path / "four.nii")), HEAD)


def test_gzip_in_several_parts(tmp_path: Path) -> None:
    raw = nifti(tmp_path / "head.nii", HEAD).read_bytes()
    (tmp_path / "parts.nii.gz").write_bytes(b"".join(gzip.compress(raw[k : k + 100]) for k in range(0, len(raw), 100)))
    np.testing.assert_array_equal(only(read_labels(tmp_path / "parts.nii.gz")), HEAD)


@pytest.mark.parametrize("packed", [False, True])
def test_matlab(tmp_path: Path, packed: bool) -> None:
    values = {
        "head": HEAD.astype(np.int32).transpose(1, 2, 0), "slice": HEAD[0], "wide": np.full((2, 2), 300, np.uint16),
        "logical": HEAD[0] > 4, "signed": HEAD[0].astype(np.int8) - 5, "map": HEAD[0] * 0.1, "whole": HEAD[0] * 1.0,
        "scalar": 3, "row": np.arange(4), "text": "abc", "cell": np.array([HEAD, "x"], object), "struct": {"a": HEAD},
        "complex": HEAD[0] * 1j, "empty": np.zeros((0, 3), np.uint8), "four": np.zeros((2, 2, 2, 2), np.uint8),
    }  # fmt: skip
    scipy.io.savemat(tmp_path / "all.mat", values, do_compression=packed)
    volumes = read_labels(tmp_path / "all.mat")
    found = dict(zip(volumes.names, volumes.arrays, strict=True))
    assert set(found) == {"head", "slice", "wide", "logical", "signed"}
    np.testing.assert_array_equal(found["head"], HEAD)
    np.testing.assert_array_equal(found["slice"], HEAD[:1])
    np.testing.assert_array_equal(found["logical"], HEAD[:1] > 4)
    np.testing.assert_array_equal(found["signed"], HEAD[:1].astype(int) - 5)
    assert (found["wide"].dtype, found["wide"].max()) == (np.int16, 300)
    scipy.io.savemat(tmp_path / "floats.mat", {k: values[k] for k in ("map", "whole")}, do_compression=packed)
    assert read_labels(tmp_path / "floats.mat").names == ("whole",), "whole floats count where there are no integers"


def test_matlab_of_1999(tmp_path: Path) -> None:
    scipy.io.savemat(tmp_path / "old.mat", {"head": HEAD[0]}, format="4")
    with pytest.raises(FileError, match="of no known format"):
        read_labels(tmp_path / "old.mat")


def test_matlab_73(tmp_path: Path) -> None:
    path = mat73(tmp_path / "new.mat", head=HEAD.transpose(1, 2, 0), slice=HEAD[0], map=HEAD[0] * 0.1)
    volumes = read_labels(path)
    found = dict(zip(volumes.names, volumes.arrays, strict=True))
    assert set(found) == {"head", "slice"}
    np.testing.assert_array_equal(found["head"], HEAD)
    np.testing.assert_array_equal(found["slice"], HEAD[:1])


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("scaling", ["one", "slices"])
def test_minc(tmp_path: Path, packed: bool, scaling: str) -> None:
    stored = (HEAD * 25).astype(np.uint8)
    top = np.array(10.2) if scaling == "one" else np.array([10.2, 20.4, 255.0])
    bottom = np.zeros(top.shape)
    first = minc1(tmp_path / "one.mnc", stored, top, bottom)
    second = minc2(tmp_path / "two.mnc", stored, top, bottom, **({"compression": "gzip"} if packed else {}))
    expected = nibabel.load(second).get_fdata()
    np.testing.assert_allclose(nibabel.load(first).get_fdata(), expected, rtol=1e-12)
    assert expected.max() > 8
    if packed:
        (tmp_path / "one.mnc.gz").write_bytes(gzip.compress(first.read_bytes()))
        first = tmp_path / "one.mnc.gz"
    for path in (first, second):
        volumes = read_labels(path)
        assert volumes.names == (path.name.partition(".")[0],)
        np.testing.assert_array_equal(only(volumes), np.rint(expected))


def test_minc_with_signs(tmp_path: Path) -> None:
    stored = HEAD.astype(np.int16) - 5
    path = minc1(tmp_path / "signed.mnc", stored, np.array(32767.0), np.array(-32768.0), "signed__")
    np.testing.assert_array_equal(only(read_labels(path)), stored)
    np.testing.assert_allclose(nibabel.load(path).get_fdata(), stored, atol=1e-9)


@pytest.mark.parametrize("order", ["C", "F"])
def test_numpy(tmp_path: Path, order: Any) -> None:
    np.save(tmp_path / "head.npy", np.asarray(HEAD.astype(">i4"), order=order))
    np.testing.assert_array_equal(only(read_labels(str(tmp_path / "head.npy"))), HEAD)
    np.save(tmp_path / "slice.npy", HEAD[0] > 3)
    np.testing.assert_array_equal(only(read_labels(tmp_path / "slice.npy")), HEAD[:1] > 3)


@pytest.mark.parametrize("encoding", ["raw", "gzip"])
def test_nrrd(tmp_path: Path, encoding: str) -> None:
    body = HEAD.astype(">i2").tobytes()
    head = f"NRRD0004\n# a comment\ntype: short\ndimension: 3\nsizes: 5 4 3\nendian: big\nencoding: {encoding}\n\n"
    (tmp_path / "head.nrrd").write_bytes(head.encode() + (gzip.compress(body) if encoding == "gzip" else body))
    np.testing.assert_array_equal(only(read_labels(tmp_path / "head.nrrd")), HEAD)


def test_raw_files_need_a_shape_unless_they_are_brainwebs(tmp_path: Path) -> None:
    (tmp_path / "head.rawb").write_bytes(HEAD.tobytes())
    (tmp_path / "head.raws.gz").write_bytes(gzip.compress(HEAD.astype("<i2").tobytes()))
    for name in ("head.rawb", "head.raws.gz"):
        np.testing.assert_array_equal(only(read_labels(tmp_path / name, shape=HEAD.shape)), HEAD)
        with pytest.raises(FileError, match="does not tell its shape"):
            read_labels(tmp_path / name)
        with pytest.raises(FileError, match="fits no volume of shape"):
            read_labels(tmp_path / name, shape=(3, 4, 4))
    head = np.zeros((181, 217, 181), np.uint8)
    head[1, 2, 3] = 4
    (tmp_path / "phantom.raw").write_bytes(head.tobytes())
    np.testing.assert_array_equal(only(read_labels(tmp_path / "phantom.raw")), head)


def test_what_is_no_label_volume(tmp_path: Path) -> None:
    cases = {
        "floats": HEAD * 0.5, "nan": np.full((3, 3), np.nan), "inf": np.full((3, 3), np.inf),
        "huge": np.full((3, 3), 2**40), "large": np.full((3, 3), 1e300), "vector": np.arange(5),
        "four": np.zeros((2, 2, 2, 2), np.uint8), "complex": HEAD * 1j, "text": np.full((3, 3), "a"),
        "none": np.zeros((0, 3), np.uint8),
    }  # fmt: skip
    for name, array in cases.items():
        np.save(tmp_path / f"{name}.npy", array)
        with pytest.raises(
            FileError, match=rf"^'{name}.npy' .*(no labels|dimensions|not plain numbers|shape \(0, 3\))"
        ):
            read_labels(tmp_path / f"{name}.npy")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(2000))
    with pytest.raises(FileError, match="of no known format"):
        read_labels(tmp_path / "picture.png")
    with pytest.raises(FileError, match="No such file"):
        read_labels(tmp_path / "absent.npy")


def test_every_cut_and_every_flipped_byte_ends_in_a_sentence(tmp_path: Path) -> None:
    """Damage is refused or read as other labels, never as another exception."""
    scipy.io.savemat(tmp_path / "a.mat", {"head": HEAD[0].astype(np.int32)})
    scipy.io.savemat(tmp_path / "b.mat", {"head": HEAD[0].astype(np.int32)}, do_compression=True)
    np.save(tmp_path / "c.npy", HEAD[0])
    nifti(tmp_path / "d.nii", HEAD[:1])
    (tmp_path / "e.nii.gz").write_bytes(gzip.compress((tmp_path / "d.nii").read_bytes()))
    minc1(tmp_path / "f.mnc", HEAD, np.array(255.0), np.array(0.0))
    refused = 0
    rng = np.random.default_rng(2)
    for path in sorted(tmp_path.iterdir()):
        whole = path.read_bytes()
        for k in rng.integers(0, len(whole), 60):
            flipped = bytearray(whole)
            flipped[k] ^= 1 << int(rng.integers(8))
            for data in (whole[:k], bytes(flipped)):
                path.write_bytes(data)
                try:
                    read_labels(path)
                except FileError as error:
                    refused += 1
                    assert str(error).isprintable(), path.name  # noqa: PT017
    assert refused > 300


# Several files --------------------------------------------------------------------------------------------------------


def test_several_files(tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", HEAD)
    (tmp_path / "more").mkdir()
    np.save(tmp_path / "more/one.npy", HEAD + 1)
    scipy.io.savemat(tmp_path / "two.mat", {"axial": HEAD[0], "coronal": HEAD[1]})
    paths = [tmp_path / "one.npy", tmp_path / "two.mat", tmp_path / "more/one.npy"]
    volumes = read_labels([str(path) for path in paths])
    assert volumes.names == ("one", "two.axial", "two.coronal", "one_2")
    np.testing.assert_array_equal(volumes.arrays[3], HEAD + 1)
    assert volumes == read_labels(paths)
    assert volumes != read_labels(paths[:2])
    with pytest.raises(FileError, match="0 files are named"):
        read_labels([])


def test_probability_maps(tmp_path: Path) -> None:
    grey = np.array([[[0.0, 0.2, 0.5, 0.4, 1.0, 0.3]]] * 2).repeat(2, 1)
    white = np.array([[[0.0, 0.2, 0.5, 0.6, 0.0, 0.35]]] * 2).repeat(2, 1)
    expected = [0, 0, TISSUES.index("grey_matter"), TISSUES.index("white_matter"), TISSUES.index("grey_matter"), 0]
    expected[5] = 0 if 1 - 0.65 >= 0.35 else 3
    for kind in ("float64", "uint8", "uint16"):
        scale = {"float64": 1, "uint8": 255, "uint16": 1000}[kind]
        for name, array in (("gm", grey), ("wm", white)):
            nifti(tmp_path / f"{name}.nii.gz", np.rint(array * scale).astype(kind) if scale > 1 else array)
        maps = {"white_matter": tmp_path / "wm.nii.gz", "grey_matter": tmp_path / "gm.nii.gz"}
        if kind != "uint16":  # whose maximum is taken for 1, so white matter gains
            np.testing.assert_array_equal(only(read_labels(maps))[0, 0, :5], expected[:5])
        assert read_labels(maps) == read_labels(dict(reversed(maps.items()))), "the order of the maps is nothing"
        assert read_labels(maps).names == ("tissue",)
    nifti(tmp_path / "air.nii.gz", np.full(grey.shape, 0.45))
    volumes = read_labels(maps | {"background": tmp_path / "air.nii.gz"})
    assert only(volumes)[0, 0, 0] == 0


def test_probability_maps_that_do_not_fit(tmp_path: Path) -> None:
    nifti(tmp_path / "a.nii", np.full((2, 3, 4), 0.5))
    nifti(tmp_path / "b.nii", np.full((2, 3, 5), 0.5))
    nifti(tmp_path / "c.nii", np.full((2, 3, 4), 1.5))
    nifti(tmp_path / "d.nii", np.full((2, 3, 4), np.nan))
    scipy.io.savemat(tmp_path / "e.mat", {"x": HEAD, "y": HEAD})
    a = tmp_path / "a.nii"
    for maps, sentence in [
        ({"grey_matter": a, "csf": tmp_path / "b.nii"}, "large, but the map before"),
        ({"csf": tmp_path / "c.nii"}, "no map of probabilities"),
        ({"csf": tmp_path / "d.nii"}, "no map of probabilities"),
        ({"csf": tmp_path / "e.mat"}, "holds 'x', 'y'; one map a file"),
        ({"gray_matter": a}, "did you mean 'grey_matter'?"),
        ({}, "no probability map is named"),
    ]:
        with pytest.raises(FileError, match=r"\S") as caught:
            read_labels(maps)
        assert sentence in str(caught.value)


# Histograms -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "edge,count\n0,3\n10,5\n20,0\n",
        "# T2 in ms\n0 3\n10\t5\n20\n",
        "\ufeffedge;count\r\n0;3\r\n1e1;5.0\r\n20;0\r\n",
        "0, 3\n\n10, 5  # most\n20,\n",
    ],
)
def test_histograms(tmp_path: Path, text: str) -> None:
    path = tmp_path / "t2.csv"
    path.write_bytes(text.encode())
    assert read_numbers(path) == ((0.0, 10.0, 20.0), (3.0, 5.0))
    np.save(tmp_path / "t2.npy", [[0, 3], [10, 5], [20, 0]])
    assert read_numbers(tmp_path / "t2.npy") == ((0.0, 10.0, 20.0), (3.0, 5.0))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("0,3\n10,5\n", "the upper edge with the count 0 at the end"),
        ("0,3\n0,5\n20,0", "must increase"),
        ("0,-3\n10,5\n20,0", "0 or more"),
        ("0,0\n10,0\n20,0", "not all of them 0"),
        ("0,3,4\n", "line 1 of 't2.csv' must hold an edge and a count"),
        ("0,3\n1,\n2,3\n3,0", "must hold a finite edge"),
        ("0,3\nx,5\n", "line 2"),
        ("0,nan\n1,0", "line 1"),
        ("0,1e999\n1,0", "finite"),
        ("a,b\nc,d\n", "line 2"),
        ("", "needs a row for each bin"),
        ("0,1\n" * 10_001, "more than 10000 rows"),
        ("1" * 50 + ",1", "line 1"),
        (" " * (1024 * 1024 + 1), "1048577 bytes"),
    ],
)
def test_histograms_that_are_none(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "t2.csv").write_text(text)
    with pytest.raises(FileError, match=r"\S") as caught:
        read_numbers(tmp_path / "t2.csv")
    assert sentence in str(caught.value)


# Real files -----------------------------------------------------------------------------------------------------------


@needs_anatomy
@pytest.mark.parametrize(
    ("name", "names", "shape", "top"),
    [
        ("koma__brain2D.mat", ("axial", "coronal", "sagittal"), (1, 434, 362), 255),
        ("koma__pelvis2D.mat", ("pelvis3D_slice",), (1, 512, 512), 255),
        ("mrilab__BrainModel.mat", ("Anatomy",), (180, 216, 180), 9),
        ("novi__slicePhantom.mat", ("mask",), (1, 111, 93), 1),
    ],
)
def test_real_matlab_files(name: str, names: tuple[str, ...], shape: tuple[int, ...], top: int) -> None:
    volumes = read_labels(ANATOMY / name)
    assert volumes.names == names
    assert (volumes.arrays[0].shape, volumes.arrays[0].max()) == (shape, top)
    theirs = scipy.io.loadmat(ANATOMY / name, variable_names=names)
    for one, array in zip(names, volumes.arrays, strict=True):
        expected = theirs[one] if theirs[one].ndim == 3 else theirs[one][..., None]
        np.testing.assert_array_equal(array.transpose(1, 2, 0), expected)


@needs_anatomy
def test_real_nifti_nrrd_and_probability_maps() -> None:
    path = ANATOMY / "sct__t2s_uncropped_gmseg_manual.nii.gz"
    theirs = np.asarray(nibabel.load(path).dataobj)
    assert theirs.any()
    np.testing.assert_array_equal(only(read_labels(path)).transpose(), theirs)
    label = only(read_labels(ANATOMY / "rad__breast1_label.nrrd"))
    body = (ANATOMY / "rad__breast1_label.nrrd").read_bytes().partition(b"\n\n")[2]
    assert label.sum() == np.frombuffer(zlib.decompress(body, 31), np.uint8).reshape(-1).astype(bool).sum() > 0
    part = "nil__mni_icbm152_{}_tal_nlin_sym_09a_converted.nii.gz"
    paths = {"grey_matter": ANATOMY / part.format("gm"), "white_matter": ANATOMY / part.format("wm")}
    tissue = only(read_labels(paths))
    grey, white = (np.asarray(nibabel.load(one).dataobj).transpose().astype(int) for one in paths.values())
    chances = np.array([255 - grey - white, grey, white])
    first, second = np.sort(chances, axis=0)[:0:-1]
    clear = first - second > 1  # in whole 255ths; at a tie rounding decides
    assert clear.mean() > 0.9
    expected = np.choose(np.argmax(chances, axis=0), [0, 2, 3])
    np.testing.assert_array_equal(tissue[clear], expected[clear])
    assert set(np.unique(tissue)) == {0, 2, 3}


@needs_anatomy
@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("koma__contracting_ring.phantom", "no 2-D or 3-D array"),
        ("mrilab__WaterFatPhantom.mat", "no 2-D or 3-D array"),
        ("susc__SusceptibilityValues.mat", "no 2-D or 3-D array"),
        ("ants__r16slice.jpg", "holds no labels"),
        ("dipy__t1_coronal_slice.npy", "holds no labels"),
        ("sct__mtr.nii.gz", "holds no labels"),
    ],
)
def test_real_files_without_labels(name: str, sentence: str) -> None:
    with pytest.raises(FileError, match=sentence):
        read_labels(ANATOMY / name)


def test_a_far_offset_does_not_say_how_much_is_unpacked(tmp_path: Path) -> None:
    header = nibabel.Nifti1Header()
    header["magic"] = b"n+1"
    header.set_data_shape((64, 64, 2))
    header["vox_offset"] = 2e10
    (tmp_path / "far.nii.gz").write_bytes(gzip.compress(header.binaryblock + bytes(2**25), 1))
    with pytest.raises(FileError, match="begin at byte 20000000000"):
        read_labels(tmp_path / "far.nii.gz")
