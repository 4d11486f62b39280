"""Absorption lines of a semisolid pool, whose transverse magnetisation is too short to be followed.

Morrison, Henkelman 1995, doi:10.1002/mrm.1910330404 (super-Lorentzian line).
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numba import njit

from factory.numerics import exp, exp_array, log

_OPTIONS: dict[str, Any] = {"nogil": True, "cache": True, "error_model": "numpy"}
LINES = ("lorentzian", "gaussian", "super_lorentzian")
_FIRST, _STEP, _POINTS = float(np.log(1e-6)), 0.008, 2048  # log of offset times T2: from 1e-6 to 13
_NODES = 801
_ROOT = 0.5773502691896258  # 3 u**2 = 1: the pole
_PI = float(np.pi)


@cache
def super_lorentzian() -> Any:
    """The line over T2 / pi and its slope, both as functions of log(offset T2); shape (point, 2).

    The pole is integrated in the logarithm of the distance to it, where the integrand is smooth.
    """
    table = np.empty((_POINTS, 2))
    _tabulate(exp_array(_FIRST + _STEP * np.arange(_POINTS)), table)
    return table


@njit(**_OPTIONS)
def _tabulate(offset: Any, table: Any) -> None:
    for i in range(len(offset)):
        square = 2.0 * offset[i] * offset[i]
        depth = log(60.0 / min(offset[i], 1.0))  # nearer to the pole the exponent is below -900
        whole, slope, step = 0.0, 0.0, depth / (_NODES - 1)
        for k in range(_NODES):
            weight = 1.0 if k in (0, _NODES - 1) else (4.0 if k % 2 else 2.0)  # Simpson
            for side in range(2):
                y = exp(-k * step) * (1.0 if side == 0 else 1.0 / _ROOT - 1.0)
                factor = (2.0 - y) if side == 0 else (2.0 + y)
                ratio = square / (y * factor * y * factor)
                part = weight * exp(-ratio) / factor
                whole += part
                slope -= 2.0 * ratio * part
        scale = np.sqrt(2.0 / _PI) * _PI * _ROOT * step / 3.0
        table[i, 0], table[i, 1] = scale * whole, scale * slope


@njit(forceinline=True, **_OPTIONS)
def _interpolated(table: Any, x: float) -> tuple[float, float]:
    """The super-Lorentzian line over T2 / pi at offset T2 = x > 0, and x times its slope; cubic between the points."""
    place = (log(max(x, 1e-6)) - _FIRST) / _STEP
    i = min(int(place), _POINTS - 2)
    t = min(place - i, 1.0)
    a, b, da, db = table[i, 0], table[i + 1, 0], _STEP * table[i, 1], _STEP * table[i + 1, 1]
    c2, c3 = 3.0 * (b - a) - 2.0 * da - db, 2.0 * (a - b) + da + db
    return a + t * (da + t * (c2 + t * c3)), (da + t * (2.0 * c2 + t * 3.0 * c3)) / _STEP


@njit(**_OPTIONS)
def absorption(line: int, table: Any, offset: float, t2: float, ppm: float) -> Any:
    """pi g(offset) in s: a pulse of w1 saturates the pool at the rate w1**2 times this.

    Parameters
    ----------
    line : index of LINES
    table : what `super_lorentzian` returns
    offset : rad/s, from the pool's resonance
    t2 : s
    ppm : rad/s of one part per million: within +-1 ppm of its pole, where the line of a powder has no limit, the
        super-Lorentzian is the parabola that goes on from there with the same value and slope.
    """
    x = abs(offset * t2)
    if line == 0:
        return t2 / (1.0 + x * x)
    if line == 1:
        return np.sqrt(_PI / 2.0) * t2 * exp(-0.5 * x * x)
    edge = ppm * t2
    if x >= edge:
        return t2 * _interpolated(table, x)[0]
    value, slope = _interpolated(table, edge)
    return t2 * (value + 0.5 * slope * (x * x / (edge * edge) - 1.0))
