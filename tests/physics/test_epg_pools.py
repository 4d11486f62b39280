"""Two pools that exchange: isochromats by matrix exponentials, and the limits in which they are single pools.

Budget: 20 s on two cores.
"""

import numpy as np
import pytest
from scipy.linalg import expm

from factory.physics import epg

ANGLES = tuple(np.deg2rad(10 + 30 * np.sin(np.linspace(0, 4, 40)) ** 2))
SPOIL = np.deg2rad(117.0)
TRAIN = {"flip_angle": ANGLES, "repetition_time": 0.008, "echo_time": 0.002, "phase_increment": SPOIL, "error": 1e-7}
PULSE = {"pulse_duration": 4e-4, "absorption": 1.51e-5}


def left_over(angle):
    """What a pulse leaves of the bound pool."""
    return np.exp(-np.pi * 1.51e-5 / 4e-4 * angle**2)


def column(*values):
    return [np.atleast_1d(np.asarray(v, float)) for v in np.broadcast_arrays(*values)]


def turn(angle, phase):
    """A left-handed turn about an axis in the plane: dM/dt = gamma M x B."""
    x, y = np.cos(phase), np.sin(phase)
    cross = np.array([[0, 0, y], [0, 0, -x], [-y, x, 0]])
    return expm(-angle * cross)


def mcconnell(t1, t2, shift, k, part, time):
    """exp of the Bloch-McConnell equations of both pools and 1: x, y, z, x, y, z, 1."""
    a = np.zeros((7, 7))
    for pool, m0 in enumerate((1 - part, part)):
        i, w = 3 * pool, 2 * np.pi * shift[pool]
        a[i : i + 3, i : i + 3] = [[-1 / t2[pool], w, 0], [-w, -1 / t2[pool], 0], [0, 0, -1 / t1[pool]]]
        a[i + 2, 6] = m0 / t1[pool]
    back = k * (1 - part) / part
    for i in range(3):
        a[i, i] -= k
        a[i + 3, i + 3] -= back
        a[i, i + 3] += back
        a[i + 3, i] += k
    return expm(a * time)


def isochromats(t1, t2, shift, k, part, b1, mz=(1.0, 1.0), wait=0.0, n=512):
    """Pairs of Bloch vectors that a gradient spreads over one turn, from Mz / M0 of each and a time without pulses."""
    spread = np.exp(-2j * np.pi * np.arange(n) / n)
    m = np.zeros((7, n))
    m[2], m[5], m[6] = mz[0] * (1 - part), mz[1] * part, 1
    m = mcconnell(t1, t2, shift, k, part, wait) @ m
    until, rest = (mcconnell(t1, t2, shift, k, part, t) for t in (0.002, 0.006))
    found = []
    for i, angle in enumerate(ANGLES):
        phase = SPOIL * i * (i - 1) / 2
        m[:3], m[3:6] = turn(angle * b1, phase) @ m[:3], turn(angle * b1, phase) @ m[3:6]
        m = until @ m
        found.append((m[0] + m[3] + 1j * (m[1] + m[4])).mean() * np.exp(-1j * phase) / 1j)
        m = rest @ m
        for j in (0, 3):
            xy = (m[j] + 1j * m[j + 1]) * spread
            m[j], m[j + 1] = xy.real, xy.imag
    return np.array(found)


@pytest.mark.parametrize(("t1", "t2", "shift", "k", "part", "b1"), [
    ((1.0, 0.4), (0.08, 0.02), 10.0, 5.0, 0.2, 1.0), ((0.8, 0.8), (0.06, 0.06), -80.0, 60.0, 0.4, 0.8),
    ((2.0, 0.3), (0.3, 0.01), 35.0, 0.5, 0.05, 1.2)])  # fmt: skip
def test_exchange_is_what_isochromats_do(t1, t2, shift, k, part, b1):
    found = epg.exchange(*column(t1[0], t2[0], b1, 1.0, t1[1], t2[1], 1.0, shift, k, part), **TRAIN)
    wanted = isochromats(t1, t2, (0.0, shift), k, part, b1)
    np.testing.assert_allclose(found.signal[0], wanted, atol=2e-6)
    np.testing.assert_allclose(found.magnitude[0], np.abs(wanted), atol=2e-6)


INVERTED = (-0.95, -0.6)  # right behind the pulse


@pytest.mark.parametrize("wait", [0.0, 0.004, 0.3])
def test_trains_behind_an_inversion_are_what_isochromats_do(wait):
    t1, t2, k, part, b1 = (1.0, 0.6), (0.08, 0.02), 8.0, 0.2, 0.9
    prepared = epg.two_pool_inversion(*column(*t1, k, part, *(-x for x in INVERTED)), inversion_time=wait)
    mz, other = prepared.mz, prepared.mz_second
    found = epg.exchange(*column(t1[0], t2[0], b1), mz, *column(t1[1], t2[1]), other, *column(15.0, k, part), **TRAIN)
    wanted = isochromats(t1, t2, (0.0, 15.0), k, part, b1, INVERTED, wait)
    np.testing.assert_allclose(found.signal[0], wanted, atol=2e-6)
    found = epg.magnetization_transfer(*column(t1[0], t2[0], b1), mz, *column(0.6), other, *column(k, part), **TRAIN,
                                       **PULSE)  # fmt: skip
    wanted = beside_a_bound_pool(t1[0], t2[0], k, part, b1, left_over, INVERTED, wait)
    np.testing.assert_allclose(found.signal[0], wanted, atol=2e-6)


def test_inversion_of_two_pools_that_do_not_exchange_is_that_of_each():
    t1, other, zero, part, one = column([1.0, 0.6], [0.3, 0.4], 0.0, [0.2, 0.4], [1.0, -0.8])
    found = epg.two_pool_inversion(t1, other, zero, part, one, 0.5 * one, inversion_time=0.3)
    np.testing.assert_allclose(found.mz, epg.inversion(t1, one, inversion_time=0.3).mz, atol=1e-14)
    np.testing.assert_allclose(found.mz_second, epg.inversion(other, 0.5 * one, inversion_time=0.3).mz, atol=1e-14)
    at_once = epg.two_pool_inversion(t1, other, zero + 1e5, part, one, 0.5 * one, inversion_time=0.0)
    np.testing.assert_allclose(at_once, [-one, -0.5 * one], atol=1e-12)
    mixed = epg.two_pool_inversion(t1, t1, zero + 1e6, part, one, 0.5 * one, inversion_time=0.3)
    wanted = epg.inversion(t1, one * (1 - 0.5 * part), inversion_time=0.3).mz  # of one pool
    np.testing.assert_allclose(mixed, [wanted, wanted], atol=1e-6)


def test_the_bound_pool_is_saturated_alike_across_a_slice():
    t1, t2, k, part, b1, places = 0.8, 0.05, 10.0, 0.2, 0.9, (1.0, 0.7, 0.2)
    train = TRAIN | PULSE | {"profile": places}
    found = epg.magnetization_transfer(*column(t1, t2, b1, 1.0, 0.6, 1.0, k, part), **train).signal[0]
    wanted = np.mean([beside_a_bound_pool(t1, t2, k, part, b1, left_over, place=x) for x in places], axis=0)
    np.testing.assert_allclose(found, wanted, atol=2e-6)
    train = {"repetition_time": 0.01, "echo_time": 0.003, "error": 1e-7, "profile": places, **PULSE}
    found = epg.magnetization_transfer(*column(t1, t2, b1, 1.0, 0.6, 0.9, k, part), flip_angle=(0.4,) * 900, **train)
    ended = epg.magnetization_transfer_steady_state(*column(t1, t2, b1, 0.6, k, part), flip_angle=(0.4,), **train)
    np.testing.assert_allclose(ended.signal[0, 0], found.signal[0, -1], atol=3e-6)


def test_exchange_without_exchange_is_two_pools():
    t1, t2, b1, t1_second, t2_second, part = column([1.0, 0.6], [0.08, 0.05], [1.0, 0.9], 0.4, 0.02, [0.2, 0.4])
    mz = np.array([0.3, -0.8])
    one, other = (epg.spoiled_gradient_echo(a, b, b1, c, **TRAIN).signal for a, b, c in
                  ((t1, t2, mz), (t1_second, t2_second, -mz)))  # fmt: skip
    found = epg.exchange(t1, t2, b1, mz, t1_second, t2_second, -mz, np.zeros(2), np.zeros(2), part, **TRAIN).signal
    np.testing.assert_allclose(found, (1 - part)[:, None] * one + part[:, None] * other, atol=1e-6)


def test_equal_pools_are_one():
    t1, t2, b1, zero, part = column([1.0, 0.6], [0.08, 0.05], [1.0, 0.9], 0.0, [0.2, 0.4])
    mz = np.array([0.9, -0.4])
    one = epg.spoiled_gradient_echo(t1, t2, b1, mz, **TRAIN).signal
    for k in (0.0, 3.0, 2000.0):
        found = epg.exchange(t1, t2, b1, mz, t1, t2, mz, zero, np.full(2, k), part, **TRAIN).signal
        np.testing.assert_allclose(found, one, atol=2e-6)


@pytest.mark.parametrize(("t1", "t2", "k", "part", "b1"), [(0.8, 0.05, 4.3, 0.12, 1.0), (1.2, 0.09, 20.0, 0.2, 0.8)])
def test_bound_pool_is_what_isochromats_do(t1, t2, k, part, b1):
    found = epg.magnetization_transfer(*column(t1, t2, b1, 1.0, 0.6, 1.0, k, part), **TRAIN, **PULSE).signal[0]
    wanted = beside_a_bound_pool(t1, t2, k, part, b1, left_over)
    np.testing.assert_allclose(found, wanted, atol=2e-6)


def beside_a_bound_pool(t1, t2, k, part, b1, left, mz=(1.0, 1.0), wait=0.0, place=1.0, n=512):
    """Bloch vectors of the free pool, each beside a bound Mz; T2 holds all decay of what is transverse."""
    spread = np.exp(-2j * np.pi * np.arange(n) / n)
    xy, z, found = np.zeros(n, complex), np.stack([np.full(n, mz[0] * (1 - part)), np.full(n, mz[1] * part)]), []
    back = k * (1 - part) / part
    slopes = np.array([[-1 / t1 - k, back, (1 - part) / t1], [k, -1 / 0.6 - back, part / 0.6], [0, 0, 0]])
    z = (expm(slopes * wait) @ np.vstack([z, np.ones(n)]))[:2]
    for i, angle in enumerate(ANGLES):
        phase = SPOIL * i * (i - 1) / 2
        x, y, z[0] = turn(angle * b1 * place, phase) @ np.stack([xy.real, xy.imag, z[0]])
        z[1] *= left(angle * b1)
        found.append((x + 1j * y).mean() * np.exp(-0.002 / t2 - 1j * phase) / 1j)
        xy = (x + 1j * y) * np.exp(-0.008 / t2) * spread
        z = (expm(slopes * 0.008) @ np.vstack([z, np.ones(n)]))[:2]
    return np.array(found)


def test_bound_pool_without_exchange_is_not_seen():
    t1, t2, b1, t1_bound, part = column([1.0, 0.6], [0.08, 0.05], [1.0, 0.9], 1.0, [0.2, 0.4])
    mz = np.array([0.2, -0.9])
    one = epg.spoiled_gradient_echo(t1, t2, b1, mz, **TRAIN).signal
    found = epg.magnetization_transfer(t1, t2, b1, mz, t1_bound, np.ones(2), np.zeros(2), part, **TRAIN, **PULSE).signal
    np.testing.assert_allclose(found, (1 - part)[:, None] * one, atol=1e-6)
    train = {"flip_angle": ANGLES, "repetition_time": 0.008, "echo_time": 0.002}
    one = epg.spoiled_steady_state(t1, t2, b1, **train).signal
    found = epg.magnetization_transfer_steady_state(t1, t2, b1, t1_bound, np.zeros(2), part, **train, **PULSE).signal
    np.testing.assert_allclose(found, (1 - part)[:, None] * one, atol=1e-6)


@pytest.mark.parametrize(("t1", "t2", "k", "part", "b1"), [(0.5, 0.05, 4.3, 0.12, 1.0), (0.4, 0.09, 20.0, 0.2, 0.8)])
def test_steady_state_beside_a_bound_pool_is_the_end_of_a_train(t1, t2, k, part, b1):
    tissue, angles, found = column(t1, t2, b1, 0.6, k, part), tuple(np.deg2rad([4, 20, 60])), []
    whole_tissue = column(t1, t2, b1, 1.0, 0.6, 0.9, k, part)
    train = {"repetition_time": 0.01, "echo_time": 0.003, "error": 1e-7, **PULSE}
    for angle in angles:
        whole = epg.magnetization_transfer(*whole_tissue, flip_angle=(angle,) * 1000, **train)
        found.append(whole.signal[0, -1])
    ended = epg.magnetization_transfer_steady_state(*tissue, flip_angle=angles, **train)
    np.testing.assert_allclose(ended.signal[0], found, atol=3e-6)
    np.testing.assert_allclose(ended.magnitude[0], np.abs(found), atol=3e-6)


def test_saturation_acts_like_the_power_of_the_pulses():
    """The same whether the pulses or another one takes it; all of it leaves a free pool that only loses by exchange."""
    tissue, angle, tr = column(0.8, 0.001, 0.9, 0.6, 4.0, 0.15), 0.3, 0.03
    train = {"flip_angle": (angle,), "repetition_time": tr, "echo_time": 0.0}
    power = np.pi * 1.51e-5 / 4e-4 * angle**2
    one = epg.magnetization_transfer_steady_state(*tissue, **train, **PULSE)
    other = epg.magnetization_transfer_steady_state(*tissue, **train, saturation=power, pulse_duration=4e-4,
                                                    absorption=0.0)  # fmt: skip
    np.testing.assert_allclose(one.signal, other.signal, rtol=1e-6)
    none = epg.magnetization_transfer_steady_state(*tissue, **train, **PULSE, saturation=200.0)
    back = 4.0 * 0.85 / 0.15
    slopes = np.array([[-1 / 0.8 - 4.0, back, 0.85 / 0.8], [4.0, -1 / 0.6 - back, 0.15 / 0.6], [0, 0, 0]])
    e = expm(slopes * tr)
    wanted = np.sin(0.27) * e[0, 2] / (1 - np.cos(0.27) * e[0, 0])
    np.testing.assert_allclose(none.signal[0, 0], wanted, rtol=1e-5)


def test_the_error_stays_below_its_bound():
    rng, count = np.random.default_rng(5), 300
    t1, t1_second = rng.uniform(0.2, 3, (2, 64))
    t2, t2_second, part = rng.uniform(0.02, 0.2, 64), rng.uniform(0.005, 0.2, 64), rng.uniform(0.02, 0.5, 64)
    tissue = (t1, t2, rng.uniform(0.5, 1.5, 64), rng.uniform(-1, 1, 64), t1_second, t2_second, rng.uniform(-1, 1, 64),
              rng.normal(0, 30, 64), rng.uniform(0, 30, 64))  # fmt: skip
    far = np.where(np.arange(count) % 75 == 0, 90, np.where(np.arange(count) % 75 == 37, 180, 0.0))
    for flip in (rng.uniform(0, 60, count), rng.uniform(0, 180, count), far):
        train = TRAIN | {"flip_angle": tuple(np.deg2rad(flip))}
        whole = epg.exchange(*tissue, part, **train | {"error": 1e-300}).signal
        for error in (1e-1, 1e-2, 1e-3):
            kept = epg.exchange(*tissue, part, **train | {"error": error}).signal
            assert np.abs(kept - whole).max() < error


def test_a_fraction_outside_its_range_is_refused():
    with pytest.raises(ValueError, match="fraction lies between 0 and 0; it has to be above 0 and below 1"):
        epg.magnetization_transfer(*column(1.0, 0.1, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0), **TRAIN, **PULSE)
    with pytest.raises(ValueError, match=r"echo time of 0.5 s is longer than the repetition time"):
        epg.exchange(*column(1.0, 0.1, 1.0, 1.0, 1.0, 0.1, 1.0, 0.0, 1.0, 0.1), **TRAIN | {"echo_time": 0.5})
