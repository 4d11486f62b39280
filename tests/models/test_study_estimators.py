"""The studies of relaxometry judge estimators whose bias and variation are known, and do not judge what is not there.

Budget: 40 s on two cores.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.image import imread
from scipy import ndimage

from factory import report
from factory.draws import Draws
from factory.recipe import load
from models import weights
from models.cards import systems
from models.studies import estimators, noise, phantom, slices, structures, timing
from models.studies.statistics import pooled, repeated, slope, value

BIAS, SPREAD = 0.03, 0.04  # of the hand-made estimator
COARSE = {"chain.anatomy.brain.voxel": "3 mm"}  # heads that are made quickly
REAL = slices.judged_on


@cache
def made(name: str, size: int, count: int, heads: int) -> Any:
    return REAL(name, size, count, heads, COARSE)


@pytest.fixture(autouse=True)
def _coarse_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small slices of coarse heads, made once for all tests."""

    def judged_on(name: str, size: int, count: int, heads: int = 1, changes: object = None) -> Any:
        return made(name, 48 if size > 40 else 32, count, min(heads, 2))

    for module in (slices, noise, phantom):
        monkeypatch.setattr(module, "judged_on", judged_on)


def known(data: xr.Dataset, bias: float = BIAS, spread: float = SPREAD) -> estimators.Maps:
    """An estimator with this bias and this standard deviation, relative to the truth; its noise is always the same."""
    found = {}
    for name in ("amplitude", "efficiency", "t1", "t2"):
        if name in data:
            truth = data[name].to_numpy().astype(np.float64)
            normal = Draws(1, "estimator", 0, len(truth)).normal(name, truth.shape[1:])
            found[name] = truth * (1 + bias + spread * normal)
    return found


def perfect(data: xr.Dataset) -> estimators.Maps:
    return known(data, 0, 0)


def blurring(data: xr.Dataset) -> estimators.Maps:
    """Smooth maps, as of a network that learned too much from the neighbours."""
    return {"t1": np.stack([ndimage.gaussian_filter(one, 1.0) for one in known(data, 0, 0.02)["t1"]])}


def judging(monkeypatch: pytest.MonkeyPatch, module: Any, methods: dict[str, Any]) -> None:
    monkeypatch.setattr(module, "estimators", lambda networks, validation: methods)


def quick_tuning(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare the fits among which the prior is chosen."""
    monkeypatch.setattr(estimators, "tuned", lambda validation: (perfect, np.inf))


def untrained(system: str, images: int, folder: Path) -> Path:
    shapes = {"signal": (images, 40, 40)}
    torch.manual_seed(0)
    path = folder / f"{system}.safetensors"
    facts = {"system": system, "stage": 0, "shapes": shapes}
    weights.save(path, systems()[system].stages[0].task(shapes), facts)
    return path


def drawn(figure: Figure, path: Path) -> str:
    """Its words; refuses a blank picture."""
    from matplotlib.text import Text

    report.save(figure, path)
    assert imread(path)[..., :3].std() > 0.05
    return " | ".join(t.get_text() for t in figure.findobj(Text))  # type: ignore[union-attr]


# ----------------------------------------------------------------------------------------------------------------------
# statistics


def test_bias_and_variation_are_those_of_the_estimator() -> None:
    random = np.random.default_rng(0)
    truth = random.uniform(0.5, 2, 300)
    found = repeated(truth * (1 + BIAS + SPREAD * random.normal(size=(2000, 300))), truth)
    error = 5 * SPREAD / np.sqrt(2000 * 300)
    assert np.median(found.mean_bias) == pytest.approx(BIAS, abs=2 * error)
    assert np.median(found.bias) == pytest.approx(BIAS, abs=2 * error)
    assert np.median(found.cv) == pytest.approx(SPREAD / (1 + BIAS), rel=0.01)
    assert np.median(found.error) == pytest.approx(np.hypot(BIAS, SPREAD / (1 + BIAS)), rel=0.01)


def test_the_bias_of_the_median_ignores_a_lost_repetition() -> None:
    truth = np.ones(3)
    estimates = np.repeat([1.01, 1.02, 1.03, 1.02, 6.0], 3).reshape(5, 3)
    found = repeated(estimates, truth)
    np.testing.assert_allclose(found.bias, 0.02)
    np.testing.assert_allclose(found.mean_bias, 1.016)


def test_the_slope_is_within_a_slice() -> None:
    truth = np.linspace(1, 2, 50)
    assert slope([((0.4 * truth + 1)[None], truth)]) == pytest.approx(0.4)
    assert slope([(np.full((3, 50), 1.5), truth)]) == pytest.approx(0, abs=1e-12)
    means = [(np.full((3, 50), level + 0.5), truth + level - 1) for level in (1, 2, 3)]
    assert slope(means) == pytest.approx(0, abs=1e-12), "the mean of each slice is no skill within it"
    assert np.isnan(slope([(np.ones((2, 5)), np.ones(5))]))


def test_voxels_of_all_slices_are_pooled() -> None:
    parts = [(np.full((4, n), 1.1), np.ones(n)) for n in (3, 5)]
    assert pooled(parts).bias.shape == (8,)


# ----------------------------------------------------------------------------------------------------------------------
# data


def test_realisations_share_the_slice_and_differ_in_noise_of_the_right_size() -> None:
    one = slices.judged_on("rim_t1", 32, 20, 1)[0][0]
    for name in ("t1", "amplitude", "efficiency", "tissue"):
        values = one[name].to_numpy()
        assert (values == values[:1]).all(), name
    residual = {}
    for snr in (5, 10):
        noisy = slices.at_snr(one, snr)
        assert np.allclose(noisy["sigma"], 0.75 / snr)
        residual[snr] = (noisy["signal"] - slices.clean(noisy)).to_numpy()
        assert residual[snr].std() == pytest.approx(0.75 / snr, rel=0.01)
        assert abs(residual[snr].mean()) < 5 * 0.75 / snr / np.sqrt(residual[snr].size)
        together = np.corrcoef(residual[snr].reshape(20, -1)) - np.eye(20)
        assert abs(together).max() < 5 / np.sqrt(residual[snr][0].size)
    np.testing.assert_allclose(residual[5], 2 * residual[10], atol=1e-5)


def test_heads_differ_and_protocols_share_their_slices() -> None:
    judged, spare = slices.judged_on("rim_t1", 32, 2, 2)
    assert not any(np.array_equal(one["tissue"][0], spare["tissue"][0]) for one in judged)
    other = slices.judged_on("rim_t1_23", 32, 2, 2)[0]
    for a, b in zip(judged, other, strict=True):
        np.testing.assert_array_equal(a["t1"], b["t1"])
        assert (a.sizes["inversion_time"], b.sizes["inversion_time"]) == (31, 23)


def test_structures_lie_inside_their_tissue_and_change_nothing_else() -> None:
    data, _ = slices.one_slice(48, 3, 10)
    tissue = data["tissue"].to_numpy()[0]
    masks = structures.placed(tissue)
    assert [int(mask.sum()) for mask in masks.values()] == [1, 1, 6, 6]
    assert np.sum([*masks.values()], axis=0).max() == 1
    for name, mask in masks.items():
        assert (tissue[mask] == structures.STRUCTURES[name][0]).all(), name
    changed = structures.with_structures(data, masks)
    anywhere = np.any([*masks.values()], axis=0)
    np.testing.assert_allclose(changed["signal"].to_numpy()[..., ~anywhere], data["signal"].to_numpy()[..., ~anywhere],
                               atol=1e-6)  # fmt: skip
    noise_of = [(one["signal"] - slices.clean(one)).to_numpy() for one in (data, changed)]
    np.testing.assert_allclose(*noise_of, atol=1e-6)
    assert (changed["t1"].to_numpy()[:, masks["hypo point"]] == np.float32(0.4)).all()


# ----------------------------------------------------------------------------------------------------------------------
# estimators


def test_the_prior_is_the_one_with_the_least_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def likelihood(data: xr.Dataset, *, known: bool = False, strength: float = 0.0) -> estimators.Maps:
        return {"t1": data["t1"].to_numpy() * (1 + abs(np.log10(strength) - 2))}

    monkeypatch.setattr(estimators, "likelihood", likelihood)
    assert estimators.tuned(slices.one_slice(32, 2, 10)[1])[1] == 1e2


def test_one_realisation_does_not_change_the_maps_of_another(tmp_path: Path) -> None:
    data, _ = slices.one_slice(32, 3, 10)
    for system in ("rim_t1", "resnet_t1_quarter"):
        estimate = estimators.network(untrained(system, 31, tmp_path))
        fewer = estimate(data.isel(sample=slice(1, None)))
        np.testing.assert_allclose(estimate(data)["t1"][1:], fewer["t1"], atol=1e-5)


def test_a_resnet_of_other_times_is_left_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    quick_tuning(monkeypatch)
    path = untrained("resnet_t1_quarter", 31, tmp_path)
    assert "ResNet" in estimators.estimators([path], slices.one_slice(32, 2, 10)[1])
    assert "ResNet" not in estimators.estimators([path], slices.one_slice(32, 2, 10, "rim_t1_23")[1])


# ----------------------------------------------------------------------------------------------------------------------
# studies


def test_noise_finds_the_bias_and_the_variation(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    methods = {"known": known, "perfect": perfect, **estimators.controls("t1")}
    judging(monkeypatch, noise, methods)
    rows, figure = noise.noise([], size=32, count=20, heads=2, snrs=(5, 10))
    for tissue in ("grey_matter", "white_matter", "brain"):
        facts = {"snr": 10, "tissue": tissue, "quantity": "t1"}
        assert value(rows, method="known", name="median bias", **facts) == pytest.approx(100 * BIAS, abs=0.3)
        assert value(rows, method="known", name="bias of the mean", **facts) == pytest.approx(100 * BIAS, abs=0.3)
        assert value(rows, method="known", name="CV", **facts) == pytest.approx(100 * SPREAD / (1 + BIAS), rel=0.06)
        assert value(rows, method="known", name="slope", **facts) == pytest.approx(1 + BIAS, abs=0.05)
        assert value(rows, method="perfect", name="relative RMSE", **facts) == pytest.approx(0, abs=1e-9)
        assert value(rows, method="perfect", name="slope", **facts) == pytest.approx(1)
        assert value(rows, method="constant map", name="CV", **facts) == pytest.approx(0, abs=1e-3)
        assert value(rows, method="constant map", name="slope", **facts) == pytest.approx(0, abs=1e-3)
    for tissue in ("grey_matter", "white_matter"):
        facts = {"snr": 10, "tissue": tissue, "quantity": "t1"}
        assert value(rows, method="tissue-mean map", name="slope", **facts) == pytest.approx(0, abs=1e-3)
    words = drawn(figure, tmp_path / "noise.png")
    assert all(word in words for word in ("SNR", "relative bias of T1 (%)", "CV of B (%)"))


def test_the_likelihood_fit_reaches_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where noise is small: at SNR 10 voxels of little signal already vary more than their bound."""
    quick_tuning(monkeypatch)
    found = noise.noise([], size=32, count=20, heads=2, snrs=(30,))[0]
    for tissue in ("grey_matter", "white_matter"):
        facts = {"snr": 30, "tissue": tissue, "quantity": "t1"}
        bounds = [value(found, method=f"bound, {kind}", **facts)
                  for kind in ("B and the tissue's means known", "B known", "B free")]  # fmt: skip
        assert bounds == sorted(bounds)
        assert 0.9 < value(found, method="MLE, B known", name="CV", **facts) / bounds[1] < 1.1
        assert abs(value(found, method="MLE, B known", name="median bias", **facts)) < 2
        assert value(found, method="MLE, B free", name="CV", **facts) > 3 * bounds[1]


def test_networks_pass_the_noise_study_in_t1_and_t2(tmp_path: Path) -> None:
    for recipe, system, images in (("rim_t1", "rim_t1", 31), ("rim_t2", "rim_t2", 6)):
        rows, figure = noise.noise([untrained(system, images, tmp_path)], recipe, size=32, count=2, heads=1, snrs=(10,))
        assert {"RIM", "MLE", "constant map", "tissue-mean map"} <= {row["method"] for row in rows}
        assert all(np.isfinite(row["value"]) for row in rows)
        drawn(figure, tmp_path / f"{recipe}.png")


def test_times_judges_three_protocols(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    quick_tuning(monkeypatch)
    rows, figure = noise.times([untrained("rim_t1", 31, tmp_path)], size=32, count=2, heads=1)
    assert {row["times"] for row in rows if row["method"] == "RIM"} == {31, 23, 25}
    assert "23 times" in drawn(figure, tmp_path / "times.png")


def test_blur_sees_a_blurring_estimator_and_leaves_a_good_one_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    judging(monkeypatch, structures, {"RIM": known, "ResNet": blurring})
    rows, figure = structures.blur([], size=48, count=20)
    for name in structures.STRUCTURES:
        facts = {"structure": name, "region": "structure"}
        assert value(rows, method="RIM", name="change of bias", **facts) == pytest.approx(0, abs=1e-4)
        assert value(rows, method="RIM", name="p of the t-test", **facts) > 0.99
        assert abs(value(rows, method="ResNet", name="change in standard errors", **facts)) > 5
        assert value(rows, method="ResNet", name="p of the t-test", **facts) < 1e-3
        around = {"structure": name, "region": "neighbourhood"}
        assert abs(value(rows, method="RIM", name="change of bias", **around)) < 1e-4
    hypo = {"structure": "hypo point", "region": "structure", "name": "bias"}
    assert value(rows, method="ResNet", scenario="E2", **hypo) > 50, "400 ms vanish in grey matter"
    assert value(rows, method="RIM", scenario="E2", **hypo) == pytest.approx(100 * BIAS, abs=4)
    words = drawn(figure, tmp_path / "blur.png")
    assert "hypo point" in words
    assert "CV of T1, neighbourhood (%)" in words


def test_the_sigmoid_finds_its_slope() -> None:
    x = np.arange(40.0)
    image = np.broadcast_to(1.4 - 0.6 / (1 + np.exp(-1.2 * (x - 20))), (40, 40))
    line = (np.full(33, 20.0), 20 + np.linspace(-structures.REACH, structures.REACH, 33))
    assert structures.steepness(np.array(image), line) == pytest.approx(1.2, rel=0.05)


def test_lines_cross_the_border_at_right_angles() -> None:
    tissue = np.full((60, 60), structures.GREY_MATTER)
    tissue[:, 30:] = structures.WHITE_MATTER
    lines = structures.across(tissue)
    assert len(lines) > 5
    for rows, columns in lines:
        assert np.ptp(rows) == pytest.approx(0, abs=1e-6)
        assert np.ptp(columns) == pytest.approx(2 * structures.REACH)
        assert columns.mean() == pytest.approx(29.5, abs=1)


def test_sharpness_sees_a_blurring_estimator(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    judging(monkeypatch, structures, {"RIM": perfect, "ResNet": blurring})
    tissue = np.full((48, 48), structures.GREY_MATTER, np.uint8)
    tissue[:, 24:] = structures.WHITE_MATTER
    t1 = np.where(tissue == structures.WHITE_MATTER, 0.8, 1.4) + 0.02 * Draws(0, "t1", 0, 48).normal("t1", (48,))
    data = xr.Dataset({"tissue": (("sample", "y", "x"), tissue[None]), "t1": (("sample", "y", "x"), t1[None])})
    monkeypatch.setattr(structures, "one_slice", lambda *_: (data, data))
    rows, figure = structures.sharpness([], size=48)
    sharp = {method: value(rows, method=method, name="sigmoid slope") for method in ("truth", "RIM", "ResNet")}
    assert sharp["RIM"] == pytest.approx(sharp["truth"])
    assert sharp["ResNet"] < 0.7 * sharp["truth"]
    assert value(rows, method="ResNet", name="p of the paired t-test against the truth") < 0.01
    drawn(figure, tmp_path / "sharpness.png")


@pytest.mark.parametrize(("quantity", "system", "images"), [("t1", "rim_t1", 31), ("t2", "rim_t2", 6)])
def test_phantom_is_one_object_and_the_fit_finds_its_values(
    quantity: str, system: str, images: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    quick_tuning(monkeypatch)
    rows, figure = phantom.phantom([untrained(system, images, tmp_path)], quantity)
    assert {row["sphere"] for row in rows} == {*range(1, 15), "within the times"}
    method = "MLE, B known" if quantity == "t1" else "MLE"
    facts = {"method": method, "sphere": "within the times"}
    assert value(rows, name="absolute bias", **facts) < 1, "every realisation must show the same plate"
    assert value(rows, name="CV", **facts) < (2 if quantity == "t1" else 10)
    assert f"nominal {quantity.upper()} (ms)" in drawn(figure, tmp_path / "phantom.png")


def test_the_ladder_is_that_of_the_standard() -> None:
    """Ends of Stupic 2021, doi:10.1002/mrm.28779, at 3 T and 20 C."""
    for name, key, ends in (("nist_t1", "t1", (1.989, 0.021719)), ("nist_t2", "t2", (0.5813, 0.00559))):
        plan = load(name).splits["test"]
        values = next(dict(link.constants) for link in plan.chain if link.step.name == "phantom.discs")[key]
        assert len(values) == 14
        assert (values[0], values[-1]) == pytest.approx(ends)
        assert list(values) == sorted(values, reverse=True)


def test_timing_runs_every_method_on_one_whole_slice(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: list[dict[str, int]] = []

    def estimate(data: xr.Dataset) -> estimators.Maps:
        assert torch.get_num_threads() == 1
        seen.append({str(name): size for name, size in data["signal"].sizes.items()})
        return perfect(data)

    judging(monkeypatch, timing, {"RIM": estimate})
    data = slices.one_slice(32, 1, 10)
    monkeypatch.setattr(timing, "one_slice", lambda *_: data)
    rows, figure = timing.timing([], size=32, repeats=2)
    assert seen == [{"sample": 1, "inversion_time": 31, "y": 256, "x": 256}] * 3
    assert [row["value"] > 0 for row in rows] == [True]
    assert "s a slice" in drawn(figure, tmp_path / "timing.png")


def test_studies_tell_how_far_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    judging(monkeypatch, noise, {"perfect": perfect})
    told: list[str] = []

    def track(items: Iterable[Any], text: str) -> Iterable[Any]:
        told.append(text)
        return items

    noise.noise([], size=32, count=2, heads=1, snrs=(10,), track=track)
    assert told == ["noise robustness"]
