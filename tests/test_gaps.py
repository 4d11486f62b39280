"""Empty ranges between two modes: found where they are, and nowhere else.  Budget: 20 s on two cores."""

from __future__ import annotations

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from factory.cli import app
from factory.gaps import gap


def mixture(*modes, n=4000, seed=0):
    random = np.random.default_rng(seed)
    return np.concatenate([random.normal(mean, sd, n) for mean, sd in modes])


def test_the_gap_of_the_paper():
    found = gap(mixture((0.110, 0.03), (0.275, 0.07), (2.0, 0.3)))
    assert found is not None
    assert 0.38 < found.low < 0.6
    assert 0.9 < found.high < 1.5
    assert found.below == pytest.approx(2 / 3, abs=0.02)
    assert found.above == pytest.approx(1 / 3, abs=0.02)


@pytest.mark.parametrize("values", [
    np.random.default_rng(0).uniform(0.3, 3, 5000),
    np.exp(np.random.default_rng(1).uniform(np.log(0.0065), np.log(0.255), 5000)),
    np.abs(mixture((1.0, 0.3))),
    mixture((0.78, 0.25), (1.4, 0.3)),
    np.random.default_rng(2).choice([1.5, 3.0, 7.0], 5000),
    np.concatenate([np.zeros(5000), np.random.default_rng(3).uniform(1, 1.4, 5000)]),
    np.concatenate([np.random.default_rng(4).uniform(1, 1.4, 5000), [50.0] * 10]),
])  # fmt: skip
def test_no_gap(values):
    assert gap(values) is None


def test_rare_values_inside_do_not_hide_a_gap():
    values = mixture((0.1, 0.01), (2.0, 0.1), n=20000)
    assert gap(np.concatenate([values, np.random.default_rng(0).uniform(0.2, 1.5, 20)])) is not None
    assert gap(np.concatenate([values, np.random.default_rng(0).uniform(0.12, 1.8, 4000)])) is None


def test_check_warns_of_the_t2_of_the_paper_and_passes():
    said = CliRunner().invoke(app, ["check", "rim_t2"])
    assert said.exit_code == 0
    assert "warning: t2 has (almost) no value between" in " ".join(said.output.split())
    covered = "draw.tissue_t2.per_tissue.csf={loguniform: [100 ms, 2.5 s]}"
    data = json.loads(CliRunner().invoke(app, ["check", "rim_t2", "--json", "--set", covered]).output)
    assert data["ok"]
    assert not [text for text in data["warnings"] if text.startswith("t2")]
    assert json.loads(CliRunner().invoke(app, ["check", "cpmg_t2", "--json"]).output)["warnings"] == []


@pytest.mark.parametrize("subjects", [4, 8, 20, 60])
def test_few_subjects_leave_ranges_empty_by_chance(subjects):
    """Log-uniform means of a few subjects, with 2 % inside each: the range is covered, by too few."""
    claimed = 0
    for seed in range(100):
        random = np.random.default_rng(seed)
        means = np.exp(random.uniform(np.log(0.02), np.log(2.5), subjects))
        values = means[:, None] * (1 + 0.02 * random.normal(size=(subjects, 400)))
        claimed += gap(values, subjects) is not None
    assert claimed <= 4
    assert gap(mixture((0.1, 0.01), (2.0, 0.1)), 60) is not None


SMALL = """
about: a recipe
seed: 7
splits: {train: LEVELS}
draw:
  t1: {uniform: [300 ms, 3 s]}
  t2: {uniform: [10 ms, t1]}
  b1: {constant: 1}
  sigma: {loguniform: [0.005, 0.05]}
chain:
  - epg.cpmg: {spacing: 8 ms, n_echo: 8}
  - noise.rician: {as: {measured: noisy}}
keep: [noisy, t2]
"""


@pytest.mark.parametrize("levels", ["{samples: 24}", "{levels: {subject: 4, scan: 6}}"])
@pytest.mark.parametrize("corner", ["", "corner: {n_echo: 4, samples: 6}\n"])
def test_a_sound_recipe_passes_with_any_corner_or_none(tmp_path, levels, corner):
    path = tmp_path / "r.yaml"
    path.write_text(SMALL.replace("LEVELS", levels) + corner)
    said = CliRunner().invoke(app, ["check", str(path), "--json"])
    assert said.exit_code == 0, said.output
    assert json.loads(said.output)["warnings"] == []


def test_a_recipe_of_which_no_sample_can_be_made_is_warned_of():
    said = CliRunner().invoke(app, ["check", "rim_t1", "--json", "--set", "draw.tissue_t1.per_tissue.csf=null"])
    assert said.exit_code == 1  # null stands for no distribution
    rows = "{at: patch, per_tissue: {table: brainweb, column: t1}}"
    said = CliRunner().invoke(app, ["check", "rim_t1", "--json", "--set", f"draw.tissue_t1={rows}"])
    assert said.exit_code == 0
    assert "no sample can be made: tissue.relaxation: the map holds" in json.loads(said.output)["warnings"][0]
