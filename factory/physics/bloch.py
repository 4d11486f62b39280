"""Bloch isochromats: spins that turn and relax on their own, driven by any pulse sequence.

Bloch 1946, doi:10.1103/PhysRev.70.460; rotations about the effective field with relaxation split symmetrically around
them (Strang 1968, doi:10.1137/0705041).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from factory.physics import _isochromats
from factory.sequences.table import Table
from factory.units import Array

SHORTEST = 1e-30  # s; a relaxation time of 0 is taken as this
PRECISE = 1e-13  # s; lengths of time that are closer to each other count as one
MOST_SPANS = 20_000  # different lengths of time; what relaxation leaves after each is kept for a block of spins


class Plan(NamedTuple):
    """A sequence as operations: rotations at the centres of their intervals, and relaxation from each to the next."""

    fields: Array  # (operation, 6), see `factory.physics._isochromats.signals`
    kinds: Array  # (operation, 4)
    spans: Array  # (span, 2), s
    receiver: Array  # (sample,), rad


def planned(table: Table) -> Plan:
    """The operations of a table.

    Raises
    ------
    ValueError
        More different lengths of time than are kept.
    """
    pulse, sampled, area, rf, time = (np.asarray(x) for x in (
        table.rf != 0, table.sampled, table.area, table.rf, table.duration))
    following = np.append(pulse[1:], False)
    # Where a sample lies before a pulse, or a pulse begins the sequence, relaxation up to the pulse's centre needs an
    # operation of its own, of no rotation
    wanted = (sampled | (pulse & sampled)) & following
    places = np.append(np.flatnonzero(wanted) + 1, [0] if len(pulse) and pulse[0] else []).astype(int)
    half = 0.5 * time * pulse
    before = np.append(half[1:], 0.0)
    cut, whole = half + np.where(wanted, 0.0, before), np.where(pulse, 0.0, time)
    first = np.where(pulse[:1], half[:1], 0.0)

    def with_waits(values: Array, given: Any) -> Array:
        return np.insert(values, places, given, axis=0)

    waits = np.append(before[wanted], first if len(places) > wanted.sum() else [])
    unit = np.where(pulse, np.pi, 1.0)[:, None]  # half angles or turns
    fields = np.concatenate([np.stack([rf.real, rf.imag], 1) * (np.pi * time)[:, None], area * unit,
                             time[:, None] * unit], axis=1)
    spans = np.stack([with_waits(cut, waits), with_waits(whole, 0.0)], 1)
    between = with_waits(np.stack([2 * half, 0 * half], 1), 0.0)
    distinct, index = np.unique(np.round(np.concatenate([between, spans]) / PRECISE), axis=0, return_inverse=True)
    if len(distinct) > MOST_SPANS:
        raise ValueError(f"bloch: the sequence has {len(distinct)} different lengths of time between its events; at "
                         f"most {MOST_SPANS} are simulated")
    kinds = np.stack([with_waits(pulse, False), *index.reshape(2, -1), with_waits(sampled, False)], 1).astype(np.int64)
    return Plan(with_waits(fields, 0.0), kinds, distinct * PRECISE, table.receiver)


def middles(plan: Plan) -> Array:
    """When the middle of each operation is, in s, shape (operation,)."""
    time = plan.fields[:, 5] / np.where(plan.kinds[:, 0], np.pi, 1.0)
    middle: Array = np.cumsum(time) - 0.5 * time
    return middle


def signals(plan: Plan, spins: Array, weights: Array, moved: Array | None = None, *, error: float, precision: str
            ) -> tuple[Array, Array]:
    """Signals of samples, each a set of spins.

    Parameters
    ----------
    plan : of the sequence
    spins : float64, shape (sample, spin, 9)
        T1 and T2 in s, Mz before the sequence over its equilibrium, b1 (real and imaginary part of actual over nominal
        pulse), position (x, y, z) in m, off-resonance in Hz.  A relaxation time of 0 or infinity is taken as such.
    weights : complex128, shape (sample, coil, spin)
        Equilibrium magnetisation of each spin times the sensitivity of each coil.
    moved : float32 in m, shape (sample, operation, 3, spin), optional
        How far from its position each spin is in the middle of each operation of the plan.
    error : float
        Bound of what the splitting of relaxation and rotation leaves out, for a spin of magnetisation 1.
    precision : float32 or float64
        In which states are kept: rounding leaves some 1e-6 or 1e-15.

    Returns
    -------
    signal : complex128, shape (sample, coil, sample of the sequence)
        Sum over spins, demodulated by the receiver.
    error : float64, shape (sample,)
        The bound that was reached.
    """
    rated = spins.copy()
    rated[..., :2] = 1 / np.maximum(spins[..., :2], SHORTEST)
    out = np.zeros((*weights.shape[:2], int(plan.kinds[:, 3].sum())), np.complex128)
    reached = np.empty(len(spins))
    fields = plan.fields.astype(np.float32 if precision == "float32" else np.float64)
    away = np.zeros((len(spins), 0, 3, 0), np.float32) if moved is None else moved
    _isochromats.batch(rated, weights, away, fields, plan.fields, plan.kinds, plan.spans, error, out, reached)
    return out * np.exp(1j * plan.receiver), reached
