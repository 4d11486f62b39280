"""DRONE and its opponent, dictionary matching.  Budget: 20 s."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from factory.floor import make
from factory.recipe import load
from factory.stream import Stream
from models.cards import systems
from models.classical.dictionary import entries, grid, match
from models.drone import EPI, SNR, Drone, dictionary, scaled
from models.training import evaluate, fit


@pytest.fixture(scope="module")
def recipe() -> Any:
    return load("drone_epi", samples={"train": 6000, "validation": 10, "test": 300})


def test_the_recipe_draws_what_it_says(recipe: Any) -> None:
    data = make(recipe, "train", 0, 6000)
    assert (data.t2 <= data.t1).all()
    assert float(data.t2.min()) >= 0.02
    assert float(data.t1.max()) <= 3
    noise = (data.signal - data.clean).values
    ratio = np.linalg.norm(data.clean.values, axis=1) / (data.snr.values * np.sqrt(25))
    np.testing.assert_allclose(np.mean((noise / ratio[:, None]) ** 2), 1, rtol=0.02)
    assert abs(20 * np.log10(float(data.snr[0])) - 26) < 1e-3


def test_entries_are_the_recipes_own_fingerprints(recipe: Any) -> None:
    data = make(recipe, "train", 0, 20)
    found = entries(recipe, "clean", {name: data[name].values.astype(float) for name in EPI})
    np.testing.assert_allclose(found, data.clean, atol=2e-6)
    with pytest.raises(ValueError, match="makes no 'signal' of draws alone"):
        entries(recipe, "signal", {"t1": np.ones(1)})


@pytest.mark.parametrize("rank", [None, 8])
@pytest.mark.parametrize("turn", [1.0, 1j])
def test_an_entry_is_matched_to_itself(recipe: Any, rank: int | None, turn: complex) -> None:
    values = grid(t1=np.linspace(0.5, 3, 9), t2=np.geomspace(0.02, 0.4, 9))
    dictionary = entries(recipe, "clean", values).astype(float)
    order = np.random.default_rng(0).permutation(81)
    factors = np.linspace(-3, 7.3, 81)[order] * turn
    entry, factor = match(factors[:, None] * dictionary[order], dictionary, rank)
    assert np.array_equal(entry, order)
    np.testing.assert_allclose(factor, factors, rtol=1e-2 if rank else 1e-9)


def test_targets_and_estimates_are_inverse() -> None:
    task = Drone(25)
    with torch.no_grad():
        for layer in task.net:
            if isinstance(layer, torch.nn.Linear):
                layer.weight.zero_()
                layer.bias.zero_()
    found = task.predict({"signal": torch.ones(3, 25)})
    for name, (low, high) in EPI.items():
        assert torch.allclose(found[name], torch.tensor((low * high) ** 0.5))
        assert torch.allclose(scaled(found[name], low, high), torch.tensor(0.5))
    assert sum(p.numel() for p in task.parameters()) == 98_702  # as counted for 25 frames


def test_the_scale_of_a_fingerprint_says_nothing() -> None:
    task, signal = Drone(25), torch.randn(4, 25)
    one, two = task.predict({"signal": signal}), task.predict({"signal": 50 * signal})
    assert all(torch.allclose(one[name], two[name], rtol=1e-4) for name in EPI)


def test_noise_is_fresh_and_as_loud_as_it_says() -> None:
    seen = []
    task = Drone(25)
    task.net.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    batch = {"clean": torch.eye(25).repeat(40, 1), "t1": torch.ones(1000), "t2": torch.full((1000,), 0.1)}
    for _ in range(2):
        list(task.updates(batch))
    assert not torch.equal(*seen)
    assert abs(float((seen[0] - batch["clean"]).std()) - 1 / (SNR * 5)) < 5e-4


def test_it_learns(recipe: Any, tmp_path: Any) -> None:
    """In a few seconds it is far better than a constant; the paper's bars are for `make bench`."""
    card = systems()["drone"]
    weights = fit(card, Stream(recipe, "train", batch=500, seed=1), out=tmp_path, steps=300, progress=False)
    rows = evaluate(card, weights, Stream(recipe, "test", batch=100, shuffle=False, tail="pad"))
    found = {(row["quantity"], row["method"]): row["value"] for row in rows}
    for name, most in (("t1", 30), ("t2", 30)):
        assert found[name, "DRONE"] < most < found[name, "constant"]
        assert found[name, "matching, 3491 entries"] < found[name, "matching, 187 entries"]


def test_a_dictionary_of_fisp_fingerprints_has_an_axis_of_b1() -> None:
    values, atoms = dictionary("drone_fisp", 0.1, 4, 3)
    assert sorted(set(values["b1"].tolist())) == [0.8, 1.0, 1.2]
    assert (values["t2"] < values["t1"]).all()
    assert atoms.shape == (len(values["t1"]), 600)
    one = {name: axis[7:8] for name, axis in values.items()}
    assert np.array_equal(entries(load("drone_fisp"), "clean", one)[0], atoms[7])
    assert systems()["drone_fisp"].stages[0].learns == ("clean", "t1", "t2", "b1")
