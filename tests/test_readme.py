"""The README tells the truth: its boxes run as they stand, its tables are what was measured, its files exist.

Budget: 5 s on two cores.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def box(name: str) -> str:
    """The code of one marked box."""
    found = re.search(rf"<!-- box: {name} -->\n```\w+\n(.*?)```\n<!-- end -->", README, re.DOTALL)
    assert found, name
    return found[1]


@pytest.fixture
def guest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The three boxes as files beside the real ones, as a user would add them."""
    import factory.physics
    import models

    folders = {"physics": factory.physics, "models": models}
    for name, package in folders.items():
        (tmp_path / name).mkdir()
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path / name)])
    (tmp_path / "physics/saturation.py").write_text(box("step"))
    (tmp_path / "models/saturation.py").write_text(box("network"))
    (tmp_path / "saturation.yaml").write_text(box("recipe"))
    monkeypatch.setenv("FACTORY_RECIPES", str(tmp_path))
    yield tmp_path
    for module in ("factory.physics.saturation", "models.saturation"):
        sys.modules.pop(module, None)


def test_the_boxes_work_together(guest: Path) -> None:
    import tests.laws as laws
    from factory.recipe import load
    from factory.store import materialise
    from factory.stream import Stream
    from models.cards import systems
    from models.training import evaluate, fit

    small = load("saturation", samples={"train": 40, "test": 8})
    for law in (laws.law_cut, laws.law_no_dead_knob, laws.law_honest_signature, laws.law_independence):
        law(small)
    materialise(load("saturation"), guest / "s.zarr")
    card = systems()["saturation_t1"]
    weights = fit(card, Stream(guest / "s.zarr", "train", batch=64, seed=1), out=guest / "run", progress=False)
    (error,) = evaluate(card, weights, Stream(guest / "s.zarr", "test", batch=64, shuffle=False, tail="pad"))
    spread = load("saturation").splits["test"].draw[0].parameters
    mean_predictor = 1e3 * (spread["high"] - spread["low"]) / 12**0.5
    assert error["value"] < 0.5 * mean_predictor, "the network must beat half the error of the mean"


def test_the_walk_uses_commands_that_exist() -> None:
    from typer.main import get_command

    from factory.cli import app

    known = get_command(app).commands  # type: ignore[attr-defined]
    for command in re.findall(r"^factory (\w+)", README, re.MULTILINE):
        assert command in known, command


def test_every_file_that_is_named_exists() -> None:
    for path in re.findall(r"\]\(((?:docs|benchmarks)/[^)]+)\)", README):
        assert (ROOT / path).exists(), path


def test_the_tables_are_what_was_measured() -> None:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        from tables import PAGES, filled
    finally:
        sys.path.pop(0)
    for page in PAGES:
        text = (ROOT / page).read_text()
        assert filled(text) == text, f"{page}: run: python benchmarks/tables.py"
