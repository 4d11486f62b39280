"""Signals of spectroscopy: free induction decays."""

from __future__ import annotations

from typing import Annotated, Any, NamedTuple

import numpy as np
from numba import njit

from factory.numerics import exp, inlined, sincos
from factory.physics import SHORTEST
from factory.step import step
from factory.units import Array

_OPTIONS: dict[str, Any] = {"nogil": True, "cache": True, "error_model": "numpy"}
LANES = 64  # points side by side


class Decay(NamedTuple):
    """What `fid` returns."""

    signal: Annotated[Array, "?u", "complex64", "point"]
    point: Annotated[Array, "s", "float64", "point"]


def _times(dwell: float, n_point: int, **_: Any) -> dict[str, Any]:
    return {"point": dwell * np.arange(n_point)}


@step(coordinates=_times)
def fid(
    amplitude: Annotated[Array, "?u", "peak"],
    frequency: Annotated[Array, "Hz", "peak"],
    decay_time: Annotated[Array, "s", "peak"],
    phase: Annotated[Array, "rad", "peak"],
    peaks: Annotated[Array, "1", "int64"],
    *,
    dwell: Annotated[float, "s", ">0"],
    n_point: Annotated[int, ">=1"],
) -> Decay:
    """Sum of damped exponentials, amplitude exp(i phase) exp(-t / decay_time) exp(-i 2 pi frequency t).

    Parameters
    ----------
    amplitude : array, any unit, shape (sample, peak)
    frequency : array in Hz, shape (sample, peak)
    decay_time : array in s, shape (sample, peak)
        T2*: a Lorentzian line of full width 1 / (pi T2*) at half its height.
    phase : array in rad, shape (sample, peak)
    peaks : int64, shape (sample,)
        How many of the peaks, from the first on, a sample has; the others do not count.
    dwell : float in s
        From point to point.
    n_point : int

    Returns
    -------
    signal : complex64, unit of `amplitude`, shape (sample, point)
        In the sign of the physics; a spectrum that is stored with ppm ascending is its conjugate.
    point : float64 in s, shape (point,)

    Notes
    -----
    Limit: one peak at 0 Hz that does not decay is constant.  Points are products of few powers: 256 of them
    lie within 1e-6 of the sum of all amplitudes.  Sums of damped exponentials as training
    data: Qu 2020, doi:10.1002/anie.201908162.
    """
    blocks = -(-n_point // LANES)
    out = np.empty((len(peaks), n_point), np.complex64)
    held, total = np.empty(2 * LANES, np.float32), np.empty((blocks, 2 * LANES), np.float32)
    columns = [np.ascontiguousarray(values, np.float64) for values in (amplitude, frequency, decay_time, phase)]
    _sums(*columns, np.ascontiguousarray(peaks), dwell, held, total, out)
    return Decay(out, **_times(dwell, n_point))


@njit(**_OPTIONS)
def _sums(amplitude: Any, frequency: Any, decay_time: Any, phase: Any, peaks: Any, dwell: float, held: Any, total: Any,
          out: Any) -> None:
    for i in range(len(peaks)):
        total[:] = 0.0
        for j in range(min(max(peaks[i], 0), amplitude.shape[1])):
            s, c = sincos(phase[i, j])
            held[0], held[LANES] = amplitude[i, j] * c, amplitude[i, j] * s
            left = exp(-dwell / max(decay_time[i, j], SHORTEST))
            s, c = sincos(-2.0 * np.pi * dwell * frequency[i, j])
            real, imaginary, done = left * c, left * s, 1
            while done < LANES:  # the first block: twice as many points each time
                _turned(held[:done], held[LANES : LANES + done], np.float32(real), np.float32(imaginary),
                        held[done : 2 * done], held[LANES + done : LANES + 2 * done])
                real, imaginary, done = real * real - imaginary * imaginary, 2.0 * real * imaginary, 2 * done
            for block in range(len(total)):
                _add(held, np.float32(real), np.float32(imaginary), total[block])
        _interleave(total, out[i])


@inlined
def _turned(x: Any, y: Any, real: Any, imaginary: Any, x_out: Any, y_out: Any) -> None:
    for k in range(len(x)):
        x_out[k], y_out[k] = real * x[k] - imaginary * y[k], real * y[k] + imaginary * x[k]


@inlined
def _add(held: Any, real: Any, imaginary: Any, total: Any) -> None:
    """One block of points, and go on to the next."""
    x, y, x_total, y_total = held[:LANES], held[LANES:], total[:LANES], total[LANES:]
    for k in range(LANES):
        a, b = x[k], y[k]
        x_total[k] += a
        y_total[k] += b
        x[k], y[k] = real * a - imaginary * b, real * b + imaginary * a


@njit(**_OPTIONS)
def _interleave(total: Any, out: Any) -> None:
    for n in range(len(out)):
        block, k = divmod(n, LANES)
        out[n] = complex(total[block, k], total[block, LANES + k])
