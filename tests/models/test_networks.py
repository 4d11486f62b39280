"""The laws of networks: every stage of every system keeps them.

Budget: 10 s on two cores.
"""

from __future__ import annotations

import pytest
import torch

from models import weights
from models.cards import TrainingError, check_variables, coordinates_of, shapes_of, systems

CARDS = systems()
PAIRS = [(card, stage) for card in CARDS.values() for stage in range(len(card.stages))]
STAGES = [pytest.param(card, stage, id=f"{card.name}-{stage}") for card, stage in PAIRS]
every_stage = pytest.mark.parametrize(("card", "stage"), STAGES)


def batch_and_task(card, stage, stream_of):
    stream = stream_of(card.stages[stage].recipe)
    batch = next(iter(stream))
    torch.manual_seed(0)
    return batch, card.stages[stage].task(shapes_of(batch, coordinates_of(stream, batch)))


def test_there_are_systems():
    assert {"rim_t1", "rim_t2"} <= CARDS.keys()


@pytest.mark.parametrize("card", CARDS.values(), ids=CARDS)
def test_a_card_says_what_it_must(card):
    assert card.paper.startswith("doi:10.")
    assert len(card.claim) > 20
    assert card.stages
    for number, stage in enumerate(card.stages):
        assert stage.batch > 0
        assert stage.steps > 0
        assert stage.start_from is None or stage.start_from < number


@every_stage
def test_estimates_fit_the_shapes_of_what_they_estimate(card, stage, stream_of):
    batch, task = batch_and_task(card, stage, stream_of)
    check_variables(card, stage, batch.keys())
    with torch.no_grad():
        estimates = task.predict(batch)
    assert estimates
    for name, value in estimates.items():
        assert torch.isfinite(value).all(), name
        if name in batch and batch[name].ndim > 1:
            assert value.shape == batch[name].shape, name


@every_stage
def test_estimates_depend_only_on_what_the_card_reads(card, stage, stream_of):
    batch, task = batch_and_task(card, stage, stream_of)
    task.eval()
    with torch.no_grad():
        full = task.predict(batch)
        bare = task.predict({name: batch[name] for name in card.stages[stage].reads})
    assert all(torch.equal(full[name], bare[name]) for name in full)


@every_stage
def test_every_parameter_receives_a_gradient(card, stage, stream_of):
    batch, task = batch_and_task(card, stage, stream_of)
    optimizers = task.optimizers(10)
    for loss, name in task.updates(batch):
        optimizers[name][0].zero_grad()
        loss.backward()
        owned = {id(p) for group in optimizers[name][0].param_groups for p in group["params"]}
        idle = [key for key, p in task.named_parameters() if id(p) in owned and (p.grad is None or not p.grad.any())]
        assert not idle, f"{name} leaves {idle} without a gradient"
    groups = [group for optimizer, _ in optimizers.values() for group in optimizer.param_groups]
    stepped = {id(p) for group in groups for p in group["params"]}
    assert stepped == {id(p) for p in task.parameters()}


@every_stage
def test_one_batch_can_be_overfitted(card, stage, stream_of):
    """The loss falls to less than half its start."""
    batch, task = batch_and_task(card, stage, stream_of)
    steps, losses = 200, []
    optimizers = task.optimizers(steps)
    for _ in range(steps):
        for loss, name in task.updates(batch):
            optimizer, scheduler = optimizers[name]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if scheduler is not None:
                scheduler.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2, losses[:: steps // 6]


@every_stage
def test_saved_and_loaded_it_answers_the_same(card, stage, stream_of, tmp_path):
    batch, task = batch_and_task(card, stage, stream_of)
    shapes = shapes_of(batch, coordinates_of(stream_of(card.stages[stage].recipe), batch))
    weights.save(tmp_path / "w.safetensors", task, {"system": card.name, "stage": stage, "shapes": shapes})
    torch.manual_seed(1)
    again = weights.load(card, tmp_path / "w.safetensors")
    task.eval()
    with torch.no_grad():
        before, after = task.predict(batch), again.predict(batch)
    assert all(torch.equal(before[name], after[name]) for name in before)


@every_stage
def test_weights_of_a_wrong_shape_are_refused_by_name(card, stage, stream_of):
    _, task = batch_and_task(card, stage, stream_of)
    tensors = {name: value.clone() for name, value in task.state_dict().items()}
    name = next(iter(tensors))
    tensors[name] = torch.zeros(1, *tensors[name].shape)
    with pytest.raises(TrainingError, match=f"{name} has the shape"):
        weights.fill(task, tensors, "here")
    del tensors[name]
    with pytest.raises(TrainingError, match=f"{name} is missing"):
        weights.fill(task, tensors, "here")


@every_stage
def test_variables_that_are_missing_are_named(card, stage):
    needed = list(card.stages[stage].reads + card.stages[stage].learns)
    with pytest.raises(TrainingError, match=rf"{needed[0]} is missing .*{needed[0]}s is near.*keep"):
        check_variables(card, stage, [*needed[1:], needed[0] + "s"])
