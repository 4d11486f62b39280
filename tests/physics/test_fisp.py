"""FISP fingerprints against a dense extended phase graph, isochromats and closed-form limits.

Budget: 10 s on two cores.
"""

import numpy as np
import pytest

from factory.numerics import kernel
from factory.numerics32 import exp32, sincos32
from factory.physics import epg

FLIPS = tuple(np.deg2rad(5 + 65 * np.sin(np.linspace(0, 3 * np.pi, 120)) ** 2))
TIMES = tuple(np.random.default_rng(1).uniform(0.012, 0.015, 120))
CONSTANTS = {"flip_angle": FLIPS, "repetition_time": TIMES, "echo_time": 0.003, "inversion_time": 0.02}


def fingerprints(t1, t2, b1=1.0, inversion=1.0, **constants):
    columns = np.broadcast_arrays(*(np.atleast_1d(np.asarray(x, float)) for x in (t1, t2, b1, inversion)))
    return epg.fisp(*(c.copy() for c in columns), **(CONSTANTS | constants)).signal


def dense(t1, t2, b1, inversion, flip_angle, repetition_time, echo_time, inversion_time):
    """Textbook graph: complex states of every order, one shift a repetition."""
    size = len(flip_angle) + 2
    plus, minus, z = np.zeros(size, complex), np.zeros(size, complex), np.zeros(size, complex)
    z[0] = 1 - (1 + inversion) * np.exp(-inversion_time / t1)
    found = []
    for angle, tr in zip(np.array(flip_angle) * b1, repetition_time, strict=True):
        c2, s2, s, c = np.cos(angle / 2) ** 2, np.sin(angle / 2) ** 2, np.sin(angle), np.cos(angle)
        plus, minus, z = (c2 * plus + s2 * minus + 1j * s * z, s2 * plus + c2 * minus - 1j * s * z,
                          0.5j * s * (plus - minus) + c * z)  # fmt: skip
        found.append(plus[0] * np.exp(-echo_time / t2))
        e1, e2 = np.exp(-tr / t1), np.exp(-tr / t2)
        plus, minus, z = plus * e2, minus * e2, z * e1
        z[0] += 1 - e1
        plus, minus = np.roll(plus, 1), np.append(minus[1:], 0)
        plus[0] = np.conj(minus[0])
    return np.array(found)


def isochromats(t1, t2, b1, inversion, flip_angle, repetition_time, echo_time, inversion_time, n=2048):
    """Bloch vectors whose phases are spread evenly over one turn by the gradient behind every echo."""
    phi = 2 * np.pi * np.arange(n) / n
    xy, z = np.zeros(n, complex), np.full(n, 1 - (1 + inversion) * np.exp(-inversion_time / t1))
    found = []
    for angle, tr in zip(np.array(flip_angle) * b1, repetition_time, strict=True):
        y = xy.imag * np.cos(angle) + z * np.sin(angle)  # phase 0 takes +z to +y
        z = z * np.cos(angle) - xy.imag * np.sin(angle)
        xy = (xy.real + 1j * y) * np.exp(-echo_time / t2)
        found.append(xy.mean())
        xy = xy * np.exp(-(tr - echo_time) / t2) * np.exp(-1j * phi)
        z = 1 + (z - 1) * np.exp(-tr / t1)
    return np.array(found)


@pytest.mark.parametrize("twin", [dense, isochromats])
@pytest.mark.parametrize(("t1", "t2", "b1", "inversion"),
                         [(0.8, 0.06, 1, 1), (3.0, 0.3, 0.8, 0.96), (0.3, 0.02, 1.2, -1)])
def test_fingerprints_are_those_of_a_twin(twin, t1, t2, b1, inversion):
    wanted = twin(t1, t2, b1, inversion, **CONSTANTS)
    found = fingerprints(t1, t2, b1, inversion, error=1e-9)
    assert np.abs(wanted.real).max() < 1e-12
    np.testing.assert_allclose(found[0], wanted.imag, atol=2e-6)


def test_the_error_stays_below_its_bound():
    """Over tissues up to T2 = 0.95 T1; and the bound leaves orders out: it does not hold because nothing is lost."""
    rng = np.random.default_rng(3)
    t1 = rng.uniform(0.3, 3, 200)
    t2, b1 = np.minimum(0.02 * 25 ** rng.uniform(0, 1, 200), 0.95 * t1), rng.uniform(0.5, 1.5, 200)
    train = {"flip_angle": FLIPS * 3, "repetition_time": TIMES * 3}
    whole = fingerprints(t1, t2, b1, error=1e-300, **train)
    for error in (1e-1, 1e-2, 1e-3, 1e-4):
        lost = np.abs(fingerprints(t1, t2, b1, error=error, **train) - whole).max()
        assert 0 < lost < error


def test_one_pulse_is_what_it_says():
    found = fingerprints(1.0, 0.05, flip_angle=(np.pi / 2,), repetition_time=(0.02,), echo_time=0.01, inversion=-1)
    np.testing.assert_allclose(found, np.exp(-0.2), rtol=1e-6)
    inverted = fingerprints(1.0, 0.05, flip_angle=(np.pi / 2,), repetition_time=(0.02,), echo_time=0.01)
    np.testing.assert_allclose(inverted, (1 - 2 * np.exp(-0.02)) * np.exp(-0.2), rtol=1e-6)


def test_a_spoiled_train_ends_at_the_ernst_amplitude():
    """With T2 far below the repetition time nothing transverse is left to refocus."""
    angle, tr, t1 = 0.3, 0.02, 0.7
    found = fingerprints(t1, 1e-3, flip_angle=(angle,) * 500, repetition_time=(tr,) * 500, echo_time=0.0)
    e1 = np.exp(-tr / t1)
    np.testing.assert_allclose(found[0, -1], np.sin(angle) * (1 - e1) / (1 - e1 * np.cos(angle)), rtol=1e-5)


def test_no_sample_sees_its_neighbours():
    rng = np.random.default_rng(0)
    t1, t2, b1 = rng.uniform(0.2, 3, 150), rng.uniform(0.02, 0.3, 150), rng.uniform(0.8, 1.2, 150)
    whole = fingerprints(t1, t2, b1)
    for part in (slice(0, 1), slice(63, 66), slice(7, 150)):
        assert np.array_equal(fingerprints(t1[part], t2[part], b1[part]), whole[part])


def test_no_relaxation_time_is_no_signal():
    assert np.abs(fingerprints(1.0, 0.0)).max() < 1e-30
    np.testing.assert_allclose(fingerprints(0.0, 0.05)[0, 0], np.sin(FLIPS[0]) * np.exp(-0.06), rtol=1e-5)


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="there are 120 flip angles and 2 repetition times"):
        fingerprints(1, 0.1, repetition_time=(0.01, 0.01))
    with pytest.raises(ValueError, match=r"echo time of 0.5 s is longer than the shortest"):
        fingerprints(1, 0.1, echo_time=0.5)


def test_float32_functions_are_right_to_float32():
    @kernel
    def all_of(x, e, s, c):
        for i in range(x.size):
            e[i] = exp32(-np.abs(x[i]))
            s[i], c[i] = sincos32(x[i])

    x = np.concatenate([np.linspace(-90, 90, 200_001), np.linspace(-1, 1, 20_001), [0.0]]).astype(np.float32)
    e, s, c = (np.empty_like(x) for _ in range(3))
    all_of(x, e, s, c)
    exact = np.exp(-np.abs(x.astype(float)))
    inside = np.abs(x) < 86.9
    assert (np.abs(e - exact)[inside] <= 1.2e-7 * exact[inside]).all()
    assert (e > 0).all()
    assert np.abs(s - np.sin(x.astype(float))).max() < 1e-7
    assert np.abs(c - np.cos(x.astype(float))).max() < 1e-7
