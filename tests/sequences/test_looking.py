"""The command that looks at a sequence: figures, a picture, the text of what a recipe plays.

Budget: 10 s on two cores.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from factory.cli import app
from factory.recipe import linking
from factory.sequences import read
from factory.step import find
from factory.units import GAMMA_BAR
from tests.sequences.test_constant import RECIPE, blocks, samples
from tests.sequences.test_reader import SMALL


def run(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    (tmp_path / "scan.seq").write_text(SMALL)
    return tmp_path / "scan.seq"


def test_figures_of_a_file(scan: Path) -> None:
    found = json.loads(run("sequence", scan, "--json").stdout)
    assert found["duration_s"] == pytest.approx(500e-6)
    assert (found["blocks"], found["readouts"], found["samples"], found["version"]) == (2, 1, 10, "1.4.1")
    assert found["largest_gradient_mT_per_m"] == pytest.approx(1e3 * 1000 / GAMMA_BAR)
    assert found["largest_slope_T_per_m_s"] == pytest.approx(1000 / 5e-6 / GAMMA_BAR)  # the first half of a raster
    (pulse,) = found["pulses"]
    assert pulse["count"] == 1
    assert pulse["flip_angle_deg"] == pytest.approx(90.0)
    assert pulse["peak_uT"] == pytest.approx(2500 / GAMMA_BAR * 1e6)
    told = run("sequence", scan)
    assert told.exit_code == 0
    assert "Pulseq 1.4.1" in told.stdout


def test_a_picture_is_drawn(scan: Path, tmp_path: Path) -> None:
    out = tmp_path / "scan.png"
    assert run("sequence", scan, "-o", out, "--start", "0.1 ms", "--stop", "400 us").exit_code == 0
    assert out.read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize("step", ["samples", "blocks"])
def test_what_a_recipe_plays_can_be_written(step: str, scan: Path, tmp_path: Path,
                                            monkeypatch: pytest.MonkeyPatch) -> None:
    own = {"played.samples": samples, "played.blocks": blocks}
    monkeypatch.setattr(linking, "find", lambda name: own[name] if name in own else find(name))
    recipe, out = tmp_path / "played.yaml", tmp_path / "out.seq"
    recipe.write_text(RECIPE.replace("SEQUENCE", "scan").replace("played.samples", f"played.{step}"))
    assert run("sequence", recipe, "--text", out).exit_code == 0
    assert read(out).text == SMALL


def test_faults_end_in_a_sentence(scan: Path, tmp_path: Path) -> None:
    scan.write_text(SMALL.replace("minor 4", "minor 8"))
    failed = run("sequence", scan)
    assert failed.exit_code == 1
    assert "is of Pulseq version 1.8.1; 1.2 to 1.5 are read" in failed.output
    assert run("sequence", tmp_path / "none.seq").exit_code == 1
    silent = run("sequence", "rim_t1")
    assert silent.exit_code == 2
    assert "plays no pulse sequence" in silent.output
