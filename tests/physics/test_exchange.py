"""Bloch-McConnell saturation against two simulators' stored answers, dense matrix exponentials and closed forms.

Budget: 20 s on two cores, most of which compiles.
"""

import itertools
import os
import re
from pathlib import Path

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.io import loadmat
from scipy.linalg import expm
from scipy.ndimage import label
from scipy.optimize import least_squares

from factory.physics import _lineshapes, exchange
from factory.physics.exchange import GAMMA_BAR, Pools
from factory.sequences import parse

DATA = Path(os.environ.get("FACTORY_REFERENCE_DATA", Path(__file__).parents[3] / "shared" / "data")) / "cest"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="no reference data (FACTORY_REFERENCE_DATA)")
THEIR_GAMMA = 267.5153e6 / (2 * np.pi)  # Hz/T, written in both simulators' parameter files
FIELD = 3.0
PPM = 2 * np.pi * GAMMA_BAR * FIELD * 1e-6
W1 = 2 * np.pi * GAMMA_BAR * 2e-6
OFFSETS = tuple(np.linspace(-6, 6, 13) + 0.25)
WATER = {"t1": 1.3, "t2": 0.075, "off_resonance": 0.0}
AMIDE = {"fraction": 0.005, "exchange_rate": 100.0, "shift": 3.5, "solute_t1": 1.1, "solute_t2": 0.01}
SEMISOLID = {"semisolid_fraction": 0.05, "semisolid_exchange_rate": 23.0, "semisolid_t1": 1.0, "semisolid_t2": 1e-5}
NOTHING = {"fraction": 0.0, "semisolid_fraction": 0.0}


def pools(**given):
    """One sample unless arrays are given."""
    values = WATER | AMIDE | SEMISOLID | given
    return Pools(*(np.atleast_1d(np.asarray(values[name], float)) for name in Pools._fields))


def spectrum(offset=OFFSETS, b1=1.0, amplitude=2e-6, duration=2.0, line="super_lorentzian", centre=0.0, start=1.0,
             **given):
    return exchange.spectra(pools(**given), np.atleast_1d(b1), tuple(offset), amplitude, duration, FIELD, line, centre,
                            start)[0]


def dense(wrf, w1, phase=0.0, line="super_lorentzian", centre=0.0, **given):
    """The textbook matrix, (x, y, z) of every pool in units of M0, z of the semisolid one and the constant 1."""
    v = WATER | AMIDE | SEMISOLID | given
    solutes = list(zip(*(np.atleast_1d(v[k]) for k in AMIDE), strict=True))
    n = 1 + len(solutes)
    a, free = np.zeros((3 * n + 2, 3 * n + 2)), 2 * np.pi * v["off_resonance"] - wrf
    for p, (f, k, shift, t1, t2) in enumerate([(1.0, 0.0, 0.0, v["t1"], v["t2"]), *solutes]):
        x, y, z = 3 * p, 3 * p + 1, 3 * p + 2
        apart = shift * PPM + free
        wx, wy = w1 * np.cos(phase), w1 * np.sin(phase)
        a[x, y], a[y, x] = apart, -apart
        a[y, z], a[z, y] = wx, -wx  # a pulse of phase 0 takes z to +y ...
        a[x, z], a[z, x] = -wy, wy  # ... and one of phase 90 degrees to -x
        a[x, x] -= 1 / t2
        a[y, y] -= 1 / t2
        a[z, z] -= 1 / t1
        a[z, -1] = f / t1
        for c in range(3 if p else 0):
            a[c, c] -= f * k
            a[x + c, x + c] -= k
            a[c, x + c] += k
            a[x + c, c] += f * k
    s, f, k = 3 * n, v["semisolid_fraction"], v["semisolid_exchange_rate"]
    absorbed = _lineshapes.absorption(exchange.LINES.index(line), _lineshapes.super_lorentzian(),
                                      centre * PPM + free, v["semisolid_t2"], PPM)
    a[s, s] = -1 / v["semisolid_t1"] - k - w1**2 * absorbed
    a[s, -1] = f / v["semisolid_t1"]
    a[2, 2] -= f * k
    a[2, s], a[s, 2] = k, f * k
    return a


def balance(start=1.0, **given):
    v = WATER | AMIDE | SEMISOLID | given
    z = [1.0, *np.atleast_1d(v["fraction"])]
    return np.array([*np.kron(z, [0, 0, start]), start * v["semisolid_fraction"], 1.0])


def turned(m, angle):
    """Mx + i My of every pool times exp(i angle)."""
    xy, m = np.exp(1j * angle) * (m[0:-2:3] + 1j * m[1:-2:3]), m.copy()
    m[0:-2:3], m[1:-2:3] = xy.real, xy.imag
    return m


def file_text(name):
    return (DATA / name).read_text()


def wasabi():
    """Ours and BMCTool's; it leaves out the dead times of a pulse, so they are taken out of the file's text."""
    text = re.sub(r"^( *\d+) 513 ", r"\1 500 ", file_text("bmc__WASABI.seq"), flags=re.M)
    text = text.replace(" 1 2 3 100 ", " 1 2 3 0 ")
    water = pools(t1=1.0, t2=1 / 15, **NOTHING)
    found = exchange.train(parse(text)).signals(water, np.ones(1), FIELD, 0.0, "lorentzian", 0.5)
    assert found.shape == (1, 32, 3)
    return found[0, :, 2], np.loadtxt(DATA / "bmc__example_results.txt")


@needs_data
def test_wasabi_is_that_of_bmctool():
    np.testing.assert_allclose(*wasabi(), rtol=0, atol=1e-12)


TWO = {"fraction": [[6.4865e-4, 1.8018e-4]], "exchange_rate": [[30, 1100]], "shift": [[3.5, 2.0]],
       "solute_t1": [[1.3, 1.3]], "solute_t2": [[0.1, 0.1]]}


def aptw(train):
    """Ours, the stored answer, and offsets in ppm of its 41 spectral points."""
    grey = pools(semisolid_t1=1.3, **TWO)
    found = train.signals(grey, np.ones(1), FIELD * THEIR_GAMMA / GAMMA_BAR, 0.0, "super_lorentzian", 0.5)[0, :, 2]
    wanted = loadmat(DATA / "pc__ZMagAfterStandardProtocol.mat")["ZMagAfterStandardProtocol"].ravel()
    assert wanted.shape == found.shape == (41,)
    return found, wanted, np.array([-300.0, *np.linspace(-8, 8, 40)])


@needs_data
def test_aptw_is_that_of_pulseq_cest():
    """7.5e-4 apart, which the next test explains."""
    found, wanted, _ = aptw(exchange.train(parse(file_text("pc__APTw_3T_example.seq")), 300))
    assert np.abs(found - wanted).max() < 1e-3


@needs_data
def test_aptw_is_closer_with_its_sampling_and_its_line(monkeypatch):
    """It takes every 167th of 49 973 samples of a pulse, 299 of them, and integrates the line with 101 nodes.

    Within 1 ppm of the line's pole it goes on in another way than we do: left out.
    """
    x = np.exp(_lineshapes._FIRST + _lineshapes._STEP * np.arange(_lineshapes._POINTS))[:, None]
    distance = np.abs(3 * (0.01 * np.arange(101)) ** 2 - 1)
    part = 0.01 * np.sqrt(2 * np.pi) * np.exp(-2 * (x / distance) ** 2) / distance
    table = np.stack([part.sum(1), (-4 * (x / distance) ** 2 * part).sum(1)], 1)
    monkeypatch.setattr(exchange, "super_lorentzian", lambda: table)
    writing, does = exchange._Writing(), exchange.RESET
    for block in parse(file_text("pc__APTw_3T_example.seq")).blocks():
        pulse = block.pulse
        if pulse is not None:
            writing.add(0.0, pulse.delay, does=does)
            amplitude = pulse.amplitude * np.abs(pulse.shape[: 299 * 167 : 167]) / GAMMA_BAR
            phase = -np.angle(pulse.shape[: 299 * 167 : 167])
            writing.add(amplitude, 167e-6, pulse.offset.frequency, phase, turn=-pulse.offset.phase)
            writing.add(0.0, 57e-6)
        elif block.readout is not None:
            writing.add(0.0, 0.0, does=does | exchange.RECORD)
        else:
            writing.add(0.0, block.duration, does=does | (exchange.SPOIL_AFTER if block.gradients[2] else 0))
        does = 0 if block.readout is None else exchange.RESET
    found, wanted, offset = aptw(writing.done())
    assert np.abs(found - wanted)[np.abs(offset) > 1].max() < 1e-6


def moved_and_still(shift):
    """A spectrum off resonance by some ppm, and one whose offsets are smaller by as much."""
    return (spectrum(off_resonance=shift * PPM / (2 * np.pi), centre=-2.5),
            spectrum(np.array(OFFSETS) - shift, centre=-2.5))


@pytest.mark.parametrize("shift", [0.3, -0.7])
def test_off_resonance_moves_the_whole_spectrum(shift):
    """To higher offsets where it is positive, pools and line with it."""
    moved, still = moved_and_still(shift)
    assert np.abs(moved - still).max() < 1e-9
    assert np.abs(still - spectrum(centre=-2.5)).max() > 1e-3


@pytest.mark.parametrize("shift", [-0.3, 0.0, 0.3])
def test_a_solute_dips_at_its_shift(shift):
    """Moved with the field, not against it; 0.02 ppm towards water, where its own saturation is stronger."""
    offsets = np.arange(2.5, 4.5, 0.01)
    given = {"off_resonance": shift * PPM / (2 * np.pi), "amplitude": 0.5e-6}
    lost = spectrum(offsets, fraction=0.0, **given) - spectrum(offsets, **given)
    assert offsets[lost.argmax()] == pytest.approx(3.48 + shift, abs=0.011)
    mirrored = spectrum(-offsets, fraction=0.0, **given) - spectrum(-offsets, **given)
    assert mirrored.max() < 0.1 * lost.max()


def test_water_alone_ends_in_the_steady_state_of_bloch():
    w = np.array(OFFSETS) * PPM
    wanted = (1 + (w * 0.075) ** 2) / (1 + (w * 0.075) ** 2 + W1**2 * 1.3 * 0.075)
    np.testing.assert_allclose(spectrum(duration=60.0, **NOTHING), wanted, rtol=1e-10)


def test_without_a_pulse_water_recovers():
    found = spectrum(amplitude=0.0, duration=0.7, start=0.2, **NOTHING)
    np.testing.assert_allclose(found, 1 - 0.8 * np.exp(-0.7 / 1.3), rtol=1e-12)


def test_a_long_pulse_ends_in_the_solved_steady_state():
    for offset, z in zip(OFFSETS, spectrum(duration=40.0), strict=True):
        a = dense(offset * PPM, W1)
        assert z == pytest.approx(np.linalg.solve(a[:-1, :-1], -a[:-1, -1])[2], rel=1e-9)


def test_without_exchange_water_does_not_know_of_pools():
    apart = spectrum(exchange_rate=0.0, semisolid_exchange_rate=0.0)
    np.testing.assert_allclose(apart, spectrum(**NOTHING), rtol=0, atol=1e-12)


def test_a_pool_without_magnetisation_is_not_there():
    """Left out of the equations, which is what they say as it becomes small."""
    none, few = spectrum(**NOTHING), spectrum(fraction=1e-13, semisolid_fraction=1e-13)
    np.testing.assert_allclose(few, none, rtol=0, atol=1e-10)


def test_exchange_is_that_of_the_spin_lock():
    """Z = cos^2 R1 / R1rho in the steady state: Zaiss, Bachert 2013, for a solute that is labelled alone."""
    offsets, k, f, r2b = np.array([2.0, 3.0, 3.25, 3.5, 3.75, 5.0]), 100.0, 0.005, 100.0
    given = {"amplitude": 1e-6, "semisolid_fraction": 0.0, "solute_t2": 1 / r2b, "duration": 40.0}
    w, wb, w1, r1, r2 = offsets * PPM, (3.5 - offsets) * PPM, W1 / 2, 1 / 1.3, 1 / 0.075
    sine = w1**2 / (w1**2 + w**2)
    width = (k + r2b) / k * w1**2 + (k + r2b) ** 2
    lost = f * k * sine * ((3.5 * PPM) ** 2 + r2b / k * (w**2 + w1**2) + r2b * (k + r2b)) / (width + wb**2)
    r1rho = r1 * (1 - sine) + r2 * sine + lost
    wanted = (1 - sine) * r1 / r1rho
    np.testing.assert_allclose(spectrum(offsets, **given), wanted, rtol=0.02)
    assert np.abs(spectrum(offsets, **{**given, "fraction": 0.0}) / wanted - 1).max() > 0.2


SOLUTES = {"fraction": [0.005, 2e-4], "exchange_rate": [100.0, 1100.0], "shift": [3.5, 2.0], "solute_t1": [1.1, 1.4],
           "solute_t2": [0.01, 0.1]}


@pytest.mark.parametrize("line", exchange.LINES)
@pytest.mark.parametrize("several", [{}, SOLUTES])
def test_spectra_are_those_of_a_dense_exponential(line, several):
    given = several | {"off_resonance": 30.0}
    found = spectrum(line=line, centre=-2.5, start=0.5, b1=1.1, **{k: [v] for k, v in given.items()})
    for offset, z in zip(OFFSETS, found, strict=True):
        a = dense(offset * PPM, 1.1 * W1, line=line, centre=-2.5, **given)
        assert z == pytest.approx((expm(2.0 * a) @ balance(0.5, **given))[2], abs=1e-10)


TRAIN = {"pulse": (0.5e-6, 3e-6, 4e-6, 1e-6), "phase": (0.0, 0.5, -1.0, 2.0), "pulse_duration": 0.02, "pause": 0.013,
         "n_pulse": 3, "recovery": 0.4, "field": FIELD, "start": 0.5}


def test_trains_are_those_of_a_dense_exponential():
    """In the carrier's frame, where a pulse of offset w turns by -w t from the phase at which the one before ended."""
    offsets = (-3.5, 0.4, 3.5)
    columns = pools(**{k: [v] for k, v in (SOLUTES | {"off_resonance": 30.0}).items()})
    found = exchange.saturation_train(*columns[:2], np.array([0.9]), *columns[2:], offset=offsets, **TRAIN).z[0]
    given = SOLUTES | {"off_resonance": 30.0}
    step, w1 = TRAIN["pulse_duration"] / 4, 0.9 * 2 * np.pi * GAMMA_BAR * np.array(TRAIN["pulse"])
    for offset, z in zip(offsets, found, strict=True):
        w, m, played = offset * PPM, expm(0.4 * dense(0.0, 0.0, **given)) @ balance(0.5, **given), 0.0
        for n in range(3):
            if n:
                m = expm(TRAIN["pause"] * dense(0.0, 0.0, **given)) @ m
            m = turned(m, w * played)
            for amplitude, phase in zip(w1, TRAIN["phase"], strict=True):
                m = expm(step * dense(w, amplitude, phase, **given)) @ m
            played += TRAIN["pulse_duration"]
            m = turned(m, -w * played)
        assert z == pytest.approx(m[2], abs=1e-7)


def test_a_train_of_one_block_is_the_long_pulse():
    one = {"pulse": (2e-6,), "phase": (0.3,), "pulse_duration": 0.5, "pause": 0.1, "n_pulse": 1, "recovery": 0.0,
           "field": FIELD}
    columns = pools()
    found = exchange.saturation_train(*columns[:2], np.ones(1), *columns[2:], offset=OFFSETS, **one).z[0]
    np.testing.assert_allclose(found, spectrum(duration=0.5), atol=1e-7)


SCHEDULE = {"amplitude": (2e-6, 0.0, 4e-6, 1e-6), "saturation_offset": (3.5, 2.0, -1.0, 3.0), "saturation_time": 1.5,
            "recovery": 0.8, "flip_angle": np.pi / 3, "flip_time": 0.0021, "echo_time": 0.02, "field": FIELD}


def fingerprints(b1=1.0, constants=None, **given):
    columns = pools(**given)
    b1 = np.broadcast_to(b1, len(columns.t1)).astype(float)
    return exchange.fingerprint(*columns[:2], b1, *columns[2:], **(SCHEDULE | (constants or {}))).signal


def test_fingerprints_are_those_of_a_dense_exponential():
    m, spoil = balance(), np.array([0, 0, 1] * 2 + [1, 1])
    pause = {t: expm(t * dense(0.0, 0.0, off_resonance=20.0)) for t in (0.8, 0.02)}
    flip = expm(0.0021 * dense(0.0, 0.9 * np.pi / 3 / 0.0021, off_resonance=20.0))
    wanted = []
    for amplitude, offset in zip(SCHEDULE["amplitude"], SCHEDULE["saturation_offset"], strict=True):
        saturated = expm(1.5 * dense(offset * PPM, 0.9 * 2 * np.pi * GAMMA_BAR * amplitude, off_resonance=20.0))
        m = pause[0.02] @ flip @ (spoil * (saturated @ pause[0.8] @ m))
        wanted.append(np.hypot(m[0], m[1]))
        m = m * spoil
    np.testing.assert_allclose(fingerprints(0.9, off_resonance=20.0)[0], wanted, atol=1e-7)


def test_the_first_frame_of_water_is_its_flip():
    once = {"amplitude": (0.0,), "saturation_offset": (3.5,), "flip_time": 1e-9}
    found = fingerprints(t1=1e9, constants=once, **NOTHING)
    np.testing.assert_allclose(found, [[np.sin(np.pi / 3) * np.exp(-0.02 / 0.075)]], rtol=1e-6)


ARGININE = (5, 5, 3, 3.75, 2.5, 1.75, 5.5, 6, 3.75, 5.75, 0.25, 3, 6, 4.5, 3.75, 3.5, 3.5, 0, 3.75, 6, 3.75, 4.75, 4.5,
            4.25, 3.25, 5.25, 5.25, 0.25, 4.5, 5.25)  # fmt: skip


@needs_data
def test_vials_of_arginine_are_what_was_filled_in():
    """50 mM in each, by a fit of measured fingerprints, and exchange that is the faster the less sour: pH 4, 4.5, 5."""
    images = loadmat(DATA / "mrf__acquired_data.mat")["acquired_data"].astype(float)
    mean = images.mean(0)
    parts, count = label(mean > 0.3 * mean.max())
    vials = sorted(range(1, count + 1), key=lambda part: -np.count_nonzero(parts == part))[:3]
    fixed = {"shift": 3.0, "solute_t1": 2.8, "solute_t2": 0.04, "semisolid_fraction": 0.0, "constants": {
        "amplitude": tuple(1e-6 * b for b in ARGININE), "saturation_offset": (3.0,) * 30, "saturation_time": 3.0,
        "recovery": 1.0, "field": 9.4}}

    def apart(x, measured):
        made = fingerprints(t1=x[0], t2=x[1], fraction=x[2] * 0.05 * 3 / 110, exchange_rate=300 * x[3], **fixed)[0]
        return made / np.linalg.norm(made) - measured / np.linalg.norm(measured)

    found = []
    for vial in vials:
        fit = least_squares(apart, (2.9, 0.9, 1.0, 1.0), args=(images[:, parts == vial].mean(1),), diff_step=1e-3,
                            bounds=((2.5, 0.6, 0.2, 0.3), (3.3, 1.2, 2.4, 5.0)))  # fmt: skip
        assert np.linalg.norm(fit.fun) < 0.015
        found.append(fit.x[2:] * (50, 300))
    amounts, rates = np.array(sorted(found, key=lambda pair: pair[1])).T
    assert np.abs(amounts - 50).max() < 10
    assert 1.3 < rates[1] / rates[0] < 2
    assert 1.3 < rates[2] / rates[1] < 2


def line_by_quadrature(x):
    def density(u):
        return np.exp(-2 * (x / abs(3 * u * u - 1)) ** 2) / abs(3 * u * u - 1) if abs(3 * u * u - 1) > 0 else 0.0

    pole = 1 / np.sqrt(3)
    edges = sorted([0.0, 1.0, pole, *(pole + side * 0.3 * 10.0**-k for k in range(8) for side in (-1, 1))])
    return np.sqrt(2 * np.pi) * sum(quad(density, a, b, epsabs=1e-15, epsrel=1e-12, limit=200)[0]
                                    for a, b in itertools.pairwise(edges))


@pytest.mark.parametrize("x", [1e-4, 0.008, 0.06, 0.7, 2.4])
def test_the_super_lorentzian_line_is_its_integral(x):
    found = _lineshapes.absorption(2, _lineshapes.super_lorentzian(), x / 1e-5, 1e-5, 0.0)
    assert found / 1e-5 == pytest.approx(line_by_quadrature(x), rel=1e-8)


@pytest.mark.parametrize("line", range(3))
def test_lines_have_the_area_pi(line):
    """pi times a density over all frequencies, in the logarithm of the offset; the Lorentzian's wings are added."""
    table, t2 = _lineshapes.super_lorentzian(), 1e-5
    step = 1e-3
    offset = np.exp(np.arange(np.log(1e-5), np.log(12.0), step)) / t2
    values = [_lineshapes.absorption(line, table, w, t2, 0.0) for w in offset]
    wings = np.pi / 2 - np.arctan(offset[-1] * t2) if line == 0 else 0.0
    assert 2 * (np.sum(values * offset) * step + wings) == pytest.approx(np.pi, rel=2e-3)


def test_inside_one_ppm_the_line_goes_on_smoothly():
    table = _lineshapes.super_lorentzian()
    at = [_lineshapes.absorption(2, table, PPM * (1 + d), 1e-5, PPM) for d in (-2e-4, -1e-4, 1e-4, 2e-4)]
    slopes = np.diff(at) / np.array([1, 2, 1])
    np.testing.assert_allclose(slopes, slopes[1], rtol=1e-3)
    inside = [_lineshapes.absorption(2, table, PPM * d, 1e-5, PPM) for d in (-0.5, 0.0, 0.5)]
    assert inside[0] == inside[2] < inside[1] < 1.2 * at[0]


def test_no_sample_sees_its_neighbours():
    rng, n = np.random.default_rng(0), 20
    several = pools(t1=rng.uniform(0.5, 2, n), t2=rng.uniform(0.02, 0.2, n), off_resonance=rng.normal(0, 30, n),
                    fraction=rng.choice([0.0, 0.005], n), exchange_rate=rng.uniform(5, 2000, n), shift=np.full(n, 3.5),
                    solute_t1=np.ones(n), solute_t2=np.full(n, 0.01), semisolid_fraction=rng.choice([0.0, 0.1], n),
                    semisolid_exchange_rate=np.full(n, 20.0), semisolid_t1=np.ones(n), semisolid_t2=np.full(n, 1e-5))

    def run(part):
        some = Pools(*(x[part] for x in several))
        return (exchange.spectra(some, b1[part], OFFSETS, 2e-6, 2.0, FIELD, "super_lorentzian"),
                exchange.fingerprint(*some[:2], b1[part], *some[2:], **SCHEDULE).signal)

    b1 = rng.uniform(0.8, 1.2, n)
    whole = run(slice(None))
    for part in (slice(0, 1), slice(7, 12), slice(3, n)):
        assert all(np.array_equal(a, b[part]) for a, b in zip(run(part), whole, strict=True))


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="relaxation times must be above 0 s and finite"):
        spectrum(t2=0.0)
    with pytest.raises(ValueError, match="must not be negative"):
        spectrum(exchange_rate=-1.0)
    with pytest.raises(ValueError, match="there are 1 amplitudes and 4 offsets"):
        fingerprints(constants={"amplitude": (1e-6,)})
    columns = pools()
    with pytest.raises(ValueError, match="4 amplitudes and 1 phases"):
        exchange.saturation_train(*columns[:2], np.ones(1), *columns[2:], offset=OFFSETS, **(TRAIN | {"phase": (0.0,)}))
