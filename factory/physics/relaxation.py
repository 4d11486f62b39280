"""Closed-form relaxation signals of one compartment."""

from __future__ import annotations

from typing import Annotated, Any, NamedTuple

import numpy as np
from numba import njit

from factory.numerics import exp
from factory.physics import rows
from factory.step import step
from factory.units import Array

_OPTIONS: dict[str, Any] = {"nogil": True, "cache": True, "error_model": "numpy"}


class Inverted(NamedTuple):
    """What `inversion_recovery` returns."""

    signal: Annotated[Array, "?u", "float32", "inversion_time", "..."]
    inversion_time: Annotated[Array, "s", "float64", "inversion_time"]


@step
def inversion_recovery(
    amplitude: Annotated[Array, "?u", "..."],
    efficiency: Annotated[Array, "1"],
    t1: Annotated[Array, "s", "..."],
    *,
    inversion_time: Annotated[tuple[float, ...], "s", ">=0"],
) -> Inverted:
    """Magnitude inversion recovery |A (1 - B exp(-TI / T1))| with complete recovery between the shots.

    Parameters
    ----------
    amplitude : array, any unit, shape (sample, ...)
        A, the signal at complete recovery (proton density times everything that does not depend on TI).
    efficiency : array, shape (sample,)
        B: 2 for perfect inversion, 1 for saturation.
    t1 : array in s, shape (sample, ...)
        Longitudinal relaxation time, >= 0.  T1 = 0 has recovered at once: the signal is |A|.
    inversion_time : tuple of float in s, each >= 0

    Returns
    -------
    signal : float32, unit of `amplitude`, shape (sample, inversion_time, ...)
    inversion_time : float64 in s, shape (inversion_time,)

    Notes
    -----
    Limits: TI -> infinity gives |A|; TI = 0 gives |A (1 - B)|; B = 2 has its null at TI = T1 log 2.  No Look-Locker
    correction.  Model and symbols as in Sabidussi 2021, doi:10.1016/j.media.2021.102220.
    """
    (a, next_a), (t, next_t) = rows(amplitude), rows(t1)
    times = np.array(inversion_time)
    out = np.empty((len(amplitude), times.size, a.shape[1]), np.float32)
    _inversion_recovery(a, next_a, rows(efficiency)[0][:, 0] + np.zeros(len(out)), t, next_t, times, out)
    return Inverted(out.reshape(len(out), times.size, *amplitude.shape[1:]), times)


class Decayed(NamedTuple):
    """What `t2_decay` returns."""

    signal: Annotated[Array, "?u", "float32", "echo_time", "..."]
    echo_time: Annotated[Array, "s", "float64", "echo_time"]


@step
def t2_decay(
    amplitude: Annotated[Array, "?u", "..."],
    t2: Annotated[Array, "s", "..."],
    *,
    echo_time: Annotated[tuple[float, ...], "s", ">=0"],
) -> Decayed:
    """Mono-exponential decay |A exp(-TE / T2)|.

    Parameters
    ----------
    amplitude : array, any unit, shape (sample, ...)
        A, the signal at TE = 0.
    t2 : array in s, shape (sample, ...)
        Transverse relaxation time, >= 0.  T2 = 0 leaves no signal.
    echo_time : tuple of float in s, each >= 0

    Returns
    -------
    signal : float32, unit of `amplitude`, shape (sample, echo_time, ...)
    echo_time : float64 in s, shape (echo_time,)

    Notes
    -----
    Limits: TE = 0 gives |A|; TE = T2 gives |A| / e.  Model as in Sabidussi 2021, doi:10.1016/j.media.2021.102220.
    """
    (a, next_a), (t, next_t) = rows(amplitude), rows(t2)
    times = np.array(echo_time)
    out = np.empty((len(amplitude), times.size, a.shape[1]), np.float32)
    _t2_decay(a, next_a, t, next_t, times, out)
    return Decayed(out.reshape(len(out), times.size, *amplitude.shape[1:]), times)


@njit(forceinline=True, **_OPTIONS)
def remaining(time: float, t: float) -> float:
    """exp(-time / t); 0 for t = 0, where the ratio would be 0 / 0 at time 0."""
    return exp(-time / t) if t > 0.0 else 0.0


@njit(**_OPTIONS)
def _inversion_recovery(a: Any, next_a: int, b: Any, t1: Any, next_t: int, times: Any, out: Any) -> None:
    for i in range(out.shape[0]):
        amplitude, t = a[i * next_a], t1[i * next_t]
        for n in range(times.size):
            time, row, efficiency = times[n], out[i, n], b[i]
            for v in range(row.size):
                row[v] = abs(amplitude[v] * (1.0 - efficiency * remaining(time, np.float64(t[v]))))


@njit(**_OPTIONS)
def _t2_decay(a: Any, next_a: int, t2: Any, next_t: int, times: Any, out: Any) -> None:
    for i in range(out.shape[0]):
        amplitude, t = a[i * next_a], t2[i * next_t]
        for n in range(times.size):
            time, row = times[n], out[i, n]
            for v in range(row.size):
                row[v] = abs(amplitude[v] * remaining(time, np.float64(t[v])))
