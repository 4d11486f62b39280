"""Nothing grows: neither memory over an epoch of a large store, nor open files and threads over a thousand epochs.

Budget: 10 s on two cores; the slow one 10 s more.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from factory.recipe import Recipe, load
from factory.store import materialise
from factory.stream import Stream
from tests.stream.small import recipe_in, small_recipe

ECHOES, SAMPLES = 2048, 50_000  # 410 MB
LARGE = f"""\
about: long decays
seed: 1
shard: 250
splits:
  train: {{samples: {SAMPLES}}}
draw:
  t2: {{uniform: [10 ms, 300 ms]}}
  amplitude: {{uniform: [0.5, 1]}}
chain:
  - relaxation.t2_decay: {{echo_time: {{values: {list(range(1, ECHOES + 1))}, unit: ms}}, as: {{signal: signal}}}}
keep: [signal, amplitude]
"""


def anonymous() -> int:
    """Bytes of memory that belong to this process alone and to no file."""
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Anonymous:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no such line")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    return load(recipe_in(tmp_path_factory.mktemp("recipe"), LARGE))


@pytest.fixture(scope="module")
def large(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("large") / "s.zarr"
    materialise(recipe, path, threads=1)
    yield path
    shutil.rmtree(path)


@pytest.mark.parametrize("way", ["maps", "pread", pytest.param("live", marks=pytest.mark.slow)])
def test_an_epoch_grows_by_less_than_200_MB(recipe: Recipe, large: Path, way: str,
                                            monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("factory.stream.stored.is_local", lambda path: way != "pread")
    source = load_part(recipe) if way == "live" else large
    stream = Stream(source, "train", batch=500)
    first, most, count = anonymous(), 0, 0
    for batch in stream:
        most, count = max(most, anonymous() - first), count + len(batch["amplitude"])
    assert count == stream.samples == (SAMPLES if way != "live" else 30_000)
    print(f"{way}: an epoch of {count * ECHOES * 4 / 1e6:.0f} MB grew by {most / 1e6:.1f} MB")
    assert most < 200e6
    assert count * ECHOES * 4 > 240e6, "all batches together would be more"


def load_part(recipe: Recipe) -> Recipe:
    with tempfile.TemporaryDirectory() as folder:
        return load(recipe_in(Path(folder), recipe.text), samples={"train": 30_000})


def test_a_thousand_epochs_leave_nothing_open(tmp_path: Path) -> None:
    materialise(small_recipe(tmp_path), tmp_path / "s.zarr", threads=1)
    stream = Stream(tmp_path / "s.zarr", "train", batch=50)
    for _ in stream:
        pass
    files, threads, memory = len(os.listdir("/proc/self/fd")), threading.active_count(), anonymous()
    for epoch in range(1, 1001):
        for number, _ in enumerate(stream):
            if epoch % 5 == 0 and number == 0:
                break  # what is broken off leaves nothing, either
        else:
            assert number == 1
        if epoch % 5 == 0:
            stream.set_epoch(epoch + 1)
        if epoch % 100 == 0:
            assert len(os.listdir("/proc/self/fd")) <= files, epoch
            assert threading.active_count() == threads
    print(f"a thousand epochs left {len(os.listdir('/proc/self/fd')) - files} files open")
    assert anonymous() - memory < 30e6
