"""Maps of a scan: right values in the right place, whatever the scale; and sentences for what cannot be used.

Budget: 30 s on two cores.
"""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from matplotlib.image import imread
from typer.testing import CliRunner

from factory.cli import app
from factory.recipe.formats import FileError, arrays_of, nifti_of
from factory.series import SeriesError, read_mask, read_series, times_of, write_maps

torch = pytest.importorskip("torch")
from models import weights  # noqa: E402
from models.cards import TrainingError, systems  # noqa: E402
from models.estimation import estimate, summary  # noqa: E402

REAL = Path(os.environ.get("FACTORY_REFERENCE_DATA", Path(__file__).parents[2] / "shared" / "data")) / "qmri"
TIMES = (0.05, 0.2, 0.4, 0.7, 0.9, 1.5)
TEXT = "50, 200, 400, 700, 900, 1500 ms"
AFFINE = np.array([[-1.5, 0.2, 0, 40], [0.1, 2, 0, -30], [0, 0, 3, 7], [0, 0, 0, 1.0]])
SHAPE = (9, 7, 3)


def images(scale: float = 1.0) -> np.ndarray:
    """T1 of 0.9 s and B of 1.9; the amplitude is 3 in the first voxel and 1 elsewhere."""
    amplitude = np.full((*SHAPE, 1), scale)
    amplitude[0, 0, 0] = 3 * scale
    return np.abs(amplitude * (1 - 1.9 * np.exp(-np.array(TIMES) / 0.9))).astype(np.float32)


def save(path: Path, values: np.ndarray, affine: np.ndarray = AFFINE, codes: tuple[int, int] = (0, 2)) -> Path:
    image: Any = nibabel.Nifti1Image(values, affine)
    image.header.set_qform(np.diag([1.5, 2, 3, 1]), codes[0])
    image.header.set_sform(affine, codes[1])
    image.header.set_xyzt_units("mm", "sec")
    nibabel.save(image, path)
    return path


def run(*words: object) -> Any:
    result = CliRunner().invoke(app, ["estimate", *(str(word) for word in words)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("scan") / "scan.nii.gz", images())


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "weights.safetensors"
    torch.manual_seed(0)
    weights.save(path, systems()["rim_t1"].stages[0].task({}), {"system": "rim_t1", "stage": 0})
    return path


def test_a_series_is_read_from_one_file_or_from_several(scan: Path, tmp_path: Path) -> None:
    one = read_series(scan, TEXT)
    assert one.signal.dims == ("slice", "inversion_time", "y", "x")
    assert one.signal[0, :, 0, 0].values.tolist() == images()[0, 0, 0].tolist()
    files = [save(tmp_path / f"{n}.nii", images()[..., n]) for n in range(6)]
    np.testing.assert_array_equal(read_series(files, TIMES).signal, one.signal)
    flat = [save(tmp_path / f"flat{n}.nii", images()[:, :, 0, n]) for n in range(6)]
    np.testing.assert_array_equal(read_series(flat, TIMES).signal[0], one.signal[0])
    scaled: Any = nibabel.Nifti1Image(np.full((4, 4, 1), 7, np.int16), AFFINE)
    scaled.header.set_slope_inter(2, 10)
    (tmp_path / "scaled.nii").write_bytes(scaled.to_bytes())
    assert (read_series(tmp_path / "scaled.nii", [0.1]).signal == 24).all()


def test_times() -> None:
    assert times_of("139 166 193 ms") == times_of("139 ms, 166ms,0.193 s") == (0.139, 0.166, 0.193)
    assert times_of("1.5e3 us") == (0.0015,)


@pytest.mark.parametrize("text", ["", "30, 330", "30 ms, 330", "30 mm", "ms", "soon", "-30 ms", "nan s", "1e999 s"])
def test_wrong_times(text: str) -> None:
    with pytest.raises(SeriesError):
        times_of(text)


def test_times_in_files(tmp_path: Path) -> None:
    path = tmp_path / "times.json"
    for held in ({"InversionTime": [0.03, 0.33]}, {"values": [30, 330], "unit": "ms"}, ["30 ms", "330 ms"]):
        path.write_text(json.dumps(held))
        assert times_of(path) == (0.03, 0.33)
    for wrong in ("[30, 330]", "[null]", "[" * 50000, "{}", "[NaN]", "[1,", "\ud800"):
        path.write_bytes(wrong.encode(errors="surrogatepass"))
        with pytest.raises(SeriesError):
            times_of(path)
    (tmp_path / "times.txt").write_text("30\n330 ms\n")
    assert times_of(tmp_path / "times.txt") == (0.03, 0.33)
    with pytest.raises(SeriesError, match="cannot be read"):
        times_of(tmp_path / "none.json")


def test_maps_keep_geometry_and_orientation(scan: Path, tmp_path: Path, untrained: Path) -> None:
    path = save(tmp_path / "both.nii", images(), codes=(1, 4))
    write_maps(estimate("rim_t1", read_series(path, TIMES), untrained), tmp_path / "maps")
    wanted, found = (nibabel.load(p) for p in (path, tmp_path / "maps" / "amplitude.nii.gz"))
    np.testing.assert_allclose(found.affine, wanted.affine, atol=1e-6)
    np.testing.assert_allclose(found.header.get_qform(), wanted.header.get_qform(), atol=1e-6)
    assert [int(found.header[c]) for c in ("qform_code", "sform_code")] == [1, 4]
    assert found.header.get_zooms() == wanted.header.get_zooms()[:3]
    assert found.get_data_dtype() == np.float32
    values = found.get_fdata()
    assert np.unravel_index(values.argmax(), values.shape) == (0, 0, 0)


def test_the_scale_moves_the_amplitude_only(scan: Path, tmp_path: Path, untrained: Path) -> None:
    many = save(tmp_path / "many.nii", images(1000.0))
    one, other = (estimate("rim_t1", read_series(path, TIMES), untrained) for path in (scan, many))
    np.testing.assert_allclose(other.t1, one.t1, rtol=1e-4)
    np.testing.assert_allclose(other.amplitude, 1000 * one.amplitude, rtol=1e-4)


def test_a_fit_finds_the_truth(scan: Path, tmp_path: Path) -> None:
    pytest.importorskip("models.classical.relaxometry")
    mask = np.zeros(SHAPE, np.uint8)
    mask[:3, :2, 1:] = 1
    data = read_series(scan, TIMES)
    data["mask"] = read_mask(save(tmp_path / "mask.nii", mask), data)
    maps = estimate("rim_t1", data, method="mle")
    inside = mask.transpose(2, 1, 0) > 0
    np.testing.assert_allclose(maps.t1.values[inside], 0.9, rtol=1e-4)
    assert np.isnan(maps.t1.values[~inside]).all()
    assert summary(maps)[0]["voxels"] == mask.sum()
    general = estimate("rim_t1", data, method="mle-general")
    np.testing.assert_allclose(general.b.values[inside], -1.9, rtol=1e-3)
    known = estimate("rim_t1", data, method="mle", efficiency=1.9)
    assert (known.efficiency.values[inside] == np.float32(1.9)).all()
    decay = np.exp(-np.array([0.01, 0.04, 0.16]) / 0.08) * np.ones((4, 4, 1, 1))
    echoes = read_series(save(tmp_path / "echoes.nii", decay.astype(np.float32)), "10 40 160 ms", "echo_time")
    np.testing.assert_allclose(estimate("rim_t2", echoes, method="mle").t2, 0.08, rtol=1e-4)


def test_the_command(scan: Path, tmp_path: Path, untrained: Path) -> None:
    words = ("rim_t1", scan, "--times", TEXT, "--weights", untrained, "-o", tmp_path / "maps")
    result = run(*words)
    assert result.exit_code == 0, result.output
    assert "repetition time is assumed to be long" in result.stdout
    assert "0.139 s to 0.937 s" in result.stderr
    facts = json.loads((tmp_path / "maps" / "maps.json").read_text())
    assert facts["maps"]["t1"]["unit"] == "s"
    assert facts["times"] == {"values": list(TIMES), "unit": "s"}
    assert len(facts["weights"]["sha256"]) == 64
    assert imread(tmp_path / "maps" / "maps.png")[..., :3].std() > 0.05
    again = run(*words)
    assert again.exit_code == 1
    assert "--force" in again.stderr
    assert json.loads(run(*words, "--force", "--json").stdout)["maps"][2]["map"] == "t1"


@pytest.mark.parametrize(("words", "sentence"), [
    (("--times", "50 ms, 200 ms, 0.3 s"), "6 images"),
    (("--times", "50 50 50 50 50 50 ms"), "1 different"),
    (("--times", TEXT, "--known-efficiency", "1.9"), "mle"),
    (("--times", TEXT, "--method", "mle"), "leave one of them out"),
    (("--times", TEXT, "--weights", "none"), "no weights file"),
    (("--times", TEXT, "--mask", "none.nii"), "No such file"),
])  # fmt: skip
def test_what_does_not_go_together(
    words: tuple[str, ...], sentence: str, scan: Path, tmp_path: Path, untrained: Path
) -> None:
    given = () if "none" in words else ("--weights", untrained)
    result = run("rim_t1", scan, "-o", tmp_path / "maps", *words, *given)
    assert result.exit_code == 1
    assert sentence in result.stderr
    assert not (tmp_path / "maps").exists()


def test_files_that_cannot_be_used(scan: Path, tmp_path: Path) -> None:
    holes = images()
    holes[1, 1, 1, 2] = np.nan
    os.mkfifo(tmp_path / "fifo.nii")
    (tmp_path / "loop.nii").symlink_to("loop.nii")
    (tmp_path / "text.nii").write_text("no image")
    (tmp_path / "short.nii").write_bytes(gzip.decompress(scan.read_bytes())[:600])
    faults = {
        save(tmp_path / "holes.nii", holes): "NaN", save(tmp_path / "c.nii", holes.astype("c8")): "plain numbers",
        save(tmp_path / "xyt.nii", images()[:, :, 0]): "4 dimensions", tmp_path / "fifo.nii": "no regular file",
        tmp_path / "loop.nii": "symbolic links", tmp_path / "text.nii": "no NIfTI", tmp_path / "short.nii": "cut off",
        tmp_path / "absent.nii": "No such file", tmp_path: "no regular file",
    }  # fmt: skip
    for path, sentence in faults.items():
        with pytest.raises((FileError, SeriesError), match=sentence):
            read_series(path, TIMES)
    moved = save(tmp_path / "moved.nii", images()[..., 0], AFFINE + np.eye(4)[:, [3, 0, 1, 2]] * [[5], [0], [0], [0]])
    here = save(tmp_path / "here.nii", images()[..., 0])
    small = save(tmp_path / "small.nii", images()[:5, ..., 0])
    for other, sentence in ((moved, "elsewhere"), (small, "one shape")):
        with pytest.raises(SeriesError, match=sentence):
            read_series([here, other], TIMES[:2])
    with pytest.raises(SeriesError, match="2 files for 6 times"):
        read_series([here, here], TIMES)


def test_headers_that_claim_too_much(tmp_path: Path) -> None:
    header = nibabel.Nifti1Header()
    header["magic"] = b"n+1"
    header.set_data_dtype(np.float32)
    header.set_data_shape((2000, 2000, 500, 6))
    (tmp_path / "huge.nii").write_bytes(header.binaryblock + bytes(100))
    with pytest.raises(FileError, match="at most"):
        nifti_of(tmp_path / "huge.nii")
    header.set_data_shape((64, 64, 2))
    header["vox_offset"] = 2e10  # how much is unpacked must not follow from it
    path = tmp_path / "far.nii.gz"
    path.write_bytes(gzip.compress(header.binaryblock + bytes(2**25), 1))
    for reader in (nifti_of, arrays_of):
        with pytest.raises(FileError, match="begin at byte 20000000000"):
            reader(path)


def test_weights_of_another_system_or_none(scan: Path, tmp_path: Path) -> None:
    path = tmp_path / "t2.safetensors"
    weights.save(path, systems()["rim_t2"].stages[0].task({}), {"system": "rim_t2", "stage": 0})
    data = read_series(scan, TIMES)
    with pytest.raises(TrainingError, match="written by the system rim_t2"):
        estimate("rim_t1", data, path)
    with pytest.raises(TrainingError, match="there is no system"):
        estimate("rim_t9", data)
    if not (weights.CHECKPOINTS / "rim_t1.safetensors").exists():
        with pytest.raises(TrainingError, match="factory train rim_t1"):
            estimate("rim_t1", data)


@pytest.mark.skipif(not REAL.is_dir(), reason="no reference data (FACTORY_REFERENCE_DATA)")
def test_a_real_inversion_recovery(tmp_path: Path, untrained: Path) -> None:
    files = [REAL / f"sep__rSeries0{n}.nii" for n in range(3, 9)]
    result = run("rim_t1", *files, "--times", "30, 330, 530, 780, 1030, 1530 ms", "--weights", untrained,
                 "-o", tmp_path / "maps")  # fmt: skip
    assert result.exit_code == 0, result.output
    found = nibabel.load(tmp_path / "maps" / "t1.nii.gz")
    assert found.shape == (256, 256, 1)
    np.testing.assert_allclose(found.affine, nibabel.load(files[0]).affine, atol=1e-5)
