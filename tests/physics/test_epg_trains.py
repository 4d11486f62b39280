"""Trains of any phase against isochromats that are turned one by one, and against closed-form limits.

Budget: 25 s on two cores.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factory.physics import _pathways, epg

SPOIL = np.deg2rad(117.0)


def turn(axis, angle):
    """Rotation matrix of a left-handed turn about an axis: dM/dt = gamma M x B."""
    x, y, z = axis
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) - np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


class Spins:
    """Bloch vectors that a gradient spreads evenly over one turn."""

    def __init__(self, t1, t2, b1=1.0, mz=1.0, off_resonance=0.0, n=1024):
        self.t1, self.t2, self.b1, self.off = t1, t2, b1, off_resonance
        self.spread = 2 * np.pi * np.arange(n) / n
        self.m = np.stack([np.zeros(n), np.zeros(n), np.full(n, float(mz))])

    def pulse(self, angle, phase=0.0):
        self.m = turn((np.cos(phase), np.sin(phase), 0), angle * self.b1) @ self.m

    def wait(self, time, dephase=False):
        phase = 2 * np.pi * self.off * time + (self.spread if dephase else 0)
        xy = (self.m[0] + 1j * self.m[1]) * np.exp(-1j * phase - time / self.t2)
        self.m = np.stack([xy.real, xy.imag, 1 + (self.m[2] - 1) * np.exp(-time / self.t1)])

    def signal(self, phase=0.0):
        return (self.m[0] + 1j * self.m[1]).mean() * np.exp(-1j * phase) / 1j

    def spoil(self):
        self.m[:2] = 0


def column(*values):
    return [np.atleast_1d(np.asarray(v, float)) for v in np.broadcast_arrays(*values)]


TISSUES = [(0.8, 0.06, 1.0), (3.0, 0.3, 0.8), (0.4, 0.38, 1.15)]
ANGLES = np.deg2rad(10 + 30 * np.sin(np.linspace(0, 4, 60)) ** 2)


@pytest.mark.parametrize("increment", [SPOIL, np.deg2rad(50)])
@pytest.mark.parametrize(("t1", "t2", "b1"), TISSUES)
def test_rf_spoiled_train_is_an_average_of_isochromats(t1, t2, b1, increment):
    spins, wanted = Spins(t1, t2, b1, mz=-0.9), []
    for n, angle in enumerate(ANGLES):
        phase = increment * n * (n - 1) / 2
        spins.pulse(angle, phase)
        spins.wait(0.002)
        wanted.append(spins.signal(phase))
        spins.wait(0.006, dephase=True)
    found = epg.spoiled_gradient_echo(*column(t1, t2, b1, -0.9), flip_angle=tuple(ANGLES), repetition_time=0.008,
                                      echo_time=0.002, phase_increment=increment, error=1e-7)  # fmt: skip
    np.testing.assert_allclose(found.signal[0], wanted, atol=1e-6)
    np.testing.assert_allclose(found.magnitude[0], np.abs(wanted), atol=1e-6)
    np.testing.assert_allclose(found.frame, 0.002 + 0.008 * np.arange(60), rtol=1e-14)


@pytest.mark.parametrize("increment", [np.pi, np.pi / 2, 0.0])
@pytest.mark.parametrize(("t1", "t2", "b1"), TISSUES)
def test_balanced_train_is_one_isochromat(t1, t2, b1, increment):
    off, times = 37.0, tuple(np.random.default_rng(2).uniform(0.004, 0.007, 60))
    spins, wanted = Spins(t1, t2, b1, mz=0.4, off_resonance=off, n=1), []
    for n, angle in enumerate(ANGLES):
        spins.pulse(angle, increment * n)
        spins.wait(0.002)
        wanted.append(spins.signal(increment * n))
        spins.wait(times[n] - 0.002)
    found = epg.balanced(*column(t1, t2, b1, 0.4, off), flip_angle=tuple(ANGLES), repetition_time=times,
                         echo_time=0.002, phase_increment=increment)  # fmt: skip
    np.testing.assert_allclose(found.signal[0], wanted, atol=2e-6)


@pytest.mark.parametrize(("t1", "t2", "b1"), TISSUES)
def test_turbo_spin_echo_is_an_average_of_isochromats(t1, t2, b1):
    refocus = tuple(np.deg2rad([150, 60, 170, 120, 100, 40, 90, 180, 130, 70]))
    phases = tuple(np.deg2rad([90, 90, 10, -50, 90, 200, 90, 0, 30, 77]))
    spins, wanted = Spins(t1, t2, b1, mz=0.7), []
    spins.pulse(1.4)
    for angle, phase in zip(refocus, phases, strict=True):
        spins.wait(0.005, dephase=True)
        spins.pulse(angle, phase)
        spins.wait(0.005, dephase=True)
        wanted.append(spins.signal())
    found = epg.tse(*column(t1, t2, b1, 0.7), refocus=refocus, phase=phases, spacing=0.01, excitation=1.4)
    np.testing.assert_allclose(found.signal[0], wanted, atol=1e-6)


def test_a_slice_is_the_average_of_its_places():
    tissue, places = column([0.8, 3.0], [0.06, 0.3], [1.0, 0.8]), ((1.0, 0.9, 0.3), (1.0, 0.95, 0.6))
    refocus, phase = tuple(np.deg2rad([150, 60, 170, 120])), (np.pi / 2,) * 4
    found = epg.tse(*tissue, np.ones(2), refocus=refocus, phase=phase, spacing=0.01, excitation=1.4,
                    excitation_profile=places[0], refocus_profile=places[1])  # fmt: skip
    single = [epg.tse(*tissue, np.ones(2), refocus=tuple(other * np.array(refocus)), phase=phase, spacing=0.01,
                      excitation=1.4 * first).signal for first, other in zip(*places, strict=True)]  # fmt: skip
    np.testing.assert_allclose(found.signal, np.mean(single, axis=0), atol=1e-6)
    train = {"flip_angle": tuple(ANGLES), "repetition_time": (0.013,) * 60, "echo_time": 0.004, "inversion_time": 0.03}
    found = epg.fisp(*tissue, np.ones(2), profile=places[0], **train)
    single = [epg.fisp(*tissue[:2], first * tissue[2], np.ones(2), **train).signal for first in places[0]]
    np.testing.assert_allclose(found.signal, np.mean(single, axis=0), atol=1e-6)


COMMON = {"repetition_time": 0.013, "echo_time": 0.004}
SLICED = {  # inputs behind t1, t2 and b1, and constants
    "spoiled_gradient_echo": ([0.8], COMMON | {"flip_angle": tuple(ANGLES)}),
    "diffusion": ([0.8, 2e-9], COMMON | {"flip_angle": tuple(ANGLES), "dephasing": 2e4}),
    "spoiled_steady_state": ([], COMMON | {"flip_angle": (0.1, 0.6)}),
    "double_echo": ([1e-9], COMMON | {"flip_angle": 0.6, "dephasing": 3e4}),
    "balanced": ([0.8, 20.0], {"flip_angle": tuple(ANGLES), "repetition_time": (0.006,) * 60, "echo_time": 0.003}),
    "exchange": ([0.8, 0.4, 0.02, 0.5, 10.0, 5.0, 0.2], COMMON | {"flip_angle": tuple(ANGLES)}),
}


@pytest.mark.parametrize("name", SLICED)
def test_a_slice_is_the_average_of_its_places_in_every_train(name):
    step, (more, train) = getattr(epg, name), SLICED[name]
    t1, t2, b1, *rest = column(*([0.8, 3.0], [0.06, 0.3], [1.0, 0.8], *more))
    places = (1.0, 0.9, 0.3, 0.0)
    found = step(t1, t2, b1, *rest, profile=places, **train)
    single = [step(t1, t2, place * b1, *rest, **train).signal for place in places]
    np.testing.assert_allclose(found.signal, np.mean(single, axis=0), atol=1e-6)
    if "magnitude" in found._fields:
        np.testing.assert_allclose(found.magnitude, np.abs(found.signal), atol=1e-6)


@pytest.mark.parametrize(("t1", "t2", "b1"), TISSUES)
def test_inverted_fisp_is_an_average_of_isochromats(t1, t2, b1):
    """The kernel of real states and that of complex ones: one answer, and that of the spins."""
    spins, wanted = Spins(t1, t2, b1, mz=-0.95), []
    spins.wait(0.03)
    for angle in ANGLES:
        spins.pulse(angle)
        spins.wait(0.004)
        wanted.append(spins.signal())
        spins.wait(0.009, dephase=True)
    real = epg.fisp(*column(t1, t2, b1, 0.95), flip_angle=tuple(ANGLES), repetition_time=(0.013,) * 60,
                    echo_time=0.004, inversion_time=0.03, error=1e-7)  # fmt: skip
    mz = epg.inversion(*column(t1, 0.95), inversion_time=0.03).mz
    general = epg.spoiled_gradient_echo(*column(t1, t2, b1), mz, flip_angle=tuple(ANGLES), repetition_time=0.013,
                                        echo_time=0.004, phase_increment=0.0, error=1e-7)  # fmt: skip
    np.testing.assert_allclose(real.signal[0], wanted, atol=1e-6)
    np.testing.assert_allclose(general.signal[0], wanted, atol=1e-6)


@pytest.mark.parametrize(("t1", "t2", "b1"), TISSUES)
def test_t2_preparation_is_what_spins_do(t1, t2, b1):
    spins = Spins(t1, t2, b1, n=1)
    spins.pulse(np.pi / 2)
    spins.wait(0.02)
    spins.pulse(np.pi, np.pi / 2)
    spins.wait(0.02)
    spins.pulse(np.pi / 2, np.pi)
    found = epg.t2_preparation(*column(t1, t2, b1), duration=0.04).mz
    np.testing.assert_allclose(found, spins.m[2], atol=1e-14)
    np.testing.assert_allclose(epg.t2_preparation(*column(t1, t2, 1.0), duration=0.04).mz, np.exp(-0.04 / t2))


@pytest.mark.parametrize("increment", [SPOIL, np.deg2rad(50), np.deg2rad(3), 0.0])
@pytest.mark.parametrize(("t1", "t2", "b1"), [(0.3, 0.04, 1.0), (0.5, 0.1, 0.8), (0.2, 0.19, 1.15)])
def test_steady_state_is_the_end_of_a_train(t1, t2, b1, increment):
    angles, found = tuple(np.deg2rad([4, 20, 70])), []
    constants = {"repetition_time": 0.01, "echo_time": 0.003, "phase_increment": increment, "error": 1e-7}
    for angle in angles:
        train = epg.spoiled_gradient_echo(*column(t1, t2, b1, 1.0), flip_angle=(angle,) * 700, **constants)
        found.append(train.signal[0, -1])
    ended = epg.spoiled_steady_state(*column(t1, t2, b1), flip_angle=angles, **constants)
    np.testing.assert_allclose(ended.signal[0], found, atol=2e-6)
    np.testing.assert_allclose(ended.magnitude[0], np.abs(found), atol=2e-6)


@pytest.mark.parametrize("increment", [SPOIL, np.deg2rad(3), 0.0])
def test_the_error_of_a_steady_state_stays_below_its_bound(increment):
    rng = np.random.default_rng(9)
    t1 = rng.uniform(0.2, 3, 200)
    tissue = t1, rng.uniform(0.02, 0.9, 200) * t1, rng.uniform(0.5, 1.5, 200)
    train = {"flip_angle": tuple(np.deg2rad([1, 5, 20, 60, 120, 175])), "repetition_time": 0.01, "echo_time": 0.0,
             "phase_increment": increment}  # fmt: skip
    exact = epg.spoiled_steady_state(*tissue, **train, error=1e-12).signal
    for error in (0.3, 1e-1, 1e-2, 1e-3):
        lost = np.abs(epg.spoiled_steady_state(*tissue, **train, error=error).signal - exact).max()
        assert 0 < lost < error


def test_ernst_limit():
    angle, tr, t1 = np.deg2rad([5.0, 20.0, 90.0]), 0.02, 0.7
    found = epg.spoiled_steady_state(*column(t1, 1e-3, 1.0), flip_angle=tuple(angle), repetition_time=tr, echo_time=0.0)
    e1 = np.exp(-tr / t1)
    np.testing.assert_allclose(found.signal[0], np.sin(angle) * (1 - e1) / (1 - e1 * np.cos(angle)), rtol=1e-6)


def test_unspoiled_steady_state_is_the_closed_form_of_fisp():
    """The average of the balanced steady state over all precession angles."""
    a, tr, t1, t2 = 0.7, 0.01, 0.9, 0.08
    e1, e2, c = np.exp(-tr / t1), np.exp(-tr / t2), np.cos(a)
    p = 1 - e1 * c - e2**2 * (e1 - c)
    q = e2 * (1 - e1) * (1 + c)
    wanted = np.tan(a / 2) * (1 - (e1 - c) * (1 - e2**2) / np.sqrt(p**2 - q**2))
    found = epg.spoiled_steady_state(*column(t1, t2, 1.0), flip_angle=(a,), repetition_time=tr, echo_time=0.0,
                                     phase_increment=0.0, error=1e-8)  # fmt: skip
    np.testing.assert_allclose(found.signal[0, 0], wanted, rtol=1e-6)


@pytest.mark.parametrize("off", [0.0, 25.0, -60.0])
def test_balanced_train_ends_at_its_closed_form(off):
    a, tr, t1, t2 = 0.8, 0.005, 0.4, 0.1
    found = epg.balanced(*column(t1, t2, 1.0, 1.0, off), flip_angle=(a,) * 1000, repetition_time=(tr,) * 1000,
                         echo_time=tr / 2, phase_increment=np.pi).signal[0, -1]  # fmt: skip
    e1, e2, theta = np.exp(-tr / t1), np.exp(-tr / t2), 2 * np.pi * off * tr + np.pi
    d = (1 - e1 * np.cos(a)) * (1 - e2 * np.cos(theta)) - e2 * (e1 - np.cos(a)) * (e2 - np.cos(theta))
    behind = (1 - e1) * np.sin(a) * (1 - e2 * np.exp(1j * theta)) / d
    np.testing.assert_allclose(found, behind * np.sqrt(e2) * np.exp(-2j * np.pi * off * tr / 2), atol=2e-6)
    if off == 0:
        wanted = np.sin(a) * (1 - e1) * np.sqrt(e2) / (1 - (e1 - e2) * np.cos(a) - e1 * e2)
        np.testing.assert_allclose(found, wanted, atol=2e-6)
    assert behind.imag * off >= 0  # behind the pulse what will turn back by f TR / 2 until the echo lies ahead


def test_turbo_spin_echo_with_equal_pulses_is_cpmg():
    t1, t2, b1 = column([0.5, 1.0, 3.0], [0.05, 0.1, 0.4], [0.7, 1.0, 1.2])
    wanted = epg.cpmg(t1, t2, b1, spacing=0.008, n_echo=32, refocus=2.5)
    found = epg.tse(t1, t2, b1, np.ones(3), refocus=(2.5,) * 32, phase=(np.pi / 2,) * 32, spacing=0.008)
    np.testing.assert_allclose(found.signal, wanted.signal, atol=1e-6)
    np.testing.assert_allclose(found.echo, wanted.echo, rtol=1e-14)


@pytest.mark.parametrize("phase", [0.0, 0.4, -2.0])
def test_a_pulse_from_equilibrium_has_the_sign_of_the_house(phase):
    events, marks = _pathways.schedule([0.3], [phase], 0.0, _pathways.KEEP, 0.0, 0.0, 2, float)
    out = np.empty((1, 1), complex)
    _pathways.train(np.array([[-1.0], [-9.0], [1.0], [0.0]]), np.ones(1), events, marks, 2, out)
    np.testing.assert_allclose(out[0, 0], 1j * np.exp(1j * phase) * np.sin(0.3), atol=1e-15)


def test_an_isochromat_at_plus_f_falls_behind():
    found = epg.balanced(*column(1.0, 0.1, 1.0, 1.0, 30.0), flip_angle=(1.0,), repetition_time=(0.01,), echo_time=0.004)
    np.testing.assert_allclose(found.signal[0, 0], np.sin(1) * np.exp(-0.04 - 2j * np.pi * 30 * 0.004), rtol=1e-6)


def test_the_error_stays_below_its_bound():
    """Over random tissues and trains; and the bound is not idle: it leaves orders out."""
    rng, count = np.random.default_rng(5), 400
    t1 = rng.uniform(0.1, 4, 64)
    t2 = np.minimum(0.02 * 25 ** rng.uniform(0, 1, 64), 0.9 * t1)
    tissue = (t1, t2, rng.uniform(0.5, 1.5, 64), rng.uniform(-1, 1, 64))
    least = _pathways.enough(t1, t2, 0.01, count, 1e-4, count)
    assert np.median(least) < count / 4
    for top in (20, 60, 180):
        train = {"flip_angle": tuple(np.deg2rad(rng.uniform(0, top, count))), "repetition_time": 0.01, "echo_time": 0.0}
        for increment in (0.0, SPOIL):
            whole = epg.spoiled_gradient_echo(*tissue, **train, phase_increment=increment, error=1e-300).signal
            for error in (1e-2, 1e-3, 1e-4):
                kept = epg.spoiled_gradient_echo(*tissue, **train, phase_increment=increment, error=error).signal
                assert np.abs(kept - whole).max() < error


def tables_of(flip, increment, interval, orders):
    """Of RF-spoiled pulses and intervals of any length, in float64."""
    n = np.arange(len(flip))
    return _pathways.schedule(flip, increment * n * (n - 1) / 2, interval, _pathways.DEPHASE, 0.0, 0.0, orders, float)


@settings(max_examples=150, deadline=None)
@given(
    t1=st.floats(0.02, 5),
    ratio=st.floats(0.02, 1),
    mz=st.floats(-1, 1),
    digits=st.floats(0.5, 8),
    increment=st.sampled_from([0.0, 0.5 * np.pi, np.pi, SPOIL]),
    longer=st.sampled_from([1.0, 3.0]),
    pulses=st.lists(st.tuples(st.sampled_from([0.0, 0.02, 0.3, 0.5 * np.pi, 2.0, np.pi]), st.integers(1, 12)),
                    min_size=2, max_size=16),
)
def test_the_bound_holds_for_any_train(t1, ratio, mz, digits, increment, longer, pulses):
    """Runs of equal pulses, such as 90 degrees, many of 0, 180 degrees, many of 0; intervals from 10 ms on."""
    flip, error = np.repeat(*map(np.array, zip(*pulses, strict=True))), 10.0**-digits
    interval = 0.01 * np.where(np.arange(len(flip)) % 3 == 1, longer, 1.0)
    samples, start = np.array([[-1 / t1], [-1 / (ratio * t1)], [1.0], [0.0]]), np.array([mz])
    orders = int(_pathways.enough(np.array([t1]), np.array([ratio * t1]), 0.01, len(flip), error, len(flip))[0])
    kept, whole = np.empty((2, 1, len(flip)), complex)
    for size, out in ((orders, kept), (len(flip) + 1, whole)):
        _pathways.train(samples, start, *tables_of(flip, increment, interval, size), size, out)
    assert np.abs(kept - whole).max() <= error


@pytest.mark.parametrize("ratio", [0.05, 0.3, 0.6])
def test_the_bound_is_not_far_from_the_worst_train(ratio):
    """90 degrees, n intervals, 180 degrees, n intervals: an echo of exp(-2 n TR / T2) that needs n + 1 orders."""
    t2 = np.array([0.1])
    for n in (40, 80, 160):
        echo = np.exp(-2 * n * 0.01 / 0.1)
        assert n + 1 <= _pathways.enough(t2 / ratio, t2, 0.01, 2 * n + 1, 0.5 * echo, 10 * n)[0] <= 2 * n


@pytest.mark.parametrize("count", [20, 60, 200])
def test_the_bound_keeps_an_echo_that_comes_a_long_way(count):
    """90 degrees, nothing for half the train, 180 degrees, nothing, and an echo: no pulse helps the orders to fade."""
    tr, t2 = 0.01, 0.01 * count / 10
    angles = np.zeros(count + 1)
    angles[0], angles[count // 2] = np.pi / 2, np.pi
    echo = np.exp(-10)
    found = epg.spoiled_gradient_echo(*column(1e3, t2, 1.0, 1.0), flip_angle=tuple(angles), repetition_time=tr,
                                      echo_time=0.0, phase_increment=0.0, error=echo / 2).signal[0, -1]  # fmt: skip
    np.testing.assert_allclose(found, -echo, rtol=1e-2)


def test_no_sample_sees_its_neighbours():
    rng = np.random.default_rng(0)
    tissue = [rng.uniform(0.2, 3, 150), rng.uniform(0.02, 0.3, 150), rng.uniform(0.8, 1.2, 150), np.ones(150)]
    train = {"flip_angle": tuple(ANGLES), "repetition_time": 0.01, "echo_time": 0.002}
    whole = epg.spoiled_gradient_echo(*tissue, **train).signal
    for part in (slice(0, 1), slice(63, 66), slice(7, 150)):
        cut = epg.spoiled_gradient_echo(*(x[part] for x in tissue), **train).signal
        assert np.array_equal(cut, whole[part])


def test_single_precision_is_enough():
    """The same source in float64, over a long train."""
    count = 1000
    n = np.arange(count)
    tables = [_pathways.schedule(np.deg2rad(5 + 60 * np.sin(n / 90) ** 2), np.fmod(n * (n - 1) / 2 * SPOIL, 2 * np.pi),
                                 0.01, _pathways.DEPHASE, 0.003, 0.0, 30, kind) for kind in (np.float32, np.float64)]
    found = []
    for (events, marks), kind in zip(tables, (np.complex64, np.complex128), strict=True):
        samples = np.array([[-1 / 1.2], [-1 / 0.15], [1.1], [0.0]], events.dtype)
        out = np.empty((1, count), kind)
        _pathways.train(samples, -np.ones(1, events.dtype), events, marks, 30, out)
        found.append(out)
    np.testing.assert_allclose(found[0], found[1], atol=1e-6)


@pytest.mark.parametrize("step", [epg.spoiled_gradient_echo, epg.spoiled_steady_state])
def test_an_echo_behind_its_repetition_is_refused(step):
    with pytest.raises(ValueError, match=r"echo time of 0.5 s is longer than the"):
        step(*column(*(1.0,) * len(step.inputs)), flip_angle=(1.0,), repetition_time=0.1, echo_time=0.5)


def test_lists_of_unequal_length_are_refused():
    with pytest.raises(ValueError, match="there are 1 flip angles and 2 repetition times"):
        epg.balanced(*column(*(1.0,) * 5), flip_angle=(1.0,), repetition_time=(0.1, 0.1), echo_time=0.0)
    with pytest.raises(ValueError, match="there are 2 refocusing angles and 1 phases"):
        epg.tse(*column(*(1.0,) * 4), refocus=(1.0, 1.0), phase=(0.0,), spacing=0.01)
    with pytest.raises(ValueError, match="the profiles have 2 and 1 places"):
        epg.tse(*column(*(1.0,) * 4), refocus=(1.0,), phase=(0.0,), spacing=0.01, excitation_profile=(1.0, 0.5))


def test_no_relaxation_time_is_no_signal():
    train = {"flip_angle": tuple(ANGLES), "repetition_time": 0.01, "echo_time": 0.002}
    found = epg.spoiled_gradient_echo(*column([0.0, 1.0], [0.0, 0.0], 1.0, 1.0), **train)
    assert np.abs(found.signal).max() < 1e-30
    assert np.isfinite(epg.spoiled_steady_state(*column([0.0, 1.0], [0.0, 0.0], 1.0), **train).signal).all()


def test_mrpro_agrees():
    """Another project's graph, in complex64 and Weigel's signs: the conjugate, with negated phases."""
    peer = pytest.importorskip("mrpro.operators.models.EPG", reason="mrpro is not installed")
    torch = pytest.importorskip("torch")
    t1, t2, b1 = column([0.8, 1.4], [0.06, 0.1], [1.0, 0.8])
    tissue = peer.Parameters(*(torch.tensor(x, dtype=torch.float32) for x in (np.ones(2), t1, t2)),
                             relative_b1=torch.tensor(b1, dtype=torch.complex64))  # fmt: skip
    n = np.arange(len(ANGLES))
    phase = n * (n - 1) / 2 * SPOIL % (2 * np.pi)
    train = peer.FispBlock(torch.tensor(ANGLES, dtype=torch.float32), torch.tensor(-phase, dtype=torch.float32), 0.002,
                           0.008)  # fmt: skip
    inverted = peer.EPGSequence([peer.InversionBlock(0.03), train])
    theirs = torch.stack(inverted(tissue, states=60)[1]).numpy().T.conj() * np.exp(-1j * phase) / 1j
    mz = epg.inversion(t1, np.ones(2), inversion_time=0.03).mz
    ours = epg.spoiled_gradient_echo(t1, t2, b1, mz, flip_angle=tuple(ANGLES), repetition_time=0.008, echo_time=0.002,
                                     error=1e-7)  # fmt: skip
    np.testing.assert_allclose(ours.signal, theirs, atol=3e-6)
