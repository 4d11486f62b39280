"""The recurrent inference machine: size, start, invariances, and a table that its controls cannot pass.

Budget: 5 s on two cores.
"""

from __future__ import annotations

import pytest
import torch

from models.cards import systems
from models.rim import SHORTEST, T1, T2, errors_of, evaluate

CARD = systems()["rim_t1"]


def first(stream_of, recipe="rim_t1", **options):
    return next(iter(stream_of(recipe, **options)))


@pytest.mark.parametrize(("network", "count"), [(T1, 41_475), (T2, 40_790)])
def test_it_has_as_many_parameters_as_the_paper_but_for_the_second_step(network, count):
    task = network()
    second = len(task.maps) * 36 * 3 * 3
    assert sum(p.numel() for p in task.parameters()) == count + second


def test_it_takes_any_number_of_inversion_times(stream_of):
    task = T1()
    for n in (3, 31):
        batch = first(stream_of, time=torch.linspace(0.1, 0.9, n))
        assert task.predict(batch)["t1"].shape == batch["t1"].shape


def test_the_search_starts_where_the_paper_says():
    signal = torch.tensor([0.2, -0.7, 0.5]).view(1, 3, 1, 1)
    assert T1().begin(signal).flatten().tolist() == pytest.approx([0.5, 2, 1])
    assert T2().begin(signal).flatten().tolist() == pytest.approx([0.5, 0.1])


@pytest.mark.parametrize("sigma", [0.0, 1e-4, 0.3])
def test_the_hint_stays_of_order_one_at_any_noise(sigma, stream_of):
    batch = first(stream_of)
    task = T1()
    signal = batch["signal"] + sigma * torch.randn(batch["signal"].shape, generator=torch.Generator().manual_seed(0))
    batch = batch | {"signal": signal}
    hint = task.hint(batch, task.begin(signal))
    assert torch.isfinite(hint).all()
    assert 0.01 < hint.square().mean().sqrt() < 10
    assert not hint.requires_grad


def test_the_hint_does_not_grow_with_the_number_of_images(stream_of):
    once, task = first(stream_of), T1()
    twice = once | {"signal": once["signal"].repeat(1, 2, 1, 1), "inversion_time": once["inversion_time"].repeat(2)}
    maps = task.begin(once["signal"])
    torch.testing.assert_close(task.hint(once, maps), task.hint(twice, maps), rtol=1e-3, atol=2e-4)


def test_estimates_are_never_negative_and_relaxation_never_below_its_floor(stream_of):
    task = T1()
    with torch.no_grad():
        task.cell.last.bias.copy_(torch.tensor([-3.0, -5.0, -1.003]))
    estimates = task.predict(first(stream_of))
    assert min(value.min().item() for value in estimates.values()) >= 0
    assert estimates["t1"].min().item() >= SHORTEST


def test_air_does_not_count(stream_of):
    batch, task = first(stream_of), T1()
    air = batch["tissue"] == 0
    assert air.any()
    elsewhere = batch | {name: torch.where(air, 99.0, batch[name]) for name in ("t1", "amplitude")}
    assert [loss.item() for loss, _ in task.updates(batch)] == [loss.item() for loss, _ in task.updates(elsewhere)]


def test_a_few_voxels_without_relaxation_do_not_make_the_relative_error():
    truth = torch.ones(100, dtype=torch.float64)
    truth[0] = 1e-6
    values = {row["name"]: row["value"] for row in errors_of(truth + 0.1, truth)}
    assert values["rmse"] == pytest.approx(100)
    assert values["relative rmse"] == pytest.approx(10.1, abs=0.01)
    assert values["median error"] == pytest.approx(10)
    assert values["slope"] == pytest.approx(1)


class Oracle(T1):
    """Answers with the truth, or with a constant."""

    constant: float | None = None

    def predict(self, batch):
        return {"t1": batch["t1"] if self.constant is None else torch.full_like(batch["t1"], self.constant)}


def table(task, stream_of):
    rows = evaluate(task, stream_of("rim_t1"))
    return {(row["method"], row["tissue"], row["name"]): row["value"] for row in rows}, rows


def test_the_table_of_a_perfect_answer(stream_of):
    values, rows = table(Oracle(), stream_of)
    for tissue in ("grey_matter", "white_matter"):
        assert values["RIM", tissue, "rmse"] == 0
        assert values["RIM", tissue, "slope"] == pytest.approx(1)
        assert values["RIM", tissue, "median bias"] == 0
        assert values["tissue-mean map", tissue, "slope"] == pytest.approx(0, abs=1e-9)
        assert 0 < values["tissue-mean map", tissue, "rmse"] <= values["constant map", tissue, "rmse"]
    assert {row["unit"] for row in rows} == {"ms", "%", "1"}


def test_the_table_of_a_constant_is_that_of_its_control(stream_of):
    task = Oracle()
    inside = torch.cat([batch["t1"][batch["tissue"] > 0] for batch in stream_of("rim_t1")])
    task.constant = inside.double().quantile(0.5).item()
    values, _ = table(task, stream_of)
    for key in ("rmse", "relative rmse", "median error", "median bias"):
        own, control = (values[method, "grey_matter", key] for method in ("RIM", "constant map"))
        assert own == pytest.approx(control, rel=1e-5)
    assert values["RIM", "grey_matter", "slope"] == pytest.approx(0, abs=1e-6)
