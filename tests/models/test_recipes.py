"""Networks meet their recipes: each stage learns from a batch of its recipe's corner.  Budget: 20 s."""

from __future__ import annotations

import pytest
import torch

from factory.recipe import load
from factory.stream import Stream
from models.cards import check_variables, shapes_of, systems

STAGES = [(name, k) for name, system in systems().items() for k in range(len(system.stages))]


@pytest.mark.parametrize(("name", "stage"), STAGES)
def test_a_stage_fits_its_recipe(name: str, stage: int) -> None:
    system = systems()[name]
    card = system.stages[stage]
    stream = Stream(load(card.recipe, corner=True), "train", batch=4, seed=1)
    batch = next(iter(stream))
    check_variables(system, stage, batch.keys())
    torch.manual_seed(0)
    task = card.task(shapes_of(batch, stream.coordinates))
    optimizers = task.optimizers(10)
    before = [p.detach().clone() for p in task.parameters()]
    for loss, optimizer in task.updates(batch):
        assert torch.isfinite(loss)
        loss.backward()
        optimizers[optimizer][0].step()
    moved = [not torch.equal(a, b) for a, b in zip(before, task.parameters(), strict=True)]
    assert all(moved), "every parameter learns from the recipe's own data"
    for variable, estimate in task.predict(batch).items():
        assert estimate.shape[0] == 4
        assert estimate.isfinite().all(), variable
        if variable in batch and batch[variable].ndim > 1:
            assert estimate.shape == batch[variable].shape, variable
