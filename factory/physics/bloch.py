"""Bloch isochromats: spins that turn and relax on their own, driven by any pulse sequence.

Bloch 1946, doi:10.1103/PhysRev.70.460; rotations about the effective field with relaxation split symmetrically around
them (Strang 1968, doi:10.1137/0705041).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np

from factory.draws import Draws
from factory.numerics import cos_array, exp_array, sin_array
from factory.physics import SHORTEST, _isochromats
from factory.sequences import Sequence
from factory.sequences.table import Table
from factory.step import step
from factory.units import Array

PRECISE = 1e-13  # s; lengths of time that are closer to each other count as one
MOST_SPANS = 20_000  # different lengths of time; what relaxation leaves after each is kept for a block of spins


class Plan(NamedTuple):
    """A sequence as operations: rotations at the centres of their intervals, and relaxation from each to the next."""

    fields: Array  # (operation, 6), see `factory.physics._isochromats.signals`
    kinds: Array  # (operation, 4)
    spans: Array  # (span, 2), s
    receiver: Array  # (sample,), rad


@lru_cache(maxsize=8)
def planned(table: Table) -> Plan:
    """The operations of a table; those of the last few are kept.

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
    wanted = sampled & following
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
    turned = cos_array(plan.receiver) + 1j * sin_array(plan.receiver)
    return out * turned, reached


# ----------------------------------------------------------------------------------------------------------------------
# steps

_PIECE = 2**18  # spins at a time: 30 MB
Precision = Literal["float32", "float64"]


class Signal(NamedTuple):
    """What `voxel` and `scan` return."""

    signal: Annotated[Array, "?u", "complex64", "point"]
    bound: Annotated[Array, "1", "float32"]


def _points(sequence: Table, **_: Any) -> dict[str, int]:
    return {"point": int(sequence.sampled.sum())}


def _offsets(extent: tuple[float, ...], *across: int) -> Array:
    """Places that fill a voxel evenly, relative to its centre, m, shape (isochromat, 3)."""
    if len(extent) != 3:
        raise ValueError(f"bloch: the extent of a voxel has three lengths, along x, y and z, not {len(extent)}")
    axes = [length * ((np.arange(n) + 0.5) / n - 0.5) for length, n in zip(extent, across, strict=True)]
    grid: Array = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    return grid


def _lorentzian(r2_prime: Array, span: float, count: int) -> tuple[Array, Array, Array]:
    """Off-resonances and weights whose mean decays like exp(-|t| R2') for |t| up to a time, and the error that is left.

    They are a Fourier series of the decay, of period twice the span, so nothing comes back within it.

    Returns
    -------
    frequency : Hz, shape (count,)
    weight : shape (sample, count)
    error : shape (sample,)
        Largest at t = 0; 2 span R2' / (pi^2 m) with m = (count - 1) / 2.
    """
    m = (count - 1) // 2
    if m == 0:
        return np.zeros(1), np.ones((len(r2_prime), 1)), np.abs(r2_prime) * span
    j, rate = np.arange(-m, m + 1), np.asarray(r2_prime, np.float64)[:, None]
    left = exp_array(-span * rate)
    sign = 1.0 - 2.0 * (np.abs(j) % 2)
    below = span * (rate**2 + (np.pi * j / span) ** 2)
    weight = np.where(rate > 0, rate * (1 - sign * left) / np.where(below > 0, below, 1.0), (j == 0).astype(float))
    error = (1 + left[:, 0]) * span * rate[:, 0] / (np.pi**2 * m)
    return j / (2 * span), weight, np.minimum(error, 1.0)


def _graded() -> Table:
    """A pulse and two samples behind gradients along all axes: what shows that each setting does something."""
    area = np.array([[0.0, 0, 0], [60, -30, 40], [-20, 50, 10]])
    return Table(np.array([0.0, 1e-3, 6e-3, 12e-3]), np.array([200.0, 0, 0], complex), area,
                 np.array([False, True, True]), np.zeros(2), np.array([[0, 1]]))


_PROBE: dict[str, Any] = {"sequence": _graded(), "extent": (4e-3, 3e-3, 2e-3), "across_x": 16, "across_y": 16,
                          "across_z": 16}


@step(sizes=_points, accuracy=("error", "across_x", "across_y", "across_z", "n_frequency"),
      probe=_PROBE | {"n_frequency": 255, "across_x": 4, "across_y": 4, "across_z": 4})
def voxel(
    t1: Annotated[Array, "s"],
    t2: Annotated[Array, "s"],
    r2_prime: Annotated[Array, "1/s"],
    off_resonance: Annotated[Array, "Hz"],
    b1: Annotated[Array, "1"],
    amplitude: Annotated[Array, "?u"],
    *,
    sequence: Table,
    extent: Annotated[tuple[float, ...], "m", ">=0"],
    across_x: Annotated[int, ">=1"] = 1,
    across_y: Annotated[int, ">=1"] = 1,
    across_z: Annotated[int, ">=1"] = 1,
    n_frequency: Annotated[int, ">=1"] = 1,
    error: Annotated[float, ">0"] = 1e-4,
    precision: Precision = "float32",
) -> Signal:
    """Samples of one voxel at the centre of the field of view, as the mean of isochromats that fill it.

    Parameters
    ----------
    t1, t2 : array in s, shape (sample,)
    r2_prime : array in 1/s, shape (sample,)
        1 / T2': width of the Lorentzian distribution of off-resonance inside the voxel; R2* = 1 / T2 + R2'.
    off_resonance : array in Hz, shape (sample,)
    b1 : array, shape (sample,)
        Actual over nominal pulse.
    amplitude : array, any unit, shape (sample,)
        Equilibrium magnetisation.
    sequence : Table
        Of a .seq file or a builder.
    extent : tuple of three floats in m
        Of the voxel along x, y and z.
    across_x, across_y, across_z : int
        Isochromats side by side: more than the cycles of dephasing across the voxel, which come back otherwise.
    n_frequency : int
        Isochromats of different off-resonance at each place.  What (n - 1) / 2 of a side leave out is at most
        2 R2' t / (pi^2 (n - 1) / 2) of a signal right at an echo, t being the length of the sequence, and far less
        elsewhere.
    error : float
        Bound of what the splitting of rotations and relaxation leaves out, for a magnetisation of 1.
    precision : float32 or float64

    Returns
    -------
    signal : complex64, unit of `amplitude`, shape (sample, point)
        At each sample of the sequence.
    bound : float32, shape (sample,)
        Of the error that was reached, of a magnetisation of 1: splitting and frequencies.

    Notes
    -----
    Limits: one pulse of 90 degrees gives i amplitude exp(-t / t2) exp(-r2_prime t) exp(-i 2 pi off_resonance t).
    """
    plan, places = planned(sequence), _offsets(extent, across_x, across_y, across_z)
    frequency, share, left = _lorentzian(r2_prime, float(sequence.time[-1]), n_frequency)
    count, inside = len(places) * len(frequency), max(1, _PIECE // (len(places) * len(frequency)))
    signal = np.empty((len(t1), plan.kinds[:, 3].sum()), np.complex64)
    bound = np.empty(len(t1), np.float32)
    for first in range(0, len(t1), inside):
        part = slice(first, first + inside)
        spins = np.zeros((len(t1[part]), len(frequency), len(places), 9))
        spins[..., 2] = 1.0
        for k, values in ((0, t1), (1, t2), (3, b1), (8, off_resonance)):
            spins[..., k] = np.asarray(values)[part, None, None]
        spins[..., 5:8] = places
        spins[..., 8] += frequency[:, None]
        weights = (np.asarray(amplitude)[part, None] * share[part])[:, :, None] / np.full(len(places), len(places))
        found, reached = signals(plan, spins.reshape(-1, count, 9), weights.reshape(-1, 1, count).astype(complex),
                                 error=error, precision=precision)
        signal[part], bound[part] = found[:, 0], reached + left[part]
    return Signal(signal, bound)


@step(sizes=_points, accuracy=("error", "across_x", "across_y", "across_z"), probe=_PROBE)
def scan(
    t1: Annotated[Array, "s", "y", "x"],
    t2: Annotated[Array, "s", "y", "x"],
    amplitude: Annotated[Array, "?u", "y", "x"],
    off_resonance: Annotated[Array, "Hz", "y", "x"],
    b1: Annotated[Array, "1"],
    *,
    sequence: Table,
    extent: Annotated[tuple[float, ...], "m", ">=0"],
    across_x: Annotated[int, ">=1"] = 1,
    across_y: Annotated[int, ">=1"] = 1,
    across_z: Annotated[int, ">=1"] = 1,
    error: Annotated[float, ">0"] = 1e-4,
    precision: Precision = "float32",
) -> Signal:
    """Samples of a slice at z = 0, every pixel a voxel filled with isochromats.

    Parameters
    ----------
    t1, t2 : array in s, shape (sample, y, x)
    amplitude : array, any unit, shape (sample, y, x)
        Equilibrium magnetisation; pixels without any take no time.
    off_resonance : array in Hz, shape (sample, y, x)
    b1 : array, shape (sample,)
        Actual over nominal pulse.
    sequence : Table
        Of a .seq file or a builder.
    extent : tuple of three floats in m
        Of a pixel along x and y, and of the slice along z.  Pixel i of n lies (i - n // 2) pixels from the centre.
    across_x, across_y, across_z : int
        Isochromats side by side in each voxel: more than the cycles of dephasing across it.
    error : float
        Bound of what the splitting of rotations and relaxation leaves out, for a magnetisation of 1.
    precision : float32 or float64

    Returns
    -------
    signal : complex64, unit of `amplitude`, shape (sample, point)
        Sum over pixels over the root of their number, as in `kspace.cartesian`, at each sample of the sequence.
    bound : float32, shape (sample,)
        Of the error of one magnetisation of 1 that was reached.

    Notes
    -----
    Limit: behind one pulse of 90 degrees, i times the sum of amplitude exp(-t / t2) exp(-i 2 pi (k.r + f t)).
    """
    plan, places = planned(sequence), _offsets(extent, across_x, across_y, across_z)
    rows, columns = t1.shape[1:]
    y, x = extent[1] * (np.arange(rows) - rows // 2), extent[0] * (np.arange(columns) - columns // 2)
    centre = np.stack([*np.meshgrid(x, y), np.zeros((rows, columns))], axis=-1)
    signal = np.empty((len(t1), plan.kinds[:, 3].sum()), np.complex64)
    bound = np.empty(len(t1), np.float32)
    for i in range(len(t1)):
        there = amplitude[i] != 0
        spins = np.zeros((int(there.sum()), len(places), 9))
        spins[..., 2], spins[..., 3] = 1.0, b1[i]
        for k, values in ((0, t1), (1, t2), (8, off_resonance)):
            spins[..., k] = values[i][there][:, None]
        spins[..., 5:8] = centre[there][:, None] + places
        weights = np.repeat(amplitude[i][there] / (len(places) * np.sqrt(rows * columns)), len(places))
        found, reached = signals(plan, spins.reshape(1, -1, 9), weights.reshape(1, 1, -1).astype(complex), error=error,
                                 precision=precision)
        signal[i], bound[i] = found[0, 0], reached[0]
    return Signal(signal, bound)


def _plays(sequence: Sequence, **_: Any) -> dict[str, int]:
    return {"point": int(sequence.table().sampled.sum())}


def _moving(plan: Plan, columns: dict[int, Any], amplitude: float, places: Array, moved: Array, **how: Any
            ) -> tuple[Array, Array]:
    """Signal of one voxel whose spins start at places (spin, 3) and move by (operation, 3, spin), and its bound."""
    spins = np.zeros((1, len(places), 9))
    spins[..., 2], spins[..., 5:8] = 1.0, places
    for k, value in columns.items():
        spins[..., k] = value
    weights = np.full((1, 1, len(places)), amplitude / len(places), complex)
    found, reached = signals(plan, spins, weights, moved[None].astype(np.float32), **how)
    return found[0, 0], reached[0]


@step(sizes=_plays, accuracy=("error",))
def diffusing(
    t1: Annotated[Array, "s"],
    t2: Annotated[Array, "s"],
    diffusion: Annotated[Array, "m2/s"],
    b1: Annotated[Array, "1"],
    amplitude: Annotated[Array, "?u"],
    draws: Draws,
    *,
    sequence: Sequence,
    extent: Annotated[tuple[float, ...], "m", ">=0"],
    walkers: Annotated[int, ">=1"] = 1000,
    longest: Annotated[float, "s", ">0"] = 1e-3,
    error: Annotated[float, ">0"] = 1e-4,
    precision: Precision = "float32",
) -> Signal:
    """Samples of one voxel whose spins diffuse freely: each walks at random through the gradients of the sequence.

    Parameters
    ----------
    t1, t2 : array in s, shape (sample,)
    diffusion : array in m2/s, shape (sample,)
        The same in all directions.
    b1 : array, shape (sample,)
        Actual over nominal pulse.
    amplitude : array, any unit, shape (sample,)
        Equilibrium magnetisation.
    draws : Draws
        Of the walks.
    sequence : Sequence
        A .seq file or a builder.
    extent : tuple of three floats in m
        Of the voxel along x, y and z, in which the walks begin anywhere.
    walkers : int
        The mean of so many walks has a standard error of at most amplitude / sqrt(walkers), and about amplitude
        sqrt((1 - exp(-2 b D)) / (2 walkers)) for an echo attenuated by exp(-b D).
    longest : float in s
        Between two positions of a walk while there is a gradient; what happens faster is averaged.
    error : float
        Bound of what the splitting of rotations and relaxation leaves out, for a magnetisation of 1.
    precision : float32 or float64

    Returns
    -------
    signal : complex64, unit of `amplitude`, shape (sample, point)
        At each sample of the sequence.
    bound : float32, shape (sample,)
        Of the error of the splitting that was reached, of a magnetisation of 1.

    Notes
    -----
    Limits: diffusion = 0 gives isochromats at rest; a spin echo between two gradient pulses is attenuated by exp(-b D)
    (Stejskal and Tanner 1965, doi:10.1063/1.1695690).  One sample at a time: 12 bytes a walker and operation stay in
    memory for a sample, and twice as many while it walks.
    """
    plan = planned(sequence.table(longest=longest))
    apart = np.sqrt(2 * np.diff(middles(plan), prepend=0.0))[:, None, None]
    signal = np.empty((len(t1), int(plan.kinds[:, 3].sum())), np.complex64)
    bound = np.empty(len(t1), np.float32)
    for i in range(len(t1)):
        one = draws.part(i, i + 1)
        places = (one.uniform("place", (walkers, 3))[0] - 0.5) * np.array(extent)
        walk = np.cumsum(apart * one.normal("walk", (len(apart), 3, walkers))[0], axis=0) * np.sqrt(diffusion[i])
        signal[i], bound[i] = _moving(plan, {0: t1[i], 1: t2[i], 3: b1[i]}, amplitude[i], places, walk, error=error,
                                      precision=precision)
    return Signal(signal, bound)


@step(sizes=_plays, accuracy=("error", "longest"))
def flowing(
    t1: Annotated[Array, "s"],
    t2: Annotated[Array, "s"],
    velocity_x: Annotated[Array, "m/s"],
    velocity_y: Annotated[Array, "m/s"],
    velocity_z: Annotated[Array, "m/s"],
    off_resonance: Annotated[Array, "Hz"],
    b1: Annotated[Array, "1"],
    amplitude: Annotated[Array, "?u"],
    *,
    sequence: Sequence,
    extent: Annotated[tuple[float, ...], "m", ">=0"],
    across_x: Annotated[int, ">=1"] = 1,
    across_y: Annotated[int, ">=1"] = 1,
    across_z: Annotated[int, ">=1"] = 1,
    longest: Annotated[float, "s", ">0"] = 1e-4,
    error: Annotated[float, ">0"] = 1e-4,
    precision: Precision = "float32",
) -> Signal:
    """Samples of spins that fill a voxel when the sequence begins and all flow at one velocity from then on.

    Parameters
    ----------
    t1, t2 : array in s, shape (sample,)
    velocity_x, velocity_y, velocity_z : array in m/s, shape (sample,)
    off_resonance : array in Hz, shape (sample,)
    b1 : array, shape (sample,)
        Actual over nominal pulse.
    amplitude : array, any unit, shape (sample,)
        Equilibrium magnetisation.
    sequence : Sequence
        A .seq file or a builder.
    extent : tuple of three floats in m
        Of the voxel along x, y and z, around the centre of the field of view.
    across_x, across_y, across_z : int
        Isochromats side by side: more than the cycles of dephasing across the voxel, which come back otherwise.
    longest : float in s
        Between two positions of a spin while there is a gradient; its error falls with the square.
    error : float
        Bound of what the splitting of rotations and relaxation leaves out, for a magnetisation of 1.
    precision : float32 or float64

    Returns
    -------
    signal : complex64, unit of `amplitude`, shape (sample, point)
        At each sample of the sequence.
    bound : float32, shape (sample,)
        Of the error of the splitting that was reached, of a magnetisation of 1.

    Notes
    -----
    Limits: no velocity gives `voxel`; gradients whose area is 0 turn by exp(-i 2 pi v m), m being the first moment of
    gamma-bar G (Moran 1982, doi:10.1016/0730-725X(82)90170-9).
    """
    plan, places = planned(sequence.table(longest=longest)), _offsets(extent, across_x, across_y, across_z)
    middle = middles(plan)[:, None, None]
    velocity = np.stack([velocity_x, velocity_y, velocity_z], 1)[:, :, None]
    signal = np.empty((len(t1), int(plan.kinds[:, 3].sum())), np.complex64)
    bound = np.empty(len(t1), np.float32)
    for i in range(len(t1)):
        moved = np.broadcast_to(middle * velocity[i], (len(middle), 3, len(places)))
        signal[i], bound[i] = _moving(plan, {0: t1[i], 1: t2[i], 3: b1[i], 8: off_resonance[i]}, amplitude[i], places,
                                      moved, error=error, precision=precision)
    return Signal(signal, bound)
