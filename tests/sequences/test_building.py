"""Sequences that are built: where their samples lie in k-space, when their echoes come, and what they refuse.

Budget: 20 s on two cores.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from factory.sequences import Sequence, SequenceError, Table
from factory.sequences.building import builders, built, compiled
from factory.sequences.spiral import trajectory
from factory.step import constants_of
from factory.units import GAMMA_BAR

pytest.importorskip("pypulseq")



def centre(sequence: Sequence, number: int) -> float:
    """When the middle of a pulse comes, in s."""
    block = [block for block in sequence.blocks() if block.pulse is not None][number]
    assert block.pulse is not None
    assert block.pulse.center is not None
    return block.start + block.pulse.delay + block.pulse.center


def travelled(table: Table, start: float) -> np.ndarray:
    """k in 1/m at each sample, from a time on, shape (sample, 3)."""
    along = np.concatenate([np.zeros((1, 3)), np.cumsum(table.area, 0)])
    origin = np.array([np.interp(start, table.time, along[:, axis]) for axis in range(3)])
    return along[1:][table.sampled] - origin


def strongest(sequence: Sequence) -> tuple[float, float]:
    """The largest gradient in T/m and the steepest slope in T/m/s."""
    gradient = slope = 0.0
    for block in sequence.blocks():
        for one in block.gradients:
            if one is not None:
                gradient = max(gradient, float(abs(one.value).max()))
                width = np.diff(one.time)
                slope = max(slope, float((abs(np.diff(one.value))[width > 0] / width[width > 0]).max()))
    return gradient / GAMMA_BAR, slope / GAMMA_BAR


@pytest.mark.parametrize(("columns", "lines", "preparation"), [(32, 16, 0), (9, 7, 3)])
def test_a_gradient_echo_samples_the_grid_at_its_echo_time(columns: int, lines: int, preparation: int) -> None:
    sequence = built("gradient_echo", {"columns": columns, "lines": lines, "preparation": preparation,
                                       "field_of_view": 0.2, "echo_time": 6e-3, "repetition_time": 15e-3})
    table = sequence.table()
    assert len(table.pulses) == lines + preparation
    times = table.sample_times.reshape(lines, columns)
    kspace = travelled(table, 0.0).reshape(lines, columns, 3)
    for line in range(lines):
        middle = centre(sequence, line + preparation)
        assert times[line, columns // 2] - middle == pytest.approx(6e-3, abs=5.1e-6)
        k = travelled(table, middle).reshape(lines, columns, 3)[line] * 0.2
        np.testing.assert_allclose(k[:, 0], np.arange(columns) - columns // 2, atol=2e-4)
        np.testing.assert_allclose(k[:, 1], line - lines // 2, atol=1e-4)
        assert abs(k[:, 2]).max() < 1e-3
    period = np.diff([centre(sequence, number) for number in range(lines + preparation)])
    np.testing.assert_allclose(period, 15e-3, atol=5.1e-6)
    assert kspace.shape == (lines, columns, 3)


def test_the_phase_of_a_gradient_echo_grows_quadratically_and_the_receiver_follows() -> None:
    sequence = built("gradient_echo", {"columns": 8, "lines": 6})
    table = sequence.table()
    phases = [block.pulse.offset.phase for block in sequence.blocks() if block.pulse is not None]
    expected = np.deg2rad(117) * np.array([n * (n + 1) / 2 for n in range(6)])
    np.testing.assert_allclose(np.exp(1j * np.array(phases)), np.exp(1j * expected), atol=1e-4)
    np.testing.assert_allclose(table.receiver.reshape(6, 8)[:, 0], phases, atol=1e-12)


@pytest.mark.parametrize("spin_echo", [True, False])
@pytest.mark.parametrize("ramp_sampling", [True, False])
@pytest.mark.parametrize("columns", [32, 15])
def test_an_epi_runs_every_other_line_backwards_and_echoes_in_time(spin_echo: bool, ramp_sampling: bool,
                                                                   columns: int) -> None:
    sequence = built("epi", {"columns": columns, "lines": 12, "echo_time": 60e-3, "spin_echo": spin_echo,
                             "ramp_sampling": ramp_sampling})
    table = sequence.table()
    times = table.sample_times.reshape(12, columns)
    assert times[6].mean() - centre(sequence, 0) == pytest.approx(60e-3, abs=1.1e-5)
    start = sequence.border[-1 - 24]  # the train of 12 lines and 11 blips, and the prephasers before it
    if spin_echo:
        assert centre(sequence, 1) - centre(sequence, 0) == pytest.approx(30e-3, abs=1.1e-5)
    k = travelled(table, float(start)).reshape(12, columns, 3) * 0.22
    k[1::2] = k[1::2, ::-1]
    np.testing.assert_allclose(k[:, :, 1], np.arange(12)[:, None] - 6 + np.zeros(columns), atol=1e-4)
    np.testing.assert_allclose(k[:, :, 0], k[:1, :, 0] + np.zeros((12, 1)), atol=1e-4)
    if ramp_sampling:
        np.testing.assert_allclose(k[0, :, 0], -k[0, ::-1, 0], atol=1e-4)
        assert np.all(np.diff(k[0, :, 0]) > 0)
        assert k[0, 0, 0] == pytest.approx(-columns / 2, abs=0.6)
    else:
        np.testing.assert_allclose(k[0, :, 0], np.arange(columns) - columns // 2, atol=1e-3)


@pytest.mark.parametrize(("interleaves", "pixels"), [(8, 64), (1, 48)])
def test_a_spiral_turns_outwards_at_an_even_pitch_and_comes_back(interleaves: int, pixels: int) -> None:
    sequence = built("spiral", {"interleaves": interleaves, "pixels": pixels, "repetition_time": 50e-3})
    table = sequence.table()
    shots = table.sample_times.reshape(interleaves, -1)
    for shot in range(interleaves):
        middle = centre(sequence, shot)
        assert shots[shot, 0] - middle == pytest.approx(4e-3 + 1e-6, abs=5.1e-6)
        k = travelled(table, middle).reshape(interleaves, -1, 3)[shot] * 0.22
        assert abs(k[:, 2]).max() < 1e-3
        along = (k[:, 0] + 1j * k[:, 1]) * np.exp(-2j * np.pi * shot / interleaves)
        angle = np.unwrap(np.angle(along[20:]))
        np.testing.assert_allclose(np.diff(abs(along[20:])).sum() / np.diff(angle).sum() * 2 * np.pi, interleaves,
                                   rtol=2e-3)
        np.testing.assert_allclose(abs(along[20:]), interleaves * angle / (2 * np.pi), atol=0.15)
        assert abs(along[-1]) == pytest.approx(pixels / 2, abs=0.1)
    between = np.searchsorted(table.time, centre(sequence, interleaves - 1) - 1.5e-3) if interleaves > 1 else -1
    np.testing.assert_allclose(np.cumsum(table.area, 0)[between, :2] * 0.22, 0.0, atol=0.05 * interleaves)


def test_a_spiral_follows_its_limits_and_the_closed_form_for_long_times() -> None:
    k = trajectory(0.22, 128, 1, gradient=0.02, slew=100.0)
    slope = abs(np.diff(k, 2)) / 1e-10 / GAMMA_BAR
    gradient = abs(np.diff(k)) / 1e-5 / GAMMA_BAR
    assert slope.max() <= 100.0 * 1.001
    assert gradient.max() <= 0.02 * 1.001
    assert gradient[-1] == pytest.approx(0.02, rel=1e-3)
    free = trajectory(0.22, 256, 1, gradient=10.0, slew=100.0)
    angle = abs(free) * 2 * np.pi * 0.22
    limit = (9 / 4 * GAMMA_BAR * 100.0 * 2 * np.pi * 0.22) ** (1 / 3) * (np.arange(len(free)) * 1e-5) ** (2 / 3)
    assert angle[-1] / limit[-1] == pytest.approx(1.0, abs=2e-3)


@pytest.mark.parametrize("name", ["gradient_echo", "epi", "spiral"])
def test_limits_are_kept(name: str) -> None:
    sequence = built(name, {"max_gradient": 0.02, "max_slew": 60.0} | ({"lines": 8} if name != "spiral" else {}))
    gradient, slope = strongest(sequence)
    assert gradient <= 0.02 * (1 + 1e-5)
    assert slope <= 60.0 * (1 + 1e-5)
    assert sequence.intact


@pytest.mark.parametrize(("name", "constants", "says"), [
    ("gradient_echo", {"echo_time": 1e-3}, "gradient_echo: the echo time is .* ms too short"),
    ("gradient_echo", {"repetition_time": 5e-3}, "the repetition time is .* ms too short"),
    ("gradient_echo", {"slice_thickness": 1e-4}, "gradient_echo: "),
    ("epi", {"echo_time": 10e-3}, "epi: the echo time is .* ms too short"),
])
def test_what_does_not_fit_is_said(name: str, constants: dict[str, Any], says: str) -> None:
    with pytest.raises(SequenceError, match=says):
        built(name, constants)


@pytest.mark.parametrize("name", ["gradient_echo", "epi", "spiral"])
def test_every_knob_moves_the_sequence(name: str) -> None:
    """Law 2 for builders: no setting is without effect."""
    usual = {"gradient_echo": {"lines": 8, "columns": 16, "preparation": 1}, "spiral": {},
             "epi": {"lines": 8, "columns": 16, "ramp_sampling": False}}[name]
    before = built(name, usual).table()
    changed: dict[str, Callable[[Any], Any]] = {"bool": lambda v: not v, "int": lambda v: v + 3,
                                                "max_gradient": lambda v: 0.8 * v}
    for key, what in constants_of(builders()[name]).items():
        value = usual.get(key, what.default)
        other = changed.get(key, changed.get(what.kind, lambda v: 1.5 * v))(value)
        assert built(name, usual | {key: other}).table() != before, key


def test_without_pypulseq_a_sentence_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pypulseq", None)
    with pytest.raises(SequenceError, match="pip install pypulseq"):
        built("epi", {"lines": 5})


def test_a_sequence_of_pypulseq_whose_timing_is_wrong_is_refused() -> None:
    import pypulseq as pp

    system = pp.Opts(adc_dead_time=10e-6)
    right, wrong = pp.Sequence(system), pp.Sequence(system)
    right.add_block(pp.make_adc(10, dwell=1e-5, delay=20e-6, system=system), pp.make_delay(200e-6))
    wrong.add_block(pp.make_adc(10, dwell=1.00003e-5, delay=20.04e-6, system=system), pp.make_delay(200e-6))
    table = compiled(right).table()
    np.testing.assert_allclose(table.sample_times, 25e-6 + 1e-5 * np.arange(10), atol=1e-12)
    with pytest.raises(SequenceError, match=r"the timing does not fit the rasters or dead times: block 1, adc, "):
        compiled(wrong)
