"""The paper's studies: statistics against estimators whose bias and spread are known, and each study end to end.

Budget: 60 s on two cores.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from typer.testing import CliRunner

from factory.cli import app
from models import weights
from models.rim import T1, T1_MAPS, ResNet
from models.studies import estimators, noise, phantom, slices, statistics, structures, timing

SMALL = {"chain.anatomy.brain.voxel": "4 mm"}


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """An untrained RIM and an untrained small ResNet."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    facts = {"stage": 0, "shapes": {"signal": [31, 24, 24]}}
    weights.save(folder / "rim.safetensors", T1(), facts | {"system": "rim_t1"})
    quarter = ResNet(T1_MAPS, 31, (10, 10, 20, 20, 40, 80, 40, 20, 20, 10, 6))
    weights.save(folder / "resnet.safetensors", quarter, facts | {"system": "resnet_t1_quarter"})
    return [str(folder / "rim.safetensors"), str(folder / "resnet.safetensors")]


@pytest.fixture(scope="module")
def few() -> tuple[list[xr.Dataset], xr.Dataset]:
    return slices.judged_on("rim_t1", 24, 4, heads=2, changes=SMALL)


@pytest.fixture(autouse=True)
def coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Heads of 4 mm, for every study."""
    real = slices.load
    monkeypatch.setattr(slices, "load", lambda name, set: real(name, set=set | SMALL))


def test_statistics_find_a_known_bias_and_spread() -> None:
    truth = np.linspace(0.5, 2, 500)
    estimates = truth * (1.03 + 0.04 * np.random.default_rng(0).normal(size=(400, 500)))
    rows = {r["name"]: r["value"] for r in statistics.rows_of([(estimates, truth)], {"quantity": "t1"})}
    assert rows["median bias"] == pytest.approx(3, abs=0.1)
    assert rows["bias of the mean"] == pytest.approx(3, abs=0.1)
    assert rows["CV"] == pytest.approx(4 / 1.03, abs=0.1)
    assert rows["relative RMSE"] == pytest.approx(np.hypot(3, 4 / 1.03), abs=0.15)
    assert rows["slope"] == pytest.approx(1.03, abs=0.01)
    constant = np.full((400, 500), 1.0)
    rows = {r["name"]: r["value"] for r in statistics.rows_of([(constant, truth)], {"quantity": "t1"})}
    assert rows["slope"] == pytest.approx(0, abs=1e-9)
    assert rows["CV"] == 0


def test_realisations_share_everything_but_the_noise(few: tuple[list[xr.Dataset], xr.Dataset]) -> None:
    for one in few[0]:
        for name in ("t1", "amplitude", "efficiency", "tissue"):
            assert (one[name] == one[name][0]).all()
        assert not (one.signal[0] == one.signal[1]).any()
        residual = (one.signal - slices.clean(one)).to_numpy()
        assert residual.std() == pytest.approx(0.075, rel=0.03)
    assert not np.array_equal(few[0][0].tissue[0], few[0][1].tissue[0])
    assert not np.array_equal(few[0][0].tissue[0], few[1].tissue[0])  # tuned on another head


def test_at_snr_scales_the_noise_only(few: tuple[list[xr.Dataset], xr.Dataset]) -> None:
    one = few[0][0]
    half = slices.at_snr(one, 20)
    still = slices.clean(one)
    np.testing.assert_allclose(half.signal - still, (one.signal - still) / 2, atol=2e-6)
    assert (half.sigma == 0.0375).all()
    assert (half.t1 == one.t1).all()


def test_likelihood_with_known_b_finds_a_clean_slice(few: tuple[list[xr.Dataset], xr.Dataset]) -> None:
    one = few[0][0]
    still = one.assign(signal=slices.clean(one))
    t1 = one.t1.to_numpy()
    inside = (t1 > 0.06) & (t1 < 5.5) & (one.amplitude.to_numpy() > 0.05)  # within the bounds of the fit
    found = estimators.likelihood(still, known=True)["t1"][inside]
    np.testing.assert_allclose(found, t1[inside], rtol=1e-5)
    fit, strength = estimators.tuned(few[1])
    assert strength in estimators.TUNED
    assert fit(one)["t1"].shape == one.t1.shape


def test_noise_study(networks: list[str]) -> None:
    rows, figure = noise.noise(networks, size=24, count=3, snrs=(5, 30), heads=1)

    def cv(method: str, snr: float) -> float:
        return statistics.value(rows, method=method, tissue="white_matter", snr=snr, name="CV", quantity="t1")

    for method in ("RIM", "ResNet", "MLE", "MLE, B known", "MLE, B free", "constant map", "tissue-mean map"):
        assert np.isfinite(cv(method, 5))
    assert cv("MLE, B known", 30) < cv("MLE, B known", 5)
    for tissue in ("grey_matter", "white_matter"):
        free, known, best = (
            statistics.value(rows, method=m, tissue=tissue, snr=5, name="relative RMSE", quantity="t1")
            for m in ("bound, B free", "bound, B known", "bound, B and the tissue's means known")
        )
        assert best < known < free
    assert len(figure.axes) == 6


def test_other_times_leave_the_resnet_out(networks: list[str]) -> None:
    rows, _ = noise.times(networks, size=24, count=2, heads=1)
    assert {r["times"] for r in rows if r["method"] == "RIM"} == {31, 23, 25}
    assert {r["times"] for r in rows if r["method"] == "ResNet"} == {31}


def test_structures_lie_inside_their_tissue() -> None:
    tissue = np.full((40, 40), 2, np.uint8)
    tissue[:, 15:] = 3
    masks = structures.placed(tissue)
    assert [int(mask.sum()) for mask in masks.values()] == [1, 1, 6, 6]
    for name, mask in masks.items():
        assert set(np.unique(tissue[mask])) == {structures.STRUCTURES[name][0]}
    assert np.sum(list(masks.values()), axis=0).max() == 1


def test_blur_sees_what_blurs_and_only_that(monkeypatch: pytest.MonkeyPatch) -> None:
    """A perfect estimator is unchanged by the structures, one that averages its neighbours is not."""
    from scipy.ndimage import gaussian_filter

    def perfect(data: xr.Dataset) -> estimators.Maps:
        wobble = 1 + 0.01 * np.random.default_rng(0).normal(size=(data.sizes["sample"], 1, 1))
        return {"t1": data.t1.to_numpy() * wobble}

    def blurring(data: xr.Dataset) -> estimators.Maps:
        return {"t1": gaussian_filter(perfect(data)["t1"], (0, 1, 1))}

    monkeypatch.setattr(structures, "estimators", lambda *_: {"perfect": perfect, "blurring": blurring})
    rows, _ = structures.blur([], size=40, count=20)
    change = {
        method: statistics.value(rows, method=method, structure="hypo point", region="structure", name="change of bias")
        for method in ("perfect", "blurring")
    }
    assert abs(change["perfect"]) < 1e-4
    assert change["blurring"] > 20
    p = statistics.value(rows, method="blurring", structure="hypo point", region="structure", name="p of the t-test")
    assert p < 1e-6


def test_sharpness_orders_blurred_maps() -> None:
    from scipy.ndimage import gaussian_filter

    tissue = np.full((48, 48), 2, np.uint8)
    tissue[(np.indices((48, 48)) - 23.5).__pow__(2).sum(0) < 14**2] = 3
    t1 = np.where(tissue == 3, 0.8, 1.4)
    lines = structures.across(tissue)
    assert len(lines) >= 10
    slopes = [np.median([structures.steepness(gaussian_filter(t1, s), line) for line in lines]) for s in (0.3, 1, 2)]
    assert slopes[0] > slopes[1] > slopes[2]


def test_phantom_and_timing(networks: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    rows, _ = phantom.phantom(networks, count=2)
    assert {r["method"] for r in rows} >= {"RIM", "MLE", "MLE, B known"}
    assert len({r["sphere"] for r in rows}) == 15
    nominal = [r for r in rows if r["method"] == "MLE, B known" and r["name"] == "bias" and r["sphere"] == 4]
    assert abs(nominal[0]["value"]) < 10  # 706 ms
    seconds, _ = timing.timing(networks, size=32, repeats=1)
    assert all(r["value"] > 0 for r in seconds)


def test_the_command(networks: list[str], tmp_path: Path) -> None:
    words = ["evaluate", "rim_t1", networks[0], "--study", "sharpness", "--size", "40", "-o", str(tmp_path / "out")]
    said = CliRunner().invoke(app, words)
    assert said.exit_code == 0, said.output
    assert (tmp_path / "out/sharpness.json").exists()
    assert (tmp_path / "out/sharpness.png").exists()
    wrong = CliRunner().invoke(app, [*words[:4], "blurr"])
    assert wrong.exit_code == 2
    assert "there are noise, blur" in " ".join(wrong.output.split())
