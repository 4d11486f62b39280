"""Slice profiles of pulses against the Fourier transform of weak ones and spinors of strong ones.

Budget: 10 s on two cores.
"""

import numpy as np
import pytest

from factory.physics import epg
from factory.sequences.table import Table

LENGTH, PIECES, THICKNESS = 2e-3, 400, 5e-3
GRADIENT = 4 / LENGTH / THICKNESS  # Hz/m, of four zero crossings over the thickness


def sinc(angle, direction=(0.0, 0.0, 1.0), offset=0.0, pieces=PIECES):
    """A sinc with a Hann window of one half between two empty intervals: rad, and Hz of its frequency."""
    t = LENGTH * ((np.arange(pieces) + 0.5) / pieces - 0.5)
    rf = np.sinc(4 * t / LENGTH) * (0.5 + 0.5 * np.cos(2 * np.pi * t / LENGTH)) + 0j
    rf *= angle / (2 * np.pi * rf.sum() * LENGTH / pieces)
    rf *= np.exp(-2j * np.pi * offset * t) / np.sinc(offset * LENGTH / pieces)  # as tables of sequences have it
    time = np.concatenate([[0.0], 1e-3 + LENGTH / pieces * np.arange(pieces + 1), [5e-3]])
    area = np.zeros((pieces + 2, 3))
    area[1:-1] = GRADIENT * LENGTH / pieces * np.array(direction)
    area[-1] = -0.5 * GRADIENT * LENGTH * np.array(direction)
    return Table(time, np.concatenate([[0], rf, [0]]), area, np.zeros(pieces + 2, bool), np.zeros(0),
                 np.array([[1, pieces + 1]]))  # fmt: skip


def places(count, width=2 * THICKNESS):
    return width * ((np.arange(count) + 0.5) / count - 0.5)


def test_a_weak_pulse_is_its_fourier_transform():
    table = sinc(0.01)
    found = epg.slice_profile(table, 2 * THICKNESS, 41)
    rf, t = table.rf[1:-1], LENGTH * (np.arange(PIECES) + 0.5) / PIECES
    wanted = np.abs(np.exp(2j * np.pi * GRADIENT * t * places(41)[:, None]) @ rf) / np.abs(rf.sum())
    np.testing.assert_allclose(found, wanted, atol=1e-4)
    assert found[20] == pytest.approx(1, abs=1e-6)
    assert found[0] < 0.02


@pytest.mark.parametrize("angle", [np.pi / 2, 2.8])
def test_a_strong_pulse_is_the_product_of_its_rotations(angle):
    """Spinors: Mz behind a turn is |a|**2 - |b|**2."""
    table, wanted = sinc(angle), []
    for z in places(21):
        a, b = 1 + 0j, 0j
        for rf, area in zip(table.rf[1:-1] * LENGTH / PIECES, table.area[1:-1, 2], strict=True):
            x, y, w = rf.real, rf.imag, area * z
            phi = 2 * np.pi * np.sqrt(x * x + y * y + w * w)
            c, s = np.cos(phi / 2), np.sin(phi / 2) * 2 * np.pi / phi
            alpha, beta = c + 1j * s * w, 1j * s * (x + 1j * y)
            a, b = alpha * a - np.conj(beta) * b, beta * a + np.conj(alpha) * b
        wanted.append(np.arccos(abs(a) ** 2 - abs(b) ** 2) / angle)
    np.testing.assert_allclose(epg.slice_profile(table, 2 * THICKNESS, 21), wanted, atol=1e-7)


def test_a_slice_lies_where_its_frequency_and_gradient_put_it():
    """Along any direction, and off the centre: a pulse of frequency f selects what the gradient makes precess at f."""
    whole, centre = epg.slice_profile(sinc(1.2), 2 * THICKNESS, 21), 0.03
    found = epg.slice_profile(sinc(1.2, (0.6, 0.0, -0.8)), 2 * THICKNESS, 21)
    np.testing.assert_allclose(found, whole, atol=1e-9)
    found = epg.slice_profile(sinc(1.2, offset=GRADIENT * centre, pieces=1600), 2 * THICKNESS, 21, centre=centre)
    np.testing.assert_allclose(found, whole, atol=1e-4)


def test_without_a_gradient_all_places_are_alike():
    np.testing.assert_allclose(epg.slice_profile(sinc(1.2, (0, 0, 0)), 1e-2, 3), 1, atol=1e-9)


def test_it_takes_a_sequence_that_is_built():
    pytest.importorskip("pypulseq")
    from factory.sequences.building import built

    sequence = built("gradient_echo", {"lines": 2, "flip_angle": 0.3, "slice_thickness": THICKNESS})
    found = epg.slice_profile(sequence.table(step=2e-6), 2 * THICKNESS, 21, pulse=1)
    assert found[10] == pytest.approx(1, abs=2e-3)
    assert found[5] == pytest.approx(0.5, abs=0.05)  # an edge of the slice
    assert max(found[:3]) < 0.1
