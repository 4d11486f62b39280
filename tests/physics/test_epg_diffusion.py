"""Trains and double-echo steady states with diffusion: the Bloch-Torrey equation on a grid, and closed forms.

Budget: 25 s on two cores.
"""

import numpy as np
import pytest

from factory.physics import epg


def column(*values):
    return [np.atleast_1d(np.asarray(v, float)) for v in np.broadcast_arrays(*values)]


def torrey(t1, t2, b1, diffusion, angles, phases, repetition_time, dephasing, mz=1.0, cycles=40):
    """Magnetisation on a line of some cycles, turned and spread in turns: F0 before and behind each pulse, in its frame
    and over i.

    A repetition has as many steps as the line has cycles, so that each turns the line by one whole period.
    """
    n = 16 * cycles
    length = cycles / dephasing
    wind = np.exp(-2j * np.pi * np.arange(n) / n)
    k = 2 * np.pi * np.fft.fftfreq(n, length / n)
    dt = repetition_time / cycles
    spread = np.exp(-diffusion * k**2 * dt / 2)
    xy, z, found = np.zeros(n, complex), np.full(n, mz), []

    def half(m):
        return np.fft.ifft(spread * np.fft.fft(m))

    for angle, phase in zip(angles, phases, strict=True):
        c, s, turn = np.cos(angle * b1), np.sin(angle * b1), np.exp(1j * phase)
        xy = xy / turn
        before = xy.mean()
        xy, z = xy.real + 1j * (c * xy.imag + s * z), c * z - s * xy.imag  # phase 0 takes +z to +y
        found.append((before / 1j, xy.mean() / 1j))
        xy = xy * turn
        for _ in range(cycles):  # diffusion in halves around the gradient: second order in the step
            xy, z = half(half(xy) * wind) * np.exp(-dt / t2), half(half(z)).real
        z = 1 + (z - 1) * np.exp(-repetition_time / t1)
    return np.array(found)


@pytest.mark.parametrize(("t1", "t2", "b1", "diffusion", "dephasing"), [
    (0.3, 0.04, 1.0, 1.5e-9, 3e4), (0.25, 0.1, 0.8, 2.5e-9, 1e4), (0.25, 0.2, 1.2, 2e-9, 5e3),
    (0.2, 0.15, 1.1, 0.0, 3e4)])
def test_echoes_are_those_of_the_bloch_torrey_equation(t1, t2, b1, diffusion, dephasing):
    train = {"flip_angle": 0.6, "repetition_time": 0.02, "echo_time": 0.005, "dephasing": dephasing}
    found = epg.double_echo(*column(t1, t2, b1, diffusion), **train, error=1e-8).signal[0]
    before, behind = torrey(t1, t2, b1, diffusion, [0.6] * 150, [0.0] * 150, 0.02, dephasing)[-1]
    wanted = np.array([behind * np.exp(-0.005 / t2), before * np.exp(0.005 / t2)])
    np.testing.assert_allclose(wanted.imag, 0, atol=1e-10)
    np.testing.assert_allclose(found, wanted.real, atol=5e-6)
    if diffusion:
        still = epg.double_echo(*column(t1, t2, b1, 0.0), **train, error=1e-8).signal[0]
        assert np.abs(found - still).max() > 5e-3  # the test sees diffusion


def test_without_diffusion_echoes_have_closed_forms():
    """Averages of the balanced steady state over all precession angles."""
    a, tr, t1, t2 = 0.7, 0.01, 0.9, 0.08
    e1, e2 = np.exp(-tr / t1), np.exp(-tr / t2)
    theta = 2 * np.pi * np.arange(4096) / 4096
    d = (1 - e1 * np.cos(a)) * (1 - e2 * np.cos(theta)) - e2 * (e1 - np.cos(a)) * (e2 - np.cos(theta))
    behind = (1 - e1) * np.sin(a) * (1 - e2 * np.exp(1j * theta)) / d
    wanted = behind.mean(), (behind * e2 * np.exp(-1j * theta)).mean()
    found = epg.double_echo(*column(t1, t2, 1.0, 0.0), flip_angle=a, repetition_time=tr, echo_time=0.0, dephasing=1e4,
                            error=1e-8)  # fmt: skip
    np.testing.assert_allclose(found.signal[0], np.real(wanted), rtol=1e-6)
    assert found.signal[0, 1] < 0
    np.testing.assert_array_equal(found.echo, [0.0, tr])


def test_fast_diffusion_leaves_the_ernst_amplitude():
    a, tr, t1 = 0.4, 0.02, 0.7
    found = epg.double_echo(*column(t1, 0.3, 1.0, 1e-3), flip_angle=a, repetition_time=tr, echo_time=0.0, dephasing=1e5)
    e1 = np.exp(-tr / t1)
    np.testing.assert_allclose(found.signal[0], [np.sin(a) * (1 - e1) / (1 - e1 * np.cos(a)), 0], atol=1e-6)


def test_an_echo_behind_half_the_repetition_is_refused():
    with pytest.raises(ValueError, match=r"echo time of 0.02 s is longer than half the repetition time, 0.01 s"):
        epg.double_echo(*column(1, 0.1, 1, 0), flip_angle=0.5, repetition_time=0.02, echo_time=0.02, dephasing=1e4)


ANGLES = np.deg2rad(10 + 60 * np.sin(np.linspace(0, 4, 60)) ** 2)
TRAIN = {"flip_angle": tuple(ANGLES), "repetition_time": 0.012, "echo_time": 0.003}


@pytest.mark.parametrize("increment", [0.0, np.deg2rad(50)])
@pytest.mark.parametrize(("t1", "t2", "b1", "diffusion", "dephasing"), [
    (1.2, 0.1, 1.0, 2e-9, 4e4), (0.5, 0.3, 0.8, 1e-9, 2e4), (0.8, 0.05, 1.2, 2.5e-9, 8e3)])
def test_a_train_is_that_of_the_bloch_torrey_equation(t1, t2, b1, diffusion, dephasing, increment):
    n = np.arange(len(ANGLES))
    wanted = torrey(t1, t2, b1, diffusion, ANGLES, increment * n * (n - 1) / 2, 0.012, dephasing, mz=-0.9)[:, 1]
    wanted = wanted * np.exp(-0.003 / t2)
    train = TRAIN | {"dephasing": dephasing, "phase_increment": increment, "error": 1e-7}
    found = epg.diffusion(*column(t1, t2, b1, -0.9, diffusion), **train)
    np.testing.assert_allclose(found.signal[0], wanted, atol=5e-6)
    np.testing.assert_allclose(found.magnitude[0], np.abs(wanted), atol=5e-6)
    np.testing.assert_allclose(found.frame, 0.003 + 0.012 * n, rtol=1e-14)
    still = epg.diffusion(*column(t1, t2, b1, -0.9, 0.0), **train)
    assert np.abs(found.signal - still.signal).max() > 2e-3  # the test sees diffusion


def test_without_diffusion_it_is_a_spoiled_gradient_echo():
    rng = np.random.default_rng(4)
    tissue = rng.uniform(0.2, 3, 100), rng.uniform(0.02, 0.2, 100), rng.uniform(0.7, 1.3, 100), rng.uniform(-1, 1, 100)
    for increment in (0.0, 2.0):
        wanted = epg.spoiled_gradient_echo(*tissue, **TRAIN, phase_increment=increment).signal
        for diffusion, dephasing in ((0.0, 1e5), (1e-9, 0.0)):
            found = epg.diffusion(*tissue, np.full(100, diffusion), **TRAIN, dephasing=dephasing,
                                  phase_increment=increment)  # fmt: skip
            np.testing.assert_allclose(found.signal, wanted, atol=5e-7)


@pytest.mark.parametrize(("t1", "t2", "b1", "diffusion", "dephasing"), [
    (0.4, 0.06, 1.0, 1.5e-9, 3e4), (0.3, 0.2, 0.8, 2.5e-9, 1e4), (0.35, 0.1, 1.2, 1e-9, 6e4)])
def test_a_train_ends_at_the_first_echo_of_the_double_echo_steady_state(t1, t2, b1, diffusion, dephasing):
    one = {"repetition_time": 0.015, "echo_time": 0.004, "dephasing": dephasing, "error": 1e-7}
    whole = epg.diffusion(*column(t1, t2, b1, 1.0, diffusion), flip_angle=(0.5,) * 500, **one).signal[0, -1]
    ended = epg.double_echo(*column(t1, t2, b1, diffusion), flip_angle=0.5, **one).signal[0, 0]
    np.testing.assert_allclose(whole, ended, atol=1e-6)


def test_fast_diffusion_leaves_each_pulse_its_own_signal():
    t1, t2, tr = 0.9, 0.5, 0.012
    found = epg.diffusion(*column(t1, t2, 1.0, 0.7, 1e-3), **TRAIN, dephasing=1e5).signal[0]
    z, wanted = 0.7, []
    for angle in ANGLES:
        wanted.append(z * np.sin(angle) * np.exp(-0.003 / t2))
        z = 1 + (z * np.cos(angle) - 1) * np.exp(-tr / t1)
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_the_error_stays_below_its_bound():
    """Of long trains of random pulses, with fast and slow diffusion; and the bound leaves orders out."""
    rng, count = np.random.default_rng(6), 300
    t1 = rng.uniform(0.2, 3, 64)
    t2, diffusion = np.minimum(rng.uniform(0.02, 1, 64), 0.95 * t1), 1e-10 * 100 ** rng.uniform(0, 1, 64)
    tissue = t1, t2, rng.uniform(0.5, 1.5, 64), rng.uniform(-1, 1, 64), diffusion
    for top, increment in ((30, 0.0), (180, 0.0), (60, 2.0)):
        train = TRAIN | {"flip_angle": tuple(np.deg2rad(rng.uniform(0, top, count))), "dephasing": 2e4}
        whole = epg.diffusion(*tissue, **train, phase_increment=increment, error=1e-300).signal
        for error in (1e-1, 1e-2, 1e-3):
            lost = np.abs(epg.diffusion(*tissue, **train, phase_increment=increment, error=error).signal - whole).max()
            assert 0 < lost < error


def test_no_sample_sees_its_neighbours():
    rng = np.random.default_rng(0)
    tissue = [rng.uniform(*x, 150) for x in ((0.2, 3), (0.02, 0.3), (0.8, 1.2), (-1, 1), (1e-10, 3e-9))]
    whole = epg.diffusion(*tissue, **TRAIN, dephasing=3e4).signal
    for part in (slice(0, 1), slice(63, 66), slice(7, 150)):
        assert np.array_equal(epg.diffusion(*(x[part] for x in tissue), **TRAIN, dephasing=3e4).signal, whole[part])
