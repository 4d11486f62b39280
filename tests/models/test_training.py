"""The one training module: runs, curves, resuming, micro-batches, several optimizers, and what it refuses.

Budget: 5 s on two cores.
"""

from __future__ import annotations

import dataclasses

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import ExponentialLR

from models import weights
from models.cards import Stage, System, Task, TrainingError, systems
from models.training import RESUME, WEIGHTS, Training, evaluate, fit, read_curve

CARD = systems()["rim_t1"]
OPTIONS = {"progress": False, "accelerator": "cpu"}


def trained(stream_of, out, steps=6, card=CARD, **options):
    stream = stream_of("rim_t1", **options.pop("stream", {}))
    return fit(card, stream, out=out, steps=steps, **OPTIONS | options)


@pytest.fixture(scope="module")
def finished(stream_of, tmp_path_factory):
    out = tmp_path_factory.mktemp("finished") / "run"
    trained(stream_of, out, validation=stream_of("rim_t1"), validate_every=4, log_every=2, save_every=2)
    return out


def same(one, other):
    one, other = load_file(one), load_file(other)
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_run_leaves_weights_and_a_curve(finished):
    assert sorted(path.name for path in finished.iterdir()) == ["curve.jsonl", WEIGHTS]
    rows = read_curve(finished)
    assert [row["step"] for row in rows if row["split"] == "train"] == [2, 4, 6]
    losses = [row for row in rows if row["split"] == "validation" and row["name"] == "loss"]
    assert [row["step"] for row in losses] == [4, 6]
    assert {"RIM", "constant map", "tissue-mean map"} == {row["method"] for row in rows if "method" in row}
    _, facts = weights.read(finished / WEIGHTS)
    assert facts["system"] == "rim_t1"
    assert facts["steps"] == 6
    assert facts["data"] == "small"
    assert facts["shapes"]["signal"] == [9, 12, 12]


def test_it_evaluates_and_pads_do_not_count(finished, stream_of):
    rows = evaluate(CARD, finished / WEIGHTS, stream_of("rim_t1"))
    batches = []
    for batch in stream_of("rim_t1"):
        padded = {k: v if k == "inversion_time" else torch.cat((v, v[:2])) for k, v in batch.items()}
        batches.append(padded | {"mask": torch.arange(8) < 6})
    again = evaluate(CARD, finished / WEIGHTS, batches)
    assert [row["value"] for row in again] == pytest.approx([row["value"] for row in rows], rel=1e-5)
    assert all(row["value"] == row["value"] for row in rows)


def test_a_stopped_run_resumes_to_the_same_weights(finished, stream_of, tmp_path):
    with pytest.raises(ConnectionError):
        trained(stream_of, tmp_path, save_every=2, log_every=2, stream={"fails_at": 5})
    assert (tmp_path / RESUME).exists()
    assert not (tmp_path / WEIGHTS).exists()
    trained(stream_of, tmp_path, save_every=2, log_every=2, resume=True)
    assert same(tmp_path / WEIGHTS, finished / WEIGHTS)
    own, undisturbed = ([(row["step"], row["value"]) for row in read_curve(out) if row["split"] == "train"]
                        for out in (tmp_path, finished))  # fmt: skip
    assert own == undisturbed
    assert not (tmp_path / RESUME).exists()


def test_a_finished_run_stays_as_it_is(finished, stream_of):
    before = (finished / WEIGHTS).read_bytes()
    assert trained(stream_of, finished, resume=True).read_bytes() == before
    with pytest.raises(TrainingError, match="already holds a run; resume it"):
        trained(stream_of, finished)
    with pytest.raises(TrainingError, match=r"its steps is 6, but 7 was asked for"):
        trained(stream_of, finished, steps=7, resume=True)


def test_a_checkpoint_of_other_data_or_another_system_is_refused(stream_of, tmp_path):
    with pytest.raises(ConnectionError):
        trained(stream_of, tmp_path, save_every=2, stream={"fails_at": 5})
    with pytest.raises(TrainingError, match="its data is small, but larger was asked for"):
        trained(stream_of, tmp_path, resume=True, stream={"dataset_id": "larger"})
    with pytest.raises(TrainingError, match="its system is rim_t1, but other was asked for"):
        trained(stream_of, tmp_path, resume=True, card=dataclasses.replace(CARD, name="other"))
    (tmp_path / RESUME).write_bytes(b"PK nothing")
    with pytest.raises(TrainingError, match=r"resume\.ckpt is damaged"):
        trained(stream_of, tmp_path, resume=True)


def test_a_checkpoint_holds_no_code(stream_of, tmp_path):
    with pytest.raises(ConnectionError):
        trained(stream_of, tmp_path, save_every=2, stream={"fails_at": 5})
    loaded = torch.load(tmp_path / RESUME, weights_only=True)
    assert loaded["training"]["batches"] == 4
    assert loaded["training"]["stream"] == {"epoch": 0, "position": 4}


def test_weights_of_another_system_are_refused(finished, stream_of, tmp_path):
    with pytest.raises(TrainingError, match=r"written by the system rim_t1, but rim_t2 was asked for"):
        evaluate(systems()["rim_t2"], finished / WEIGHTS, stream_of("rim_t2"))
    with pytest.raises(TrainingError, match="there is no weights file"):
        evaluate(CARD, tmp_path / "none.safetensors", stream_of("rim_t1"))
    (tmp_path / WEIGHTS).write_bytes((finished / WEIGHTS).read_bytes()[:1000])
    with pytest.raises(TrainingError, match="damaged or no safetensors file"):
        evaluate(CARD, tmp_path / WEIGHTS, stream_of("rim_t1"))


def test_data_without_a_variable_are_refused_before_the_first_step(stream_of, tmp_path):
    batches = [{k: v for k, v in batch.items() if k != "tissue"} for batch in stream_of("rim_t1")]
    with pytest.raises(TrainingError, match=r"tissue is missing.*keep"):
        fit(CARD, batches, out=tmp_path, steps=2, **OPTIONS)
    with pytest.raises(TrainingError, match="gave no batch"):
        fit(CARD, [], out=tmp_path, steps=2, **OPTIONS)


def test_an_infinite_loss_stops_the_run(stream_of, tmp_path):
    batches = [batch | {"t1": batch["t1"] * float("inf")} for batch in stream_of("rim_t1")]
    with pytest.raises(FloatingPointError, match=r"the loss of adam is .* at batch 1"):
        fit(CARD, batches, out=tmp_path, steps=2, **OPTIONS)


def test_training_leaves_the_callers_random_numbers_alone(stream_of, tmp_path):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    trained(stream_of, tmp_path, steps=1)
    assert torch.equal(torch.rand(3), expected)


def test_a_run_says_nothing_on_its_own(stream_of, tmp_path, capfd, caplog):
    trained(stream_of, tmp_path, steps=1)
    out, err = capfd.readouterr()
    assert (out, err, caplog.text) == ("", "", "")


class Adversary(Task):
    """Two scalars: the second loss must see the first one's step."""

    def __init__(self):
        super().__init__()
        self.critic, self.maker = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
        self.unused_noise = nn.Dropout(0.5)

    def optimizers(self, steps):
        critic, maker = SGD([self.critic], lr=1.0), SGD([self.maker], lr=1.0)
        return {"maker": (maker, None), "critic": (critic, ExponentialLR(critic, 0.5))}

    def updates(self, batch):
        yield (self.critic * batch["x"]).mean(), "critic"
        yield (self.maker * self.critic * self.unused_noise(batch["x"])).mean(), "maker"

    def predict(self, batch):
        return {"y": self.critic * batch["x"]}


def no_table(task, batches):
    return [{"name": "samples", "value": sum(len(batch["x"]) for batch in batches), "unit": "1"}]


def adversary_card(clip=None):
    stage = Stage("toy", ("x",), (), lambda shapes: Adversary(), batch=4, steps=3, clip=clip)
    later = dataclasses.replace(stage, start_from=0)
    return System("toy", "doi:10.0/0", (stage, later), "A claim that nobody made.", no_table)


X = [{"x": torch.tensor([[1.0], [2.0], [3.0], [6.0]])}]


def test_a_second_optimizer_sees_the_first_ones_step(tmp_path):
    fit(adversary_card(), X, out=tmp_path, steps=2, **OPTIONS)
    found = load_file(tmp_path / WEIGHTS)
    assert found["critic"].item() == -4.5  # along the mean, 3, and half as far in the second batch
    assert found["maker"].item() != 0
    assert {row["optimizer"] for row in read_curve(tmp_path)} == {"critic", "maker"}


def test_steps_count_batches_not_optimizer_steps(tmp_path):
    fit(adversary_card(), X, out=tmp_path, steps=3, log_every=1, **OPTIONS)
    assert [row["step"] for row in read_curve(tmp_path) if row["optimizer"] == "critic"] == [1, 2, 3]


def test_random_numbers_go_on_where_a_run_stopped(tmp_path):
    class Failing(list):
        def __iter__(self):
            yield from self * 3
            raise ConnectionError

    fit(adversary_card(), X, out=tmp_path / "whole", steps=5, **OPTIONS)
    with pytest.raises(ConnectionError):
        fit(adversary_card(), Failing(X), out=tmp_path / "cut", steps=5, save_every=3, **OPTIONS)
    fit(adversary_card(), X, out=tmp_path / "cut", steps=5, resume=True, **OPTIONS)
    assert same(tmp_path / "whole" / WEIGHTS, tmp_path / "cut" / WEIGHTS)


def test_the_gradient_is_clipped(tmp_path):
    fit(adversary_card(clip=0.5), X, out=tmp_path, steps=1, **OPTIONS)
    assert load_file(tmp_path / WEIGHTS)["critic"].item() == pytest.approx(-0.5)


def test_a_stage_starts_from_the_weights_of_an_earlier_one(tmp_path):
    card = adversary_card()
    first = fit(card, X, out=tmp_path / "first", steps=1, **OPTIONS)
    fit(card, X, out=tmp_path / "second", stage=1, start=first, steps=1, **OPTIONS)
    assert load_file(tmp_path / "second" / WEIGHTS)["critic"].item() == -6.0
    with pytest.raises(TrainingError, match="starts from the weights of stage 0; give them"):
        fit(card, X, out=tmp_path / "third", stage=1, steps=1, **OPTIONS)
    with pytest.raises(TrainingError, match="starts from scratch"):
        fit(card, X, out=tmp_path / "fourth", start=first, steps=1, **OPTIONS)


@pytest.mark.parametrize("micro_batch", [1, 4, 6])
def test_micro_batches_add_up_to_the_step_of_the_whole_batch(micro_batch, stream_of):
    batch = next(iter(stream_of("rim_t1")))
    torch.manual_seed(0)
    task = CARD.stages[0].task({})
    module = Training(task, 1, coordinates=["inversion_time"], micro_batch=micro_batch)
    loss, _ = next(iter(task.updates(batch)))
    loss.backward()
    whole = [p.grad.clone() for p in task.parameters()]
    task.zero_grad()
    pieces, shares = module._pieces(batch)
    assert len(pieces) == -(-6 // micro_batch)
    for piece, share in zip(pieces, shares, strict=True):
        loss, _ = next(iter(task.updates(piece)))
        (loss * share).backward()
    for p, expected in zip(task.parameters(), whole, strict=True):
        torch.testing.assert_close(p.grad, expected, rtol=1e-3, atol=1e-5)


def test_micro_batches_train_both_optimizers(tmp_path):
    fit(adversary_card(), stream_with_coordinates(), out=tmp_path, steps=2, micro_batch=3, **OPTIONS)
    assert load_file(tmp_path / WEIGHTS)["critic"].item() == pytest.approx(-4.5)


def stream_with_coordinates():
    return [X[0] | {"time": torch.zeros(7)}]


def test_an_unclear_coordinate_is_refused_for_micro_batches(tmp_path):
    with pytest.raises(TrainingError, match="time may be a value for each of the 4 samples"):
        fit(adversary_card(), [X[0] | {"time": torch.zeros(4)}], out=tmp_path, steps=2, micro_batch=2, **OPTIONS)
