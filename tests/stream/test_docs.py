"""The page about streaming and its examples do what they say.

Budget: 30 s on two cores.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from factory.recipe import load
from factory.store import materialise

DOCS = Path(__file__).parents[2] / "docs"
SMALL = {
    "splits.train.levels": "{subject: 1, patch: 48}", "splits.validation.levels": "{subject: 1, patch: 1}",
    "splits.test.levels": "{subject: 1, patch: 1}", "splits.noise_study.levels": "{subject: 1, patch: 1, noise: 1}",
    "chain.anatomy.brain.voxel": "4 mm",
}  # fmt: skip


def test_every_block_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    small = load("rim_t1", set=SMALL)
    materialise(small, tmp_path / "t1.zarr", threads=2)
    page = (DOCS / "stream.md").read_text().replace("batch=24, where", "batch=2, where")
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == 6
    names: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, "docs/stream.md", "exec"), names)
    assert names["batch"]["signal"].shape == (24, 31, 40, 40)
    assert set(next(iter(names["mixed"]))["member"].tolist()) == {0}  # the hard ones have no weight at step 0
