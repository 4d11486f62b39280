"""Draws as a recipe writes them: every distribution with its units, vectors, histograms, designs, dependent draws.

Budget: 5 s on two cores.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from factory.distributions import DISTRIBUTIONS
from factory.floor import make
from factory.recipe import RecipeError, load
from factory.units import TISSUES
from tests.laws import law_cut, law_honest_signature, law_independence

EVERY = """\
about: every distribution once
seed: 3
files: {measured_t2: t2.csv}
splits: {train: {samples: 3000}, test: {samples: 40}}
draw:
  a: {uniform: [10 ms, 0.1 s]}
  b: {loguniform: {low: 1 Hz, high: 1 kHz}}
  c: {normal: [1 T, 100 mT]}
  d: {truncated_normal: {mean: 1.4 s, sd: 300 ms, low: 5 ms}}
  e: {half_normal: {scale: 30 deg}}
  f: {lognormal: {median: 5 mm, sigma: 0.4}}
  g: {beta: {a: 2, b: 5, low: 0 ppm, high: 3 ppm}}
  h: {choice: {values: {values: [64, 123.2, 298], unit: MHz}, weights: [1, 2, 1]}}
  i: {discrete_uniform: {low: 1, high: 10}}
  j: {constant: 3 mM}
  k: {mixture: {components: [{normal: [80 ms, 5 ms]}, {uniform: [1 s, 2 s]}], weights: [3, 1]}}
  l: {dirichlet: {concentration: [1, 2, 3]}, dim: pool}
  m: {multivariate_normal: {mean: [1 s, 80 ms], covariance: [[0.01, 0.0005], [0.0005, 0.0001]]}}
  q: {per_tissue: {csf: {normal: [3.5 s, 0.3 s]}, fat: {uniform: [300 ms, 500 ms]}}}
  r: {several: {count: 4, of: {uniform: [5 1/s, 400 1/s]}}, dim: peak}
  s: {each: {components: [{uniform: [1, 2]}, {normal: [9, 1]}]}, dim: coil}
  o: {empirical: {file: measured_t2, unit: ms}}
  p: {uniform: [a, 2 s]}
chain:
  - epg.cpmg: {t1: p, t2: a, b1: x, spacing: 8 ms, n_echo: 2}
keep: [signal, l, m, q, r, s]
"""


def recipe(folder: Path, text: str):
    text = text.replace("  p: {uniform", "  x: {constant: 1}\n  p: {uniform")
    (folder / "t2.csv").write_text("10,5\n20,3\n40,2\n80,0\n")
    (folder / "every.yaml").write_text(text)
    return load(folder / "every.yaml")


def test_every_distribution_can_be_written_and_obeys_the_laws(tmp_path: Path) -> None:
    whole = recipe(tmp_path, EVERY)
    used = {one.distribution.name for one in whole.splits["train"].draw}
    assert used == set(DISTRIBUTIONS)
    small = load(tmp_path / "every.yaml", samples={"train": 40})
    law_cut(small)
    law_honest_signature(small)
    law_independence(small)


def test_values_come_out_in_the_canonical_unit(tmp_path: Path) -> None:
    whole = recipe(tmp_path, EVERY)
    made = make(whole, "train", 0, 3000)
    units = {name: made[name].attrs["units"] for name in "abcdefghijkop"}
    assert units == {"a": "s", "b": "Hz", "c": "T", "d": "s", "e": "rad", "f": "m", "g": "ppm", "h": "Hz", "i": "1",
                     "j": "mol/m3", "k": "s", "o": "s", "p": "s"}  # fmt: skip
    assert 0.01 < made.a.min() < made.a.max() < 0.1
    assert made.c.mean() == pytest.approx(1, abs=0.01)
    assert made.e.mean() == pytest.approx(np.pi / 6 * np.sqrt(2 / np.pi), rel=0.05)
    assert float(made.f.median()) == pytest.approx(0.005, rel=0.05)
    assert set(np.unique(made.h)) == {np.float32(64e6), np.float32(123.2e6), np.float32(298e6)}
    assert (made.i.dtype, int(made.i.min()), int(made.i.max())) == ("int64", 1, 10)
    assert (made.k < 0.2).mean() == pytest.approx(0.75, abs=0.03)
    assert (made.r.attrs["units"], made.r.dims, made.r.sizes["peak"]) == ("1/s", ("sample", "peak"), 4)
    assert 5 < made.r.min() < made.r.max() < 400
    assert made.s.mean("sample").values == pytest.approx([1.5, 9], abs=0.1)
    np.testing.assert_allclose(made.l.sum("pool"), 1, rtol=1e-6)
    np.testing.assert_allclose(made.l.mean("sample"), np.array([1, 2, 3]) / 6, atol=0.02)
    assert np.corrcoef(made.m.T)[0, 1] == pytest.approx(0.5, abs=0.05)
    fat = TISSUES.index("fat")
    assert made.q.dims == ("sample", "tissue")
    assert 0.3 < made.q[:, fat].min() < made.q[:, fat].max() < 0.5
    assert (made.q[:, TISSUES.index("skull")] == 0).all()
    assert made.tissue.attrs["flag_meanings"].split()[fat] == "fat"
    shares = np.histogram(made.o, [0.01, 0.02, 0.04, 0.08])[0] / 3000
    np.testing.assert_allclose(shares, [0.5, 0.3, 0.2], atol=0.03)
    assert (made.p > made.a).all(), "a dependent draw"


DESIGNED = """\
about: a plane filled evenly
seed: 5
splits: {train: {samples: 256}}
design: {DESIGN: [t1, t2]}
draw:
  t1: {uniform: [0 s, 1 s]}
  t2: {uniform: [0 s, 1 s]}
  b1: {constant: 1}
chain:
  - epg.cpmg: {spacing: 8 ms, n_echo: 2}
keep: [signal]
"""


@pytest.mark.parametrize("design", ["sobol", "latin_hypercube"])
def test_a_design_fills_every_stratum_and_obeys_the_cut_law(tmp_path: Path, design: str) -> None:
    (tmp_path / "d.yaml").write_text(DESIGNED.replace("DESIGN", design))
    plan = load(tmp_path / "d.yaml")
    law_cut(plan)
    made = make(plan, "train", 0, 256)
    for name in ("t1", "t2"):
        assert sorted(np.floor(made[name].to_numpy().astype(float) * 256)) == list(range(256)), name
    plane = np.stack([made.t1, made.t2], axis=1)
    (tmp_path / "r.yaml").write_text(DESIGNED.replace("design: {DESIGN: [t1, t2]}\n", ""))
    independent = make(load(tmp_path / "r.yaml"), "train", 0, 256)
    chance = stats.qmc.discrepancy(np.stack([independent.t1, independent.t2], axis=1))
    assert stats.qmc.discrepancy(plane) < (0.1 if design == "sobol" else 0.8) * chance


def test_a_latin_hypercube_is_another_recipe_when_its_length_changes(tmp_path: Path) -> None:
    for design, same in [("sobol", True), ("latin_hypercube", False)]:
        (tmp_path / "d.yaml").write_text(DESIGNED.replace("DESIGN", design))
        identities = {load(tmp_path / "d.yaml", samples={"train": n}).identity for n in (256, 512)}
        assert (len(identities) == 1) is same


def test_a_dependent_draw_with_an_empty_range_names_itself(tmp_path: Path) -> None:
    whole = recipe(tmp_path, EVERY.replace("p: {uniform: [a, 2 s]}", "p: {uniform: [d, 1 s]}"))
    with pytest.raises(ValueError, match=r"split train, samples 0 to 50: draw.p: uniform: low must be below high"):
        make(whole, "train", 0, 50)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("unit: ms}}", "unit: ms, x: 1}}", "empirical takes"),
        ("file: measured_t2", "file: measured_t3", "did you mean 'measured_t2'"),
        ("[[0.01, 0.0005], [0.0005, 0.0001]]", "[[0.01, 0.5], [0.5, 0.0001]]", "positive definite"),
        ("{uniform: [300 ms, 500 ms]}}}", "{uniform: [300 ms, 500 mT]}}}", "mixes units|mT"),
        ("per_tissue: {csf", "per_tissue: {cfs", "did you mean 'csf'"),
        ("{normal: [80 ms, 5 ms]}", "{normal: [a, 5 ms]}", "a nested distribution cannot depend"),
        ("dim: pool", "dim: sample", "must be a plain name"),
        ("weights: [1, 2, 1]", "weights: [1, 2]", "3 values need 3 weights, not 2"),
        ("{low: 1, high: 10}", "{low: 1, high: 10.5}", "must be a whole number"),
    ],
)
def test_mistakes_in_draws(tmp_path: Path, old: str, new: str, words: str) -> None:
    assert old in EVERY
    with pytest.raises(RecipeError, match=words):
        recipe(tmp_path, EVERY.replace(old, new, 1))
