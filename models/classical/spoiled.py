"""T1 from spoiled gradient echoes: variable flip angles (DESPOT1), and with inversion-prepared trains (DESPOT1-HIFI).

    HIFI   inversion --TI--> [pulse k FA, echo, spacing] x n --recovery--> inversion ...      (periodic)
                              the echo of k-space's centre is number `centre` * n

All angles in rad, all times in s. Fits are Levenberg-Marquardt over all voxels at once, with derivatives by complex
steps (exact to rounding).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from models.classical.relaxometry import arrange

Floats = NDArray[np.float64]
Model = Callable[[NDArray[np.complex128]], NDArray[np.complex128]]  # (q, voxel) -> (voxel, n)


def _differentiate(model: Model, p: Floats) -> tuple[Floats, Floats]:
    """The model (voxel, n) and its relative derivatives (q, voxel, n), p dm/dp."""
    slopes = []
    for q in range(len(p)):
        moved = p.astype(np.complex128)
        moved[q] += 1e-30j * p[q]
        slopes.append(model(moved).imag / 1e-30)
    return model(p.astype(np.complex128)).real, np.stack(slopes)


def _least_squares(model: Model, rows: Floats, start: Floats) -> tuple[Floats, Floats]:
    """Fit positive parameters (q, voxel), in steps relative to their size; also the sums of squares (voxel,)."""
    p = start.copy()
    damping = np.full(p.shape[1], 1e-3)
    value, slopes = _differentiate(model, p)
    cost = ((rows - value) ** 2).sum(1)
    diagonal = np.arange(len(p))
    for _ in range(60):
        matrix = np.einsum("qvn,rvn->vqr", slopes, slopes)
        matrix[:, diagonal, diagonal] *= 1 + damping[:, None]
        matrix[:, diagonal, diagonal] += 1e-300  # a voxel without signal stays where it is
        step = np.linalg.solve(matrix, np.einsum("qvn,vn->vq", slopes, rows - value)[..., None])[..., 0].T
        step = np.clip(step, -0.5, 1.0)  # keeps the signs
        trial = p * (1 + step)
        found = ((rows - model(trial.astype(np.complex128)).real) ** 2).sum(1)
        better = found <= cost
        p = np.where(better, trial, p)
        cost = np.where(better, found, cost)
        damping = np.clip(np.where(better, damping / 10, damping * 10), 1e-14, 1e12)
        if (np.abs(step).max(0) < 1e-12).all() or (damping >= 1e12).all():
            break
        value, slopes = _differentiate(model, p)
    return p, cost


def _echo(k: NDArray, t1: NDArray, angle: Floats, repetition_time: float) -> NDArray:
    """Steady state of spoiled gradient echoes per S0: (voxel, angle)."""
    e = np.exp(-repetition_time / t1)[:, None]
    a = k[:, None] * angle
    return np.sin(a) * (1 - e) / (1 - e * np.cos(a))


def _linear_start(rows: Floats, angle: Floats, repetition_time: float) -> Floats:
    """DESPOT1: S / sin a is a straight line in S / tan a of slope exp(-TR / T1). (S0, T1), each (voxel,)."""
    y, x = rows / np.sin(angle), rows / np.tan(angle)
    x_off = x - x.mean(1, keepdims=True)
    spread = (x_off * x_off).sum(1)
    slope = np.divide((x_off * y).sum(1), spread, out=np.zeros(len(rows)), where=spread > 0)
    t1 = -repetition_time / np.log(np.clip(slope, np.exp(-repetition_time / 0.05), np.exp(-repetition_time / 6.0)))
    echo = _echo(np.ones(len(rows)), t1, angle, repetition_time)
    return np.stack([np.maximum((rows * echo).sum(1) / (echo * echo).sum(1), 0.0), t1])


def _check_positive(**values: float) -> None:
    for name, value in values.items():
        if not 0 < value < np.inf:
            raise ValueError(f"{name} is {value}, but must be positive and finite, in s")


def fit_spoiled_gradient_echo(data: xr.Dataset, *, repetition_time: float) -> xr.Dataset:
    """Fit S0 sin a (1 - E) / (1 - E cos a), E = exp(-TR / T1), over flip angles: least squares from a DESPOT1 start.

    Parameters
    ----------
    data : Dataset
        ``signal`` (any unit) with the dim and coordinate ``flip_angle`` in rad, true ones (k = 1), in any order.
    repetition_time : float in s

    Returns
    -------
    Dataset
        ``amplitude`` (S0, unit of the signal), ``t1`` (s; nan where there is no signal), ``cost`` (sum of squares).

    Raises
    ------
    ValueError
        For a missing variable or coordinate, fewer than two angles, angles outside (0, pi), nan, illegal times.

    Notes
    -----
    Limit: TR >> T1 gives S0 sin a. The linear start of Deoni 2003, doi:10.1002/mrm.10407, weighs noise wrongly; the
    fit of the signal itself does not.
    """
    _check_positive(repetition_time=repetition_time)
    series = arrange(data, "flip_angle", 2)
    angle = series.points
    if not (angle > 0).all() or not (angle < np.pi).all():
        raise ValueError(f"'flip_angle' must lie in (0, pi) rad, but is {angle.tolist()}; convert degrees with deg2rad")

    def model(p: NDArray) -> NDArray:
        return p[0][:, None] * _echo(np.ones_like(p[1]), p[1], angle, repetition_time)

    p, cost = _least_squares(model, series.rows, _linear_start(series.rows, angle, repetition_time))
    unit = str(data["signal"].attrs.get("units", "1"))
    return xr.Dataset(
        {
            "amplitude": series.map(p[0], units=unit),
            "t1": series.map(np.where(p[0] > 0, p[1], np.nan), units="s"),
            "cost": series.map(cost, units=f"({unit})^2"),
        }
    )


def _inverted(
    k: NDArray, t1: NDArray, delay: Floats, angle: float, spacing: float, pulses: int, centre: float, recovery: float
) -> NDArray:
    """Magnitude per S0 of the echo at k-space's centre of a train after a perfect inversion, periodic: (voxel, TI).

    Each of the steps is m -> keep m + give, so that the train is a power in closed form.
    """
    cosine = np.cos(k * angle)[:, None]
    e, inverted, last = (np.exp(-x / t1[:, None]) for x in (spacing, delay[None, :], recovery))
    steady = (1 - e) / (1 - e * cosine)  # of the train, before a pulse
    before = round(centre * pulses)
    head, whole = (e * cosine) ** before, (e * cosine) ** pulses
    # one period, from just before the inversion: m -> 1 - (1 + m) inverted -> the train -> recovery
    keep = -inverted * whole * last
    give = (steady + (1 - inverted - steady) * whole) * last + 1 - last
    m = 1 - (1 + give / (1 - keep)) * inverted
    signal = np.sin(k * angle)[:, None] * (steady + (m - steady) * head)
    return np.where(signal.real < 0, -signal, signal)


def fit_hifi(
    data: xr.Dataset,
    inverted: xr.Dataset,
    *,
    repetition_time: float,
    inverted_angle: float,
    pulses: int,
    centre: float = 0.5,
    recovery_time: float = 0.0,
) -> xr.Dataset:
    """Fit S0, T1 and the transmit factor k jointly to spoiled gradient echoes and inversion-prepared ones.

    Parameters
    ----------
    data : Dataset
        ``signal`` with the dim and coordinate ``flip_angle``, the nominal angles in rad.
    inverted : Dataset
        ``signal`` (same other dims, same receive gain) with the dim and coordinate ``inversion_time`` in s: from the
        inversion to the first pulse of the train.
    repetition_time : float in s
        Of the echoes, and the spacing of the pulses in the train.
    inverted_angle : float in rad
        Nominal angle of the train's pulses.
    pulses : int
        Number of pulses in one train.
    centre : float
        Where in the train, as a fraction, k-space's centre is read: after round(centre * pulses) pulses.
    recovery_time : float in s
        From the train's end to the next inversion.

    Returns
    -------
    Dataset
        ``amplitude`` (S0, unit of the signal), ``t1`` (s), ``transmit`` (k, 1) and ``cost`` (sum of squares); T1 and k
        are nan where there is no signal.

    Raises
    ------
    ValueError
        For a missing variable or coordinate, fewer than two angles or no inversion time, shapes that differ, nan.

    Notes
    -----
    Deoni 2007, doi:10.1002/jmri.21130, with the exact periodic steady state of the train. The inversion is perfect
    (adiabatic, so k does not touch it) and all magnetisation is spoiled. Limits: recovery_time >> T1 starts every
    period from equilibrium; a long TI and centre = 0 give S0 sin(k FA).
    """
    _check_positive(repetition_time=repetition_time, inverted_angle=inverted_angle, pulses=pulses)
    if not (0 <= centre <= 1 and 0 <= recovery_time < np.inf):
        raise ValueError(f"centre is {centre} and recovery_time {recovery_time}; legal are [0, 1] and >= 0 s")
    echoes, prepared = arrange(data, "flip_angle", 2), arrange(inverted, "inversion_time", 1)
    if echoes.like.dims != prepared.like.dims or echoes.like.shape != prepared.like.shape:
        raise ValueError(
            f"the signals are maps of {dict(echoes.like.sizes)} and {dict(prepared.like.sizes)}; give the same voxels"
        )
    timing = (inverted_angle, repetition_time, pulses, centre, recovery_time)

    def model(p: NDArray) -> NDArray:
        s0, t1, k = p
        parts = [_echo(k, t1, echoes.points, repetition_time), _inverted(k, t1, prepared.points, *timing)]
        return s0[:, None] * np.concatenate(parts, 1)

    rows = np.concatenate([echoes.rows, prepared.rows], 1)
    p, cost = _best_transmit(model, rows, echoes.rows, echoes.points, repetition_time)
    nothing = ~(p[0] > 0)
    p[1:, nothing] = np.nan
    unit = str(data["signal"].attrs.get("units", "1"))
    return xr.Dataset(
        {
            "amplitude": echoes.map(np.where(nothing, 0.0, p[0]), units=unit),
            "t1": echoes.map(p[1], units="s"),
            "transmit": echoes.map(p[2], units="1"),
            "cost": echoes.map(cost, units=f"({unit})^2"),
        }
    )


def _best_transmit(model: Model, rows: Floats, echoes: Floats, angle: Floats, repetition_time: float) -> tuple:
    """Fits from three transmit factors, and the best a voxel: the magnitude makes more than one valley."""
    best, lowest = np.empty((3, len(rows))), np.full(len(rows), np.inf)
    for k in (0.7, 1.0, 1.3):
        s0, t1 = _linear_start(echoes, k * angle, repetition_time)
        p, cost = _least_squares(model, rows, np.stack([s0, t1, np.full(len(rows), k)]))
        better = cost < lowest
        best[:, better], lowest[better] = p[:, better], cost[better]
    return best, lowest


def simulate_spoiled_gradient_echo(
    amplitude: ArrayLike, t1: ArrayLike, flip_angle: ArrayLike, *, repetition_time: float
) -> Floats:
    """Signal S0 sin a (1 - E) / (1 - E cos a) with the angles along a new last axis (the model of the fit).

    Limit: TR >> T1 gives S0 sin a. doi:10.1002/mrm.10407
    """
    a, t = np.broadcast_arrays(np.asarray(amplitude, np.float64), np.asarray(t1, np.float64))
    angle = np.atleast_1d(np.asarray(flip_angle, np.float64))
    signal = _echo(np.ones(t.size), t.ravel(), angle, repetition_time) * a.reshape(-1, 1)
    return np.asarray(signal.reshape(*t.shape, angle.size))
