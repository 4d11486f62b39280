"""The steps on top of the isochromats: voxels and slices against closed forms.

Budget: 15 s on two cores.
"""

import numpy as np
import pytest

from factory.physics import bloch, epg
from factory.sequences.table import Table


def fid(times, area=None):
    """A short pulse of 90 degrees, then samples at these times behind it."""
    time = np.concatenate([[0.0, 1e-9], 1e-9 + np.asarray(times)])
    rf = np.append(0.25e9, np.zeros(len(times)))
    areas = np.zeros((len(rf), 3)) if area is None else np.concatenate([np.zeros((1, 3)), area])
    return Table(time, rf.astype(complex), areas, np.arange(len(rf)) > 0, np.zeros(len(times)), np.array([[0, 1]]))


def voxel(sequence, t1=1.0, t2=0.1, r2_prime=0.0, off_resonance=0.0, b1=1.0, amplitude=1.0, **constants):
    given = np.broadcast_arrays(*map(np.atleast_1d, (t1, t2, r2_prime, off_resonance, b1, amplitude)))
    settings = {"extent": (0.0, 0.0, 0.0)} | constants
    return bloch.voxel(*(np.array(x, float) for x in given), sequence=sequence, **settings)


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_a_decay_has_t2_prime_off_resonance_and_amplitude(precision):
    t = np.linspace(1e-3, 0.06, 40)
    r2, f, a = np.array([0.0, 8.0, 25.0]), np.array([10.0, -35.0, 0.0]), np.array([1.0, 2.0, 0.5])
    made = voxel(fid(t), r2_prime=r2, off_resonance=f, amplitude=a, n_frequency=401, precision=precision)
    right = 1j * a[:, None] * np.exp(-t * (10 + r2[:, None]) - 2j * np.pi * f[:, None] * t)
    worst = np.abs(made.signal - right).max(axis=1) / a
    assert np.all(worst <= made.bound + 2e-6)
    assert made.bound[0] < 1e-4 < made.bound[1] < made.bound[2] < 2e-3
    assert worst[2] > made.bound[2] / 100, "a bound that is never approached says nothing"


def test_nothing_comes_back_where_t2_prime_is_long_and_short():
    """The decay lasts to the end of the sequence, and an echo brings all of it back."""
    time = np.array([0.0, 1e-9, 0.03, 0.03 + 1e-9, 0.06])
    rf = np.array([0.25e9, 0, -0.5e9j, 0])
    echo = Table(time, rf, np.zeros((4, 3)), np.array([0, 1, 0, 1], bool), np.zeros(2), np.array([[0, 1], [2, 3]]))
    made = voxel(echo, t1=1e9, t2=0.1, r2_prime=np.array([5.0, 100.0]), n_frequency=2001)
    assert np.allclose(np.abs(made.signal[:, 0]), np.exp(-0.03 / 0.1 - 0.03 * np.array([5.0, 100.0])), atol=2e-3)
    assert np.allclose(made.signal[:, 1], 1j * np.exp(-0.06 / 0.1), atol=2e-2 * np.array([0.05, 1]))


def test_dephasing_across_a_voxel_is_a_sinc():
    cycles = np.array([0.0, 0.3, 0.7, 1.0, 1.5, 4.0])
    area = np.diff(cycles, prepend=0.0)[:, None] / [1e-3, np.inf, np.inf]
    made = voxel(fid(np.arange(1, 7) * 1e-6, area), t1=1e9, t2=1e9, extent=(1e-3, 0.0, 0.0), across_x=64)
    assert np.allclose(made.signal, 1j * np.sinc(cycles), atol=2e-3)


def test_a_voxel_of_isochromats_is_a_phase_graph():
    """FISP by short pulses and one turn across the voxel behind every echo: the same train as `epg.fisp`."""
    flips, tr, te = np.deg2rad([70, 20, 45, 60, 10, 35, 80, 25]), 12e-3, 4e-3
    time = np.concatenate([[0.0], *(n * tr + np.array([1e-9, te, tr]) for n in range(8))])
    rf, area = np.zeros(24, complex), np.zeros((24, 3))
    rf[::3], area[2::3, 2] = flips / (2 * np.pi) / 1e-9, 1 / 5e-3
    sequence = Table(time, rf, area, np.arange(24) % 3 == 1, np.zeros(8), np.arange(0, 24, 3)[:, None] + [0, 1])
    t1, t2, b1 = np.array([0.8, 2.0]), np.array([0.05, 0.2]), np.array([1.0, 0.85])
    made = voxel(sequence, t1=t1, t2=t2, b1=b1, extent=(0.0, 0.0, 5e-3), across_z=64)
    graph = epg.fisp(t1, t2, b1, -np.ones(2), flip_angle=tuple(flips), repetition_time=(tr,) * 8, echo_time=te,
                     inversion_time=0.0, error=1e-7).signal
    assert np.allclose(made.signal, 1j * graph, atol=2e-5)


def test_a_slice_is_the_fourier_sum_of_its_pixels():
    rng = np.random.default_rng(3)
    shape, t = (2, 5, 6), np.array([1e-3, 2e-3, 7e-3])
    t1, t2 = rng.uniform(0.5, 2, shape), rng.uniform(0.03, 0.2, shape)
    amplitude, f = rng.uniform(0, 1, shape) * (rng.random(shape) < 0.7), rng.uniform(-40, 40, shape)
    area = np.column_stack([rng.uniform(-100, 100, (3, 2)), np.zeros(3)])
    made = bloch.scan(t1, t2, amplitude, f, np.ones(2), sequence=fid(t, area), extent=(2e-3, 3e-3, 0.0),
                      precision="float64").signal
    y, x = 3e-3 * (np.arange(5) - 2)[:, None], 2e-3 * (np.arange(6) - 3)
    for n, k in enumerate(np.cumsum(area, axis=0)):
        turns = k[0] * x + k[1] * y + f * t[n]
        right = 1j * (amplitude * np.exp(-t[n] / t2 - 2j * np.pi * turns)).sum(axis=(1, 2)) / np.sqrt(30)
        assert np.allclose(made[:, n], right, atol=1e-6)


def test_an_empty_slice_is_silent():
    zero = np.zeros((1, 4, 4))
    made = bloch.scan(zero, zero, zero, zero, np.ones(1), sequence=fid([1e-3]), extent=(1e-3, 1e-3, 1e-3))
    assert not made.signal.any()


def test_an_extent_needs_three_lengths():
    with pytest.raises(ValueError, match="three lengths, along x, y and z, not 2"):
        voxel(fid([1e-3]), extent=(1e-3, 1e-3))
