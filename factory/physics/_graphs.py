"""Kernels of extended phase graphs: many samples side by side in the lanes of vector instructions.

Where all pulses have one phase, F+ and F- are imaginary and Z is real.  With F+ = i p and F- = i m a pulse leaves p + m
as it is and turns ((p - m) / 2, Z): four products for each order.  A free interval moves p one order up and m one down:
their arrays keep still and their origins move.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from factory import device
from factory.numerics import fma, inlined
from factory.numerics32 import exp32, sincos32

_OPTIONS: dict[str, Any] = {"nogil": True, "cache": True, "error_model": "numpy"}
LANES = 128  # samples side by side: 20 orders of their states fill a first-level cache; 64 and 256 were slower
_F = np.float32
_HALF, _ONE = _F(0.5), _F(1.0)
_fma: Any = fma  # of either type


def trains(rates: Any, start: Any, flip: Any, interval: Any, echo: float, orders: int, out: Any) -> None:
    """`train` on the chosen device."""
    if device.chosen() == "cuda":
        from factory.physics import _card_graphs

        _card_graphs.train(rates, start, flip, interval, echo, orders, out)
    else:
        train(rates, start, flip, interval, echo, orders, out)


@njit(**_OPTIONS)
def train(rates: Any, start: Any, flip: Any, interval: Any, echo: float, orders: int, out: Any) -> None:
    """F0 / i at the echo of every pulse of phase 0; float32.

    Parameters
    ----------
    rates : float32, shape (3, sample)
        -1 / T1 and -1 / T2 in 1/s, and the relative flip angle.
    start : float32, shape (sample,)
        Mz before the first pulse.
    flip, interval : float32 in rad and s, shape (pulse,)
    echo : float in s
        From a pulse to its echo.
    orders : int
        How many orders of dephasing are kept.
    out : float32, shape (sample, pulse)
    """
    count, pulses = out.shape
    up, down = np.empty((pulses + orders + 1) * LANES, _F), np.empty((pulses + orders + 1) * LANES, _F)
    z, some, echoes = np.empty(orders * LANES, _F), np.empty(8 * LANES, _F), np.empty((pulses, LANES), _F)
    for first in range(0, count, LANES):
        held = min(LANES, count - first)
        r1, r2, relative = some[:LANES], some[LANES : 2 * LANES], some[2 * LANES : 3 * LANES]
        up[:], down[:], z[:] = 0.0, 0.0, 0.0
        for lane in range(LANES):  # what is left of the last block repeats its last sample
            i = first + min(lane, held - 1)
            r1[lane], r2[lane], relative[lane], z[lane] = rates[0, i], rates[1, i], rates[2, i], start[i]
        for n in range(pulses):
            _between(some, flip[n], interval[n], echo)
            above, below = (pulses - n) * LANES, n * LANES
            _first(up[above : above + LANES], down[below : below + LANES], z[:LANES], some, echoes[n])
            for k in range(1, min(n + 1, pulses - n, orders)):  # what earlier pulses made and later ones can undo
                a, b = above + k * LANES, below + k * LANES
                _pulse(up[a : a + LANES], down[b : b + LANES], z[k * LANES : (k + 1) * LANES], some)
            edge = below + orders * LANES
            down[edge : edge + LANES] = 0.0
            _return(down[below + LANES : below + 2 * LANES], up[above - LANES : above])
        for lane in range(held):
            for n in range(pulses):
                out[first + lane, n] = echoes[n, lane]


@njit(**_OPTIONS)
def _between(some: Any, flip: Any, interval: Any, echo: float) -> None:
    """Cosine and sine of the pulse, what is left of Z and F after the interval, and of F at the echo."""
    r1, r2, relative = some[:LANES], some[LANES : 2 * LANES], some[2 * LANES : 3 * LANES]
    c, s, e1 = some[3 * LANES : 4 * LANES], some[4 * LANES : 5 * LANES], some[5 * LANES : 6 * LANES]
    e2, late = some[6 * LANES : 7 * LANES], some[7 * LANES :]
    time = _F(echo)
    for lane in range(LANES):
        s[lane], c[lane] = sincos32(flip * relative[lane])
        e1[lane], e2[lane] = exp32(interval * r1[lane]), exp32(interval * r2[lane])
        late[lane] = exp32(time * r2[lane])


@inlined
def turned(p: Any, m: Any, rest: Any, c: Any, s: Any) -> Any:
    """p, m and Z of one order behind a pulse; products that are added are fused, so nothing else can fuse them."""
    mean, apart = _HALF * (p + m), _HALF * (p - m)
    change = _fma(c, apart, s * rest)
    return mean + change, mean - change, _fma(c, rest, -(s * apart))


@njit(forceinline=True, **_OPTIONS)
def _pulse(up: Any, down: Any, z: Any, some: Any) -> None:
    """A pulse and the relaxation after it, for one order."""
    c, s, e1 = some[3 * LANES : 4 * LANES], some[4 * LANES : 5 * LANES], some[5 * LANES : 6 * LANES]
    e2 = some[6 * LANES : 7 * LANES]
    for lane in range(LANES):
        rise, fall, rest = turned(up[lane], down[lane], z[lane], c[lane], s[lane])
        up[lane], down[lane], z[lane] = e2[lane] * rise, e2[lane] * fall, e1[lane] * rest


@njit(forceinline=True, **_OPTIONS)
def _first(up: Any, down: Any, z: Any, some: Any, echo: Any) -> None:
    """The same for order 0, with the echo in between and the recovery of Z behind it."""
    c, s, e1 = some[3 * LANES : 4 * LANES], some[4 * LANES : 5 * LANES], some[5 * LANES : 6 * LANES]
    e2, late = some[6 * LANES : 7 * LANES], some[7 * LANES :]
    for lane in range(LANES):
        rise, fall, rest = turned(up[lane], down[lane], z[lane], c[lane], s[lane])
        echo[lane] = late[lane] * rise
        up[lane], down[lane], z[lane] = e2[lane] * rise, e2[lane] * fall, _fma(e1[lane], rest, _ONE - e1[lane])


@njit(**_OPTIONS)
def _return(down: Any, up: Any) -> None:
    """What comes back to order 0 from below goes on as F+: its conjugate."""
    for lane in range(LANES):
        up[lane] = -down[lane]
