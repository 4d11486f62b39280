"""The weights that come with the package: small, with a card, of today's recipe, and better than the controls.

Budget: 25 s on two cores.
"""

from __future__ import annotations

from typing import Any

import pytest

from factory.recipe import load
from factory.stream import Stream
from models import weights
from models.cards import TrainingError, systems
from models.training import evaluate


def test_small_and_with_its_card() -> None:
    path = weights.shipped("rim_t1")
    assert path.stat().st_size < 1e6
    card = path.with_suffix(".md").read_text()
    facts: Any = weights.read(path)[1]
    assert load(facts["recipe"]).identity[:16] in card, "the recipe has changed since the weights were trained"
    for fact in (str(facts["steps"]), facts["data"], "MIT", "relative RMSE"):
        assert fact in card


def test_others_are_refused_by_name() -> None:
    with pytest.raises(TrainingError, match="there are rim_t1"):
        weights.shipped("rim_t9")


def test_better_than_the_controls_on_unseen_heads() -> None:
    """Heads of 2 mm, coarser than those of the training."""
    recipe = load("rim_t1", set={"chain.anatomy.brain.voxel": "2 mm", "splits.test.levels": "{subject: 2, patch: 12}"})
    stream = Stream(recipe, "test", batch=24, shuffle=False, tail="pad")
    rows = evaluate(systems()["rim_t1"], weights.shipped("rim_t1"), stream)
    for tissue in ("grey_matter", "white_matter"):
        error = {r["method"]: r["value"] for r in rows if r["tissue"] == tissue and r["name"] == "rmse"}
        assert error["RIM"] < 0.8 * error["tissue-mean map"] < error["constant map"]
