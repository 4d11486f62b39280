"""The table of intervals: borders, areas, signs and off-resonant pulses.

Budget: 5 s on two cores.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import expm

from factory.sequences import parse
from factory.sequences.table import Table
from tests.sequences.test_reader import SMALL, path_of

NAMES = ["pulseq/pp__write_gre.seq", "pulseq/pp__write_haste.seq", "pulseq/pp__write_mprage.seq",
         "pulseq/koma__v1.4_spiral.seq", "cest/bmc__WASABI.seq", "jemris/koma__epi_100x100_TE100_FOV230.seq"]


@pytest.mark.parametrize("name", NAMES)
def test_borders_ascend_and_areas_sum_to_those_of_the_gradients(name: str) -> None:
    from factory.sequences import read

    sequence = read(path_of(name))
    table = sequence.table()
    assert table.time[0] == 0.0
    assert table.time[-1] == sequence.duration
    assert np.all(np.diff(table.time) > 0)
    assert len(table.rf) == len(table.area) == len(table.sampled) == len(table.time) - 1
    assert table.sampled.sum() == len(table.receiver)
    sums = np.zeros(3)
    for block in sequence.blocks():
        for axis, gradient in enumerate(block.gradients):
            if gradient is not None:
                sums[axis] += np.trapezoid(gradient.value, gradient.time)
    np.testing.assert_allclose(table.area.sum(0), sums, rtol=1e-10, atol=1e-8)
    played = np.zeros(len(table.rf), bool)
    for start, end in table.pulses:
        assert table.rf[start] != 0
        assert table.rf[end - 1] != 0
        assert not played[start:end].any()
        played[start:end] = True
    assert not table.rf[~played].any()


def bloch(table: Table, frequency: float) -> np.ndarray:
    """Magnetisation after a table that starts from +z; dM/dt = gamma M x B by dense exponentials, no relaxation."""
    m = np.array([0.0, 0.0, 1.0])
    for rf, length in zip(table.rf, table.duration, strict=True):
        x, y, z = 2 * np.pi * np.array([rf.real, rf.imag, frequency])
        m = expm(np.array([[0, z, -y], [-z, 0, x], [y, -x, 0]]) * length) @ m
    return m


def pulse_of(hertz: float, microseconds: float, frequency: float, phase: float) -> str:
    ticks = int(np.ceil(microseconds / 10))
    text = SMALL.replace("1 20 1 0 0 0 0 0\n2 30 0 1 0 2 1 0\n", f"1 {ticks} 1 0 0 0 0 0\n")
    text = text.replace("0\n100\n", f"0\n{microseconds:g}\n")
    return text.replace("1 2500 1 2 3 0 100 0.5", f"1 {hertz:g} 1 2 3 0 {frequency:g} {phase:g}")


def test_the_flip_angle_is_the_sum_over_the_pulse() -> None:
    """2500 Hz for 100 us is a quarter turn: a pulse of phase 0 takes +z to +i, of Pulseq's phase p to i exp(-ip)."""
    table = parse(pulse_of(2500, 100, 0, 0)).table()
    assert abs(np.sum(table.rf * table.duration)) == pytest.approx(0.25, abs=1e-14)
    np.testing.assert_allclose(bloch(table, 0.0), [0, 1, 0], atol=1e-12)
    x, y, _ = bloch(parse(pulse_of(2500, 100, 0, 0.7)).table(), 0.0)
    assert x + 1j * y == pytest.approx(1j * np.exp(-0.7j), abs=1e-12)


@pytest.mark.parametrize("frequency", [300.0, -300.0, 20e3])
@pytest.mark.parametrize("step", [1e-5, 1e-3])
def test_a_pulse_with_an_offset_turns_spins_of_that_frequency(frequency: float, step: float) -> None:
    """A weak pulse of 5 ms at +f inverts spins at +f, and leaves those at -f and 0 almost where they were."""
    table = parse(pulse_of(100, 5000, frequency, 0.3)).table(step=step)
    assert bloch(table, frequency)[2] == pytest.approx(-1.0, abs=2e-4)
    assert bloch(table, -frequency)[2] > 0.8
    assert bloch(table, 0.0)[2] > 0.6


def test_a_coarser_step_converges() -> None:
    from factory.sequences import read

    sequence = read(path_of("pulseq/koma__v1.4_gre.seq"))
    fine, coarse = sequence.table(step=1e-6), sequence.table()
    end = float(fine.time[fine.pulses[0, 1]])
    for frequency in (0.0, 400.0, -900.0):
        exact = bloch(_until(fine, end), frequency)
        np.testing.assert_allclose(bloch(_until(coarse, end), frequency), exact, atol=2e-4)


def _until(table: Table, end: float) -> Table:
    count = int(np.searchsorted(table.time, end + 1e-9)) - 1
    return Table(table.time[: count + 1].copy(), table.rf[:count].copy(), table.area[:count].copy(),
                 table.sampled[:count].copy(), table.receiver[:0].copy(), table.pulses[:0].copy())


def test_an_rf_spoiled_echo_is_measured_with_the_phase_of_its_pulse() -> None:
    """The receiver follows the pulse: Mxy right after a pulse of phase p, times exp(i receiver), does not depend on p.
    """
    measured = []
    for phase in (0.0, 1.1, 4.0):
        text = SMALL.replace("0 100 0.5", f"0 0 {phase}").replace("100 50 0.25", f"100 0 {phase}")
        table = parse(text).table()
        x, y, _ = bloch(table, 0.0)
        measured.append((x + 1j * y) * np.exp(1j * table.receiver[0]))
    np.testing.assert_allclose(measured, 1j, atol=1e-12)


def test_a_spin_at_the_offset_of_the_readout_is_measured_without_turning() -> None:
    table = parse(SMALL).table()
    turned = np.exp(-2j * np.pi * 50 * table.sample_times) * np.exp(1j * table.receiver)
    np.testing.assert_allclose(turned, turned[0], atol=1e-12)


def test_a_table_cannot_be_changed() -> None:
    sequence = parse(SMALL)
    table, block = sequence.table(), sequence.block(0)
    assert block.pulse is not None
    for array in (table.rf, table.receiver, sequence.rows, block.pulse.shape):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1.0
    assert sequence.table() is table
