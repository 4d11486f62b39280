"""Free induction decays against NumPy's own exponentials and a Lorentzian line.

Budget: 5 s on two cores.
"""

import numpy as np
import pytest

from factory.physics import spectra


def drawn(count, peaks=10, seed=1):
    rng = np.random.default_rng(seed)
    shape = (count, peaks)
    return {"amplitude": rng.uniform(0.05, 1, shape), "frequency": rng.uniform(-990, 990, shape),
            "decay_time": rng.uniform(0.01, 0.2, shape), "phase": rng.uniform(0, 2 * np.pi, shape),
            "peaks": rng.integers(0, peaks + 1, count)}


def made(values, dwell=1e-3, n_point=256):
    return spectra.fid(*values.values(), dwell=dwell, n_point=n_point).signal


@pytest.mark.parametrize("n_point", [1, 2, 3, 100, 256, 1000])
def test_decays_are_sums_of_exponentials(n_point):
    values = drawn(40)
    t = 1e-3 * np.arange(n_point)
    a, f, tau, phi = (values[name][..., None] for name in ("amplitude", "frequency", "decay_time", "phase"))
    each = a * np.exp(1j * phi - t / tau - 2j * np.pi * f * t)
    there = np.arange(10)[None, :, None] < values["peaks"][:, None, None]
    right, size = (each * there).sum(axis=1), (values["amplitude"] * there[..., 0]).sum(axis=1)
    assert (np.abs(made(values, n_point=n_point) - right).max(axis=1) <= 3e-7 * size).all()


def test_one_line_is_lorentzian_and_lies_at_minus_f():
    """The house turns by exp(-i 2 pi f t); the width at half height is 1 / (pi T2*)."""
    one = {"amplitude": [[1.0]], "frequency": [[125.0]], "decay_time": [[0.05]], "phase": [[0.0]], "peaks": [1]}
    signal = made({name: np.array(value) for name, value in one.items()}, dwell=5e-4, n_point=4096)[0]
    signal[0] /= 2
    spectrum, f = np.fft.fft(signal, 2**16).real, np.fft.fftfreq(2**16, 5e-4)
    assert f[spectrum.argmax()] == pytest.approx(-125.0, abs=0.02)
    wide = f[spectrum > spectrum.max() / 2]
    assert np.ptp(wide) == pytest.approx(1 / (np.pi * 0.05), rel=0.01)


def test_a_decay_does_not_depend_on_its_neighbours_or_on_how_long_it_is():
    values = drawn(2 * spectra.GROUP + 3)
    whole = made(values)
    for i in range(len(whole)):
        assert np.array_equal(made({name: value[i : i + 1] for name, value in values.items()})[0], whole[i])
    for n_point in (1, 7, 8, 9, 250):
        assert np.array_equal(made(values, n_point=n_point), whole[:, :n_point])


def test_a_decay_time_of_zero_leaves_the_first_point():
    values = drawn(1) | {"decay_time": np.zeros((1, 10)), "peaks": np.array([3])}
    signal = made(values)[0]
    assert signal[0] == pytest.approx((values["amplitude"] * np.exp(1j * values["phase"]))[0, :3].sum(), abs=1e-6)
    assert not signal[1:].any()
