"""Spins that walk and flow through whole sequences.  Budget: 30 s on two cores."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from factory.draws import Draws
from factory.physics import bloch
from factory.sequences.diffusion import diffusion
from factory.sequences.text import SequenceError
from factory.sequences.velocity_encoding import velocity_encoding

B_VALUES = (0.0, 300e6, 1000e6)  # s/m2
LONG = 1e9  # s, no relaxation


def moments(table: Any, axis: int, begin: float, end: float, refocus: float = np.inf) -> tuple[float, float, float]:
    """Area, first moment about `begin`, and integral of (2 pi k)**2 of what a table plays between two times, by sums
    over its intervals; behind a refocusing pulse gradients count the other way.
    """
    inside = (table.time[:-1] >= begin - 1e-9) & (table.time[1:] <= end + 1e-9)
    middle, length = 0.5 * (table.time[1:] + table.time[:-1])[inside], np.diff(table.time)[inside]
    area = table.area[inside, axis] * np.where(middle < refocus, 1.0, -1.0)
    behind = np.cumsum(area)
    before = behind - area
    square = (before**2 + before * behind + behind**2) / 3  # of a constant gradient inside an interval
    return float(area.sum()), float(((middle - begin) * area).sum()), float((2 * np.pi) ** 2 * (square * length).sum())


def test_the_builder_plays_the_b_values_that_are_asked_for() -> None:
    table = diffusion(b_value=B_VALUES).table(longest=2e-5)
    starts = table.time[table.pulses[::2, 0]]
    for start, sample, b in zip(starts, table.sample_times, B_VALUES, strict=True):
        centre = start + 0.1e-3
        assert sample - centre == pytest.approx(60e-3, abs=2e-9)
        area, _, found = moments(table, 0, centre, sample, centre + 30e-3)
        assert abs(area) < 1e-6
        assert found == pytest.approx(b, rel=1e-5, abs=1e-3)


def test_longer_intervals_play_the_same_sequence() -> None:
    sequence = diffusion(b_value=B_VALUES, axis="z")
    whole, cut = sequence.table(), sequence.table(longest=1e-4)
    assert np.diff(cut.time)[np.abs(cut.area).sum(1) > 0].max() <= 1e-4 * (1 + 1e-9)
    assert len(cut.time) < len(whole.time) + 2 * len(B_VALUES) * 160  # what has no gradient is left whole
    np.testing.assert_allclose(cut.sample_times, whole.sample_times, atol=1e-9)
    at = np.searchsorted(cut.time, whole.time - 1e-10)
    np.testing.assert_allclose(np.concatenate([[0], np.cumsum(cut.area[:, 2])])[at],
                               np.concatenate([[0], np.cumsum(whole.area[:, 2])]), atol=1e-6)  # fmt: skip
    with pytest.raises(SequenceError, match="must be positive"):
        sequence.table(longest=0.0)


@pytest.mark.parametrize("wrong", [{"separation": 15e-3}, {"echo_time": 40e-3}, {"repetition_time": 50e-3},
                                   {"b_value": (1e11,)}])  # fmt: skip
def test_a_sequence_that_cannot_be_played_is_refused(wrong: dict[str, Any]) -> None:
    from factory.sequences.building import built

    with pytest.raises(SequenceError, match=r"diffusion|short"):
        built("diffusion", {"b_value": (1e9,)} | wrong)


def walked(count: int, walkers: int, d: float, **given: Any) -> Any:
    full = np.full(count, 1.0)
    constants = {"sequence": diffusion(b_value=B_VALUES), "extent": (2e-3,) * 3, "walkers": walkers} | given
    return bloch.diffusing(LONG * full, LONG * full, d * full, full, full, Draws(3, "train", 0, count, "link/signal"),
                           **constants).signal


def test_walks_attenuate_a_spin_echo_by_exp_minus_b_d() -> None:
    """Stejskal and Tanner 1965.  Without relaxation the first repetition alone begins from equilibrium."""
    for b in (300e6, 1000e6):
        count, walkers, d = 30, 1000, 1.5e-9
        found = walked(count, walkers, d, sequence=diffusion(b_value=(b,)))[:, 0]
        left = np.exp(-b * d)
        apart = np.sqrt((1 - np.exp(-2 * b * d)) / (2 * walkers))  # of the real part of one voxel, at most
        mean = found.mean()
        assert abs(mean - 1j * mean.imag) < 4 * apart / np.sqrt(count)
        assert abs(mean.imag) == pytest.approx(left, abs=4 * apart / np.sqrt(count) + 2e-3)  # pieces of 1 ms
        assert 0.3 * apart < found.imag.std() < 1.5 * apart


def test_without_diffusion_nothing_is_lost_and_walks_belong_to_their_samples() -> None:
    still = walked(2, 20, 0.0)
    np.testing.assert_allclose(np.abs(still[:, 0]), 1, atol=1e-4)
    many, one, full = walked(5, 20, 1e-9), Draws(3, "train", 3, 4, "link/signal"), np.full(1, 1.0)
    sequence = diffusion(b_value=B_VALUES)
    alone = bloch.diffusing(LONG * full, LONG * full, 1e-9 * full, full, full, one, sequence=sequence,
                            extent=(2e-3,) * 3, walkers=20).signal  # fmt: skip
    np.testing.assert_array_equal(alone[0], many[3])


def flowed(v: Any, axis: str, **given: Any) -> Any:
    sequence = velocity_encoding(limit=0.8, direction=tuple(float(name == axis) for name in "xyz"))
    full = np.full(len(v), 1.0)
    velocity = {name: np.where(name == axis, v, 0.0) for name in "xyz"}
    return sequence, bloch.flowing(1.5 * full, 0.1 * full, *velocity.values(), 5 * full, full, full, sequence=sequence,
                                   extent=(1e-3,) * 3, precision="float64", **given).signal  # fmt: skip


@pytest.mark.parametrize("axis", ["x", "y", "z"])
def test_flow_turns_by_its_velocity_times_the_first_moment(axis: str) -> None:
    v = np.array([0.0, 0.3, -0.55, 0.8])
    sequence, signal = flowed(v, axis, **{f"across_{axis}": 3})
    table = sequence.table(longest=1e-5)
    turns = np.angle(signal[:, 0] / signal[0, 0])
    area, moment, _ = moments(table, "xyz".index(axis), 0.0, table.sample_times[0])
    assert abs(area) < 1e-9
    np.testing.assert_allclose(turns[1:3], -2 * np.pi * v[1:3] * moment, atol=1e-5)
    apart = signal[:, 0] * signal[:, 1].conj()
    np.testing.assert_allclose(np.abs(np.angle(apart[3] / apart[0])), np.pi, atol=1e-4)  # the limit: half a turn


def test_without_flow_it_is_a_voxel() -> None:
    sequence, signal = flowed(np.zeros(2), "z", across_x=2, across_z=3)
    full = np.full(2, 1.0)
    wanted = bloch.voxel(1.5 * full, 0.1 * full, 0 * full, 5 * full, full, full, sequence=sequence.table(),
                         extent=(1e-3,) * 3, across_x=2, across_z=3, precision="float64").signal  # fmt: skip
    np.testing.assert_allclose(signal, wanted, atol=1e-6)
