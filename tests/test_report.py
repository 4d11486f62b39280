"""Pictures: there, not blank, labelled with units, and indifferent to odd data.

Budget: 15 s on two cores.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.image import imread

import factory
from factory import report


def texts(figure: Figure) -> str:
    """Every word of a figure."""
    from matplotlib.text import Text

    figure.draw_without_rendering()
    return " | ".join(t.get_text() for t in figure.findobj(Text))  # type: ignore[union-attr]


def saved(figure: Figure, path: Path) -> Any:
    report.save(figure, path)
    pixels = imread(path)
    assert pixels[..., :3].std() > 0.05, "the picture is blank"
    return pixels


@pytest.fixture(scope="module")
def samples() -> xr.Dataset:
    return factory.make(factory.load("rim_t1", corner=True), "train", 0, 4)


def test_gallery_names_maps_units_and_samples(samples: xr.Dataset, tmp_path: Path) -> None:
    figure = report.gallery(samples, "heads", [3, 7, 9, 11])
    words = texts(figure)
    for word in ("heads", "sample 3", "sample 11", "t1", "s", "inversion time 0.139 s", "grey matter"):
        assert word in words, word
    saved(figure, tmp_path / "gallery.png")


def test_rows_of_one_variable_share_their_range(samples: xr.Dataset) -> None:
    ranges = {image.get_clim() for axes in report.gallery(samples[["signal"]]).axes for image in axes.images}
    assert len(ranges) == 1


def test_curves_for_signals_and_histograms_for_draws(tmp_path: Path) -> None:
    recipe = factory.load("cpmg_t2", corner=True)
    made = factory.make(recipe, "train", 0, 3)
    figure = report.preview(made, report.drawn(recipe, "train"), "trains")
    words = texts(figure)
    assert "echo (s)" in words
    assert "t2 (s)" in words
    saved(figure, tmp_path / "preview.png")


def test_drawn_is_what_make_draws() -> None:
    for name, split in [("rim_t1", "train"), ("cpmg_t2", "train")]:
        recipe = factory.load(name, corner=True)
        made, drawn = factory.make(recipe, split, 0, 6), report.drawn(recipe, split, 6)
        shared = [v for v in drawn.data_vars if v in made]
        assert shared
        for variable in shared:
            np.testing.assert_array_equal(drawn[variable].astype(made[variable].dtype), made[variable])
    assert "tissue" in report.drawn(factory.load("rim_t1", corner=True), "train", 6).tissue_t1.dims


def test_histograms_of_vectors_have_a_legend(tmp_path: Path) -> None:
    drawn = report.drawn(factory.load("rim_t1"), "train", 300)
    figure = report.distributions(drawn)
    assert "white matter" in texts(figure)
    assert "tissue t1 (s)" in texts(figure)
    saved(figure, tmp_path / "drawn.png")


@pytest.mark.filterwarnings("error")
def test_odd_data_make_a_picture_all_the_same(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    unit = {"units": "1"}
    odd = xr.Dataset({
        "field": (("sample", "z", "y", "x"), rng.normal(size=(2, 5, 6, 7)), {"units": "Hz"}),
        "maps": (("sample", "coil", "y", "x"), rng.normal(size=(2, 3, 6, 7)) + 1j, unit),
        "spectrum": (("sample", "ppm"), rng.normal(size=(2, 16)), unit),
        "nothing": (("sample", "y", "x"), np.zeros((2, 6, 7)), unit),
        "absent": (("sample", "y", "x"), np.full((2, 6, 7), np.nan), unit),
        "mask": (("sample", "y", "x"), np.ones((2, 6, 7), bool), unit),
        "same": (("sample",), np.ones(2), unit),
    }, {"ppm": (("ppm",), np.linspace(0, 4, 16), {"units": "ppm"})})
    words = texts(report.preview(odd, odd, "odd $x$"))
    for word in ("maps, phase", "Hz", "ppm (ppm)", "z 2"):
        assert word in words, word
    saved(report.gallery(odd), tmp_path / "odd.png")


def test_maps_show_each_error_and_leave_out_what_does_not_count(tmp_path: Path) -> None:
    truth = np.linspace(0.5, 2.0, 2 * 8 * 8).reshape(2, 8, 8)
    tissue = np.ones(truth.shape, np.uint8)
    tissue[:, :2] = 0
    figure = report.compared(truth, "network", truth + 0.1, tissue, "s", "t1", "T1")
    words = texts(figure)
    assert "rms 0.1 s" in words
    assert "tissue-mean map" in words
    assert "error (s)" in words
    assert "t1 (s)" in words
    saved(figure, tmp_path / "maps.png")


def test_curves_have_controls_and_units(tmp_path: Path) -> None:
    figure = report.curves({"white matter": {"RIM": [(1, 3.0), (2, 2.0)]}}, {"white matter": {"constant map": 4.0}},
                           "training step", "t1 error (ms)", "learning")
    assert "constant map" in texts(figure)
    assert "t1 error (ms)" in texts(figure)
    saved(figure, tmp_path / "curve.png")


def test_save_refuses_other_formats(tmp_path: Path) -> None:
    figure = report.curves({"a": {"b": [(0, 1)]}})
    with pytest.raises(ValueError, match=r"\.png"):
        report.save(figure, tmp_path / "x.exe")
    report.save(figure, tmp_path / "new" / "x.svg")
    assert (tmp_path / "new" / "x.svg").read_text().startswith("<?xml")
