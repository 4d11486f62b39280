"""Moments, limits and independence of the noise steps.

Budget: 5 s on two cores.
"""

import numpy as np
import pytest
from scipy.special import ive
from scipy.stats import kstest, rice

from factory.draws import Draws
from factory.physics import noise

MANY = Draws(7, "train", 0, 20_000, "link/measured")


def flat(level, n=20_000):
    return np.full((n, 4), level), np.full(n, 0.25)


def test_gaussian_moments():
    x = noise.gaussian(*flat(-0.4), MANY).measured.astype(float)
    assert x.shape == (20_000, 4)
    assert abs(x.mean() + 0.4) < 4 * 0.25 / np.sqrt(x.size)
    assert abs(x.std() / 0.25 - 1) < 4 / np.sqrt(2 * x.size)
    assert kstest(x.ravel(), "norm", (-0.4, 0.25)).pvalue > 1e-3
    between = np.corrcoef(x.T) - np.eye(4)
    assert np.abs(between).max() < 5 / np.sqrt(len(x))


@pytest.mark.parametrize("level", [0.0, 0.2, 1.5, -1.5])
def test_rician_moments(level):
    """Gudbjartsson 1995: Rayleigh at 0, mean square S**2 + 2 sigma**2 at every level, mean by Bessel functions."""
    x = noise.rician(*flat(level), MANY).measured.astype(float)
    sigma = 0.25
    assert x.min() >= 0
    assert np.mean(x**2) == pytest.approx(level**2 + 2 * sigma**2, abs=4 * np.std(x**2) / np.sqrt(x.size))
    z = level**2 / (4 * sigma**2)
    mean = sigma * np.sqrt(np.pi / 2) * ((1 + 2 * z) * ive(0, z) + 2 * z * ive(1, z))
    assert x.mean() == pytest.approx(mean, abs=4 * x.std() / np.sqrt(x.size))
    if level == 0:
        assert mean == pytest.approx(sigma * np.sqrt(np.pi / 2))
    assert kstest(x.ravel(), rice(abs(level) / sigma, scale=sigma).cdf).pvalue > 1e-3


def test_complex_moments():
    level, sigma = 0.3 - 0.4j, 0.25
    x = noise.complex_gaussian(*flat(np.complex64(level)), MANY).measured
    assert x.dtype == np.complex64
    away = (x.astype(complex) - level) / sigma
    assert kstest(away.real.ravel(), "norm").pvalue > 1e-3
    assert kstest(away.imag.ravel(), "norm").pvalue > 1e-3
    assert abs(np.mean(away.real * away.imag)) < 5 / np.sqrt(away.size)
    assert np.mean(np.abs(x) ** 2) == pytest.approx(abs(level) ** 2 + 2 * sigma**2, rel=0.02)


def test_a_real_signal_gets_noise_in_both_channels():
    few, signal = Draws(1, "train", 0, 6), np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    real = noise.complex_gaussian(signal, np.full(6, 0.1), few).measured
    assert real.dtype == np.complex64
    assert np.abs(real.imag).min() > 0
    same = noise.complex_gaussian(signal.astype(np.complex64), np.full(6, 0.1), few).measured
    np.testing.assert_array_equal(real, same)


def test_no_noise_is_the_signal():
    signal = np.random.default_rng(0).normal(size=(6, 3, 2)).astype(np.float32)
    few = Draws(1, "train", 0, 6)
    np.testing.assert_array_equal(noise.gaussian(signal, np.zeros(6), few).measured, signal)
    np.testing.assert_array_equal(noise.rician(signal, np.zeros(6), few).measured, np.abs(signal))
    turned = (signal * np.complex64(1 - 2j)).astype(np.complex64)
    np.testing.assert_array_equal(noise.complex_gaussian(turned, np.zeros(6), few).measured, turned)


@pytest.mark.parametrize("step", [noise.gaussian, noise.rician, noise.complex_gaussian])
def test_cuts_pieces_and_outer_levels_give_the_same_bytes(step, monkeypatch):
    signal = np.random.default_rng(0).normal(size=(9, 5, 3)).astype(np.float32)
    signal = signal * np.complex64(1j) if step is noise.complex_gaussian else signal
    sigma = np.linspace(0.1, 0.9, 9)
    signal.flags.writeable = sigma.flags.writeable = False
    whole = step(signal, sigma, Draws(3, "train", 10, 19, "x")).measured
    assert (whole.shape, whole.dtype) == (signal.shape, signal.dtype)
    cut = [step(signal[a:b], sigma[a:b], Draws(3, "train", 10 + a, 10 + b, "x")).measured for a, b in ((0, 4), (4, 9))]
    np.testing.assert_array_equal(np.concatenate(cut), whole)
    outer = np.broadcast_to(signal[2], signal.shape)
    shared = step(outer, sigma, Draws(3, "train", 10, 19, "x")).measured
    np.testing.assert_array_equal(shared, step(outer.copy(), sigma, Draws(3, "train", 10, 19, "x")).measured)
    monkeypatch.setattr(noise, "_PIECE", 31)  # two samples at a time
    np.testing.assert_array_equal(step(signal, sigma, Draws(3, "train", 10, 19, "x")).measured, whole)
    np.testing.assert_array_equal(step(outer, sigma, Draws(3, "train", 10, 19, "x")).measured, shared)


def test_noise_is_fresh_in_every_sample_split_and_link():
    signal, sigma = np.zeros((2, 50)), np.ones(2)
    one = noise.gaussian(signal, sigma, Draws(3, "train", 0, 2, "a")).measured
    others = [Draws(3, "train", 0, 2, "b"), Draws(3, "test", 0, 2, "a"), Draws(4, "train", 0, 2, "a")]
    fields = [one[0], one[1], *(noise.gaussian(signal, sigma, d).measured[0] for d in others)]
    assert len({f.tobytes() for f in fields}) == 5


def test_sigma_from_snr():
    got = noise.sigma_from_snr(np.array([0.75, 2.0, -3.0], np.float32), np.array([10.0, 1.0, 4.0])).sigma
    np.testing.assert_allclose(got, [0.075, 2.0, 0.75])
    assert got.dtype == np.float64
    with pytest.raises(ValueError, match=r"snr must be > 0, but one sample has -2"):
        noise.sigma_from_snr(np.ones(3), np.array([5.0, -2.0, 1.0]))
    with pytest.raises(ValueError, match="> 0"):
        noise.sigma_from_snr(np.ones(1), np.zeros(1))


def test_first_echo():
    signal = np.arange(6, dtype=np.float32).reshape(2, 3)
    got = noise.first_echo(signal).reference
    np.testing.assert_array_equal(got, [0, 3])
    assert got.dtype == np.float64
    assert not np.shares_memory(got, signal)
