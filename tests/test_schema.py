"""The JSON schema of recipes is the one that the signatures give, and it knows good recipes from bad ones.

Budget: 5 s on two cores.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from factory.recipe import load, names
from factory.recipe.reading import read
from factory.recipe.schema import schema
from tests.test_recipe import GOOD

ROOT = Path(__file__).parents[1]
VALIDATOR = jsonschema.Draft202012Validator(schema())


def valid(tree: Any) -> bool:
    return bool(VALIDATOR.is_valid(tree))


def test_the_written_schema_is_fresh() -> None:
    written = json.loads((ROOT / "docs/recipe.schema.json").read_text())
    assert written == schema(), "run: factory schema > docs/recipe.schema.json"
    jsonschema.Draft202012Validator.check_schema(written)


@pytest.mark.parametrize("name", sorted(names()))
def test_every_recipe_and_its_flattened_text_fit(name: str) -> None:
    assert valid(read(names()[name]).plain())
    assert valid(read(load(name).text).plain())


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("seed: 7", "sead: 7"),
        ("spacing: 8 ms", "spaceing: 8 ms"),
        ("epg.cpmg", "epg.cpgm"),
        ("uniform: [300 ms, 3 s]", "unifrom: [300 ms, 3 s]"),
        ("{samples: 24}", "{sampels: 24}"),
        ("n_echo: 8}", "n_echo: many}"),
        ("{measured: noisy}", "{mesured: noisy}"),
        ("keep: [noisy, t2]", "keep: []"),
    ],
)
def test_an_editor_sees_these_mistakes(old: str, new: str) -> None:
    assert valid(read(GOOD).plain())
    assert old in GOOD
    assert not valid(read(GOOD.replace(old, new, 1)).plain())
