"""Double-echo steady states: the Bloch-Torrey equation on a grid, and closed forms.

Budget: 15 s on two cores.
"""

import numpy as np
import pytest

from factory.physics import epg


def column(*values):
    return [np.atleast_1d(np.asarray(v, float)) for v in np.broadcast_arrays(*values)]


def torrey(t1, t2, b1, diffusion, flip_angle, repetition_time, echo_time, dephasing, pulses, cycles=40):
    """Magnetisation on a line of some cycles, turned and spread in turns: F0 behind and before the last pulse, over i.

    A repetition has as many steps as the line has cycles, so that each turns the line by one whole period.
    """
    n = 16 * cycles
    length = cycles / dephasing
    wind = np.exp(-2j * np.pi * np.arange(n) / n)
    k = 2 * np.pi * np.fft.fftfreq(n, length / n)
    dt = repetition_time / cycles
    spread = np.exp(-diffusion * k**2 * dt / 2)
    c, s = np.cos(flip_angle * b1), np.sin(flip_angle * b1)
    xy, z = np.zeros(n, complex), np.ones(n)

    def half(m):
        return np.fft.ifft(spread * np.fft.fft(m))

    for _ in range(pulses):
        before = xy.mean()
        xy, z = xy.real + 1j * (c * xy.imag + s * z), c * z - s * xy.imag  # phase 0 takes +z to +y
        behind = xy.mean()
        for _ in range(cycles):  # diffusion in halves around the gradient: second order in the step
            xy, z = half(half(xy) * wind) * np.exp(-dt / t2), half(half(z)).real
        z = 1 + (z - 1) * np.exp(-repetition_time / t1)
    return np.array([behind * np.exp(-echo_time / t2), before * np.exp(echo_time / t2)]) / 1j


@pytest.mark.parametrize(("t1", "t2", "b1", "diffusion", "dephasing"), [
    (0.3, 0.04, 1.0, 1.5e-9, 3e4), (0.25, 0.1, 0.8, 2.5e-9, 1e4), (0.25, 0.2, 1.2, 2e-9, 5e3),
    (0.2, 0.15, 1.1, 0.0, 3e4)])
def test_echoes_are_those_of_the_bloch_torrey_equation(t1, t2, b1, diffusion, dephasing):
    train = {"flip_angle": 0.6, "repetition_time": 0.02, "echo_time": 0.005, "dephasing": dephasing}
    found = epg.double_echo(*column(t1, t2, b1, diffusion), **train, error=1e-8).signal[0]
    wanted = torrey(t1, t2, b1, diffusion, **train, pulses=150)
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
