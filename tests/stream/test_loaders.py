"""Loaders that others wrote: torchdata's keeps the state of a stream and goes on in the middle of an epoch.

Budget: 10 s on two cores.
"""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from factory.order import Order
from factory.recipe import Recipe
from factory.stream import Stream
from tests.stream.small import small_recipe

torchdata = pytest.importorskip("torchdata.stateful_dataloader", reason="torchdata is not installed (extra dev)")
pytestmark = pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning")  # torchdata 0.11, torch 2.13


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    return small_recipe(tmp_path_factory.mktemp("recipe"))


def wanted(epoch: int) -> list[list[int]]:
    order = Order(101, 12, 5)
    return [order.batch_at(epoch, number)[0].tolist() for number in range(len(order))]


def loader_of(recipe: Recipe, workers: int) -> tuple[Stream, object]:
    stream = Stream(recipe, "train", batch=12, seed=5)
    return stream, torchdata.StatefulDataLoader(stream, batch_size=None, num_workers=workers)


@pytest.mark.parametrize("stop", [1, 3, 7])
@pytest.mark.parametrize("workers", [0, 2])
def test_torchdata_goes_on_in_the_middle(recipe: Recipe, workers: int, stop: int) -> None:
    _, loader = loader_of(recipe, workers)
    taken = []
    for batch in loader:
        taken.append(batch["sample"].tolist())
        if len(taken) == stop:
            break
    state = pickle.loads(pickle.dumps(loader.state_dict()))
    stream, later = loader_of(recipe, workers)
    later.load_state_dict(state)
    taken += [batch["sample"].tolist() for batch in later]
    assert taken == wanted(0), "the epoch as it is without a stop"
    stream.set_epoch(1)
    assert [batch["sample"].tolist() for batch in later] == wanted(1)


@pytest.mark.parametrize("workers", [0, 1])
def test_torchdata_gives_whole_epochs(recipe: Recipe, workers: int, tmp_path: Path) -> None:
    stream, loader = loader_of(recipe, workers)
    for epoch in range(2):
        stream.set_epoch(epoch)
        assert [batch["sample"].tolist() for batch in loader] == wanted(epoch)
