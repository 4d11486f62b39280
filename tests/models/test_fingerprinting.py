"""Cramér-Rao bounds against closed forms, fits of noisy data and the figures of a schedule's design.  Budget: 10 s."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from factory.recipe import load
from models.classical.dictionary import entries
from models.classical.fingerprinting import bounds

N, STEP, T = 600, 0.01, np.array([0.05, 0.1, 0.2])
TIME = STEP * np.arange(N)


def decays(values: Any) -> np.ndarray:
    return 3.0 * np.exp(-TIME / values["t"][:, None])


def spirals(values: Any) -> np.ndarray:
    turn = np.exp(-2j * np.pi * values["f"][:, None] * TIME)
    return (1 + 2j) * decays(values) * turn


def test_a_decay_has_the_bound_of_the_closed_form() -> None:
    q = np.exp(-2 * STEP / T)
    found = bounds(decays, {"t": T}, {"t": 1e-4 * T}, 26.0)["t"]
    np.testing.assert_allclose(found / T, T / STEP * (1 - q) / np.sqrt(q * N) / 10**1.3, rtol=1e-5)


def test_frequency_and_decay_of_a_complex_signal_do_not_disturb_each_other() -> None:
    """Both see the spread of time about its centre, weighted with the signal's square; the phase takes the centre."""
    q = np.exp(-2 * STEP / T)
    spread = STEP * np.sqrt(q) / (1 - q)
    values = {"t": T, "f": np.array([0.0, 3.0, -2.0])}
    found = bounds(spirals, values, {"t": 1e-4 * T, "f": 1e-3}, 20.0)
    ratio = 10 * np.sqrt(2 * N)  # of the norm to the noise of one channel
    np.testing.assert_allclose(found["f"], 1 / (2 * np.pi * spread * ratio), rtol=1e-4)
    np.testing.assert_allclose(found["t"], T**2 / (spread * ratio), rtol=1e-4)


def test_fits_of_noisy_decays_reach_the_bound() -> None:
    rng, few = np.random.default_rng(0), TIME[:40]
    found = bounds(lambda v: np.exp(-few / v["t"][:, None]), {"t": T[1:2]}, {"t": 1e-3 * T[1:2]}, 40.0)["t"]
    clean = np.exp(-few / T[1])
    noisy = clean + rng.normal(size=(4000, 40)) * np.linalg.norm(clean) / (np.sqrt(40) * 100)
    a, t = np.ones(4000), np.full(4000, T[1])
    for _ in range(5):  # Gauss and Newton
        decay = np.exp(-few / t[:, None])
        slopes = np.stack([decay, a[:, None] * decay * few / t[:, None] ** 2], axis=2)
        moved = np.stack([np.linalg.lstsq(one, rest, rcond=None)[0]
                          for one, rest in zip(slopes, noisy - a[:, None] * decay, strict=True)])  # fmt: skip
        a, t = a + moved[:, 0], t + moved[:, 1]
    np.testing.assert_allclose(t.std(), found[0], rtol=0.04)


def test_what_cannot_be_told_apart_has_no_bound() -> None:
    values = {"t": T, "gain": np.ones(3)}
    found = bounds(lambda v: v["gain"][:, None] * decays(v), values, {"t": 1e-4 * T, "gain": 1e-3}, 26.0)
    assert (found["gain"] > 1e6).all()
    with pytest.raises(ValueError, match="3 unknowns with the scale, but a fingerprint has 2 numbers"):
        bounds(lambda v: decays(v)[:, :2] * v["gain"][:, None], values, {"t": 1e-4, "gain": 1e-3}, 26.0)


def test_the_schedule_of_drone_is_as_good_as_it_was_designed() -> None:
    """With noise of 0.5 % of the norm in every frame: T1 to 0.4 to 1 %, T2 to 1.3 to 2.2 %, over six tissues."""
    recipe = load("drone_epi")
    values = {"t1": np.array([0.4, 0.8, 0.9, 1.2, 1.5, 2.0]), "t2": np.array([0.06, 0.07, 0.08, 0.09, 0.1, 0.15])}
    steps = {name: 0.01 * axis for name, axis in values.items()}
    found = bounds(lambda v: entries(recipe, "clean", v), values, steps, -20 * np.log10(0.005 * 5))
    t1, t2 = (100 * found[name] / values[name] for name in ("t1", "t2"))
    print(f"T1 {t1.min():.2f} to {t1.max():.2f} %, T2 {t2.min():.2f} to {t2.max():.2f} %")
    assert t1.min() > 0.3
    assert t1.max() < 1.1
    assert t2.min() > 1.2
    assert t2.max() < 2.3
