"""Kernels of extended phase graphs of two pools that exchange: both full, or the second bound, with Mz alone.

Between pulses the pools follow two linear systems of two equations, one for F (complex: the pools may differ in
frequency) and one for Z.  Each is taken apart once a sample: exp(L t) = exp(l2 t) + (exp(l1 t) - exp(l2 t)) P with the
eigenvalues l1, l2 and P = (L - l2) / (l1 - l2).  Frames, rings and lanes are those of `_pathways`.

Extended phase graphs with exchange and magnetization transfer: Malik, Teixeira, Hajnal 2018, doi:10.1002/mrm.27040.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from factory.numerics import exp
from factory.physics._pathways import DEPHASE, LANES, SPOIL, _exp, _pulse, _return, _sincos, _store, load, shifted

_OPTIONS: dict[str, Any] = {"nogil": True, "cache": True, "error_model": "numpy"}
ROWS = 18  # what `rows_of` makes of a sample
_RELATIVE, _ABSORBED, _PART, _Z1, _Z2, _F1, _F2, _P, _Q = 0, 1, 2, 3, 4, 5, 7, 9, 12
_COS, _SIN, _LEFT = 18, 19, 20  # of the pulse, and what it leaves of the bound pool
_E, _BACK, _T, _ECHO = 21, 25, 27, 35  # exp(L t) of Z, what comes back, exp(L t) of F, its column sums at the echo
_ONE = np.float32(1.0)


@njit(**_OPTIONS)
def rows_of(r1: Any, r2: Any, off: Any, k: Any, part: Any, bound: bool, out: Any) -> None:
    """What `train` wants to know of each sample.

    Parameters
    ----------
    r1, r2, off : float64 in 1/s, 1/s and rad/s, shape (2, sample)
        Rates and precession (2 pi times Hz) of the pools; r2 and off of a bound pool count for nothing.
    k : float64 in 1/s, shape (sample,)
        From the first pool to the second.
    part : float64, shape (sample,)
        The second pool's share of M0, above 0.
    bound : bool
    out : float64, shape (ROWS, sample)
        All rows but the first two, which are the relative flip angle and what a pulse of 1 rad takes of the bound pool
        (-log of what it leaves).
    """
    for i in range(out.shape[1]):
        back = k[i] * (1 - part[i]) / part[i]
        out[_PART, i] = part[i]
        out[_Z1, i], out[_Z2, i], out[_P, i], out[_P + 1, i], out[_P + 2, i] = longitudinal(
            r1[0, i], r1[1, i], k[i], back)
        a = complex(-r2[0, i], -off[0, i])
        if bound:
            l1, l2, p11, p12, p21 = a, a, 0j, 0j, 0j
        else:
            l1, l2, p11, p12, p21 = parts(a - k[i], back, k[i], complex(-r2[1, i] - back, -off[1, i]))
        for n, value in enumerate((l1, l2)):
            out[_F1 + 2 * n, i], out[_F1 + 2 * n + 1, i] = value.real, value.imag
        for n, value in enumerate((p11, p12, p21)):
            out[_Q + 2 * n, i], out[_Q + 2 * n + 1, i] = value.real, value.imag


@njit(**_OPTIONS)
def longitudinal(r1: float, r1_second: float, k: float, back: float) -> Any:
    """`parts` of the equations of Z."""
    _, l2, p11, p12, p21 = parts(-r1 - k + 0j, back, k, -r1_second - back + 0j)
    # the slow eigenvalue from the product of both: a difference would lose it beside a fast exchange
    slow = (r1 * r1_second + r1 * back + r1_second * k) / l2.real
    return slow, l2.real, p11.real, p12.real, p21.real


@njit(**_OPTIONS)
def recovered(r1: Any, k: Any, part: Any, start: Any, time: float, out: Any) -> None:
    """Mz after a time without pulses, each pool's over its own M0.

    Parameters
    ----------
    r1, k, part
        As `rows_of` takes them.
    start, out : float64, shape (2, sample)
    time : float in s
    """
    for i in range(out.shape[1]):
        slow, fast, p, q, r = longitudinal(r1[0, i], r1[1, i], k[i], k[i] * (1 - part[i]) / part[i])
        d = exp(time * fast)
        apart = exp(time * slow) - d
        x, y = (1 - part[i]) * (start[0, i] - 1), part[i] * (start[1, i] - 1)
        out[0, i] = 1 + (d * x + apart * (p * x + q * y)) / (1 - part[i])
        out[1, i] = 1 + (d * y + apart * (r * x + (1 - p) * y)) / part[i]


@njit(**_OPTIONS)
def parts(a: complex, b: float, c: float, d: complex) -> Any:
    """Eigenvalues of [[a, b], [c, d]], that of the larger real part first, and three entries of its projector."""
    mean, half = 0.5 * (a + d), 0.5 * (a - d)
    square = half * half + b * c
    size = np.sqrt(square.real * square.real + square.imag * square.imag)
    root = complex(np.sqrt(max(0.5 * (size + square.real), 0.0)), np.sqrt(max(0.5 * (size - square.real), 0.0)))
    if square.imag < 0:
        root = root.conjugate()
    if size < 1e-200:
        return mean, mean, 0j, 0j, 0j
    scale = 0.5 / root
    return mean + root, mean - root, 0.5 + half * scale, b * scale, c * scale


@njit(**_OPTIONS)
def train(bound: bool, samples: Any, start: Any, events: Any, marks: Any, orders: int, out: Any) -> Any:
    """F0 of both pools at the echoes of a train of pulses and intervals.

    Parameters
    ----------
    bound : bool
        Whether the second pool is bound: Mz alone, which pulses saturate.
    samples : float, shape (ROWS, sample)
        As `rows_of` made them, in the dtype to compute in.
    start : float, shape (2, sample)
        Mz of the pools before the first pulse, over the M0 of both.
    events, marks, orders, out
        As `_pathways.train` takes them.

    Returns
    -------
    up, down, z : float, shape (ring or orders, pool, 2, lane)
        F+, F- and Z of the last samples at the end, real and imaginary, in the frame of the last pulse.
    above, below : int
        Where in the rings order 0 lies.
    """
    kind, ring = samples.dtype, 2
    while ring <= orders:
        ring *= 2
    up, down = np.zeros((ring, 2, 2, LANES), kind), np.zeros((ring, 2, 2, LANES), kind)
    z, some = np.zeros((orders, 2, 2, LANES), kind), np.zeros((39, LANES), kind)
    echoes = np.zeros((out.shape[1], 2, LANES), kind)
    above, below = 0, 0
    for first in range(0, out.shape[0], LANES):
        up[:], down[:], z[:] = 0, 0, 0
        load(samples, first, some)
        load(start, first, z[0, :, 0])
        above, below, seen = 0, 0, 0
        for n in range(len(events)):
            gradient, read, reach = marks[n]
            _between(some, events[n])
            for k in range(reach):
                a, b = (above + k) & (ring - 1), (below + k) & (ring - 1)
                if events[n, 0] != 0:
                    _pulses(up[a], down[b], z[k], some, bound)
                if k == 0:
                    _echo(up[a], some, events[n], echoes[seen])
                _interval(up[a], down[b], z[k], some)
            seen += read
            _recover(z[0], some)
            if gradient == DEPHASE:
                above, below = shifted(down, above, below, orders)
                for pool in range(2):
                    _return(down[below, pool], up[above, pool])
            elif gradient == SPOIL:
                up[:], down[:] = 0, 0
        _store(echoes, first, out)
    return up, down, z, above, below


@njit(**_OPTIONS)
def _between(some: Any, event: Any) -> None:
    """What the pulse and the interval do to each sample."""
    flip, step, interval, echo = event[0], event[1], event[2], event[3]
    for lane in range(LANES):
        some[_SIN, lane], some[_COS, lane] = _sincos(flip * some[_RELATIVE, lane])
        some[_LEFT, lane] = _exp(-some[_ABSORBED, lane] * flip * flip)
    for lane in range(LANES):
        slow, fast = _exp(interval * some[_Z1, lane]), _exp(interval * some[_Z2, lane])
        b, apart = some[_PART, lane], slow - fast
        p, q, r = apart * some[_P, lane], apart * some[_P + 1, lane], apart * some[_P + 2, lane]
        some[_E, lane], some[_E + 1, lane], some[_E + 2, lane], some[_E + 3, lane] = fast + p, q, r, slow - p
        some[_BACK, lane] = (_ONE - b) * (_ONE - fast - p) - b * q
        some[_BACK + 1, lane] = b * (_ONE - slow + p) - (_ONE - b) * r
    for lane in range(LANES):
        here = _evolved(some, lane, interval, step)
        for n in range(8):
            some[_T + n, lane] = here[n]
    for lane in range(LANES):
        here = _evolved(some, lane, echo, step - step)
        for n in range(4):
            some[_ECHO + n, lane] = here[n] + here[n + 4]


@njit(forceinline=True, **_OPTIONS)
def _evolved(some: Any, lane: int, time: Any, step: Any) -> Any:
    """exp(L time) of F turned by a step: entries 11, 12, 21, 22, each real and imaginary."""
    size, other = _exp(time * some[_F1, lane]), _exp(time * some[_F2, lane])
    s, c = _sincos(time * some[_F1 + 1, lane] + step)
    t, d = _sincos(time * some[_F2 + 1, lane] + step)
    l1, l1i, l2, l2i = size * c, size * s, other * d, other * t
    x, y = l1 - l2, l1i - l2i
    a, ai, b, bi = some[_Q, lane], some[_Q + 1, lane], some[_Q + 2, lane], some[_Q + 3, lane]
    e, ei = some[_Q + 4, lane], some[_Q + 5, lane]
    p, pi = x * a - y * ai, x * ai + y * a
    return (l2 + p, l2i + pi, x * b - y * bi, x * bi + y * b, x * e - y * ei, x * ei + y * e, l1 - p, l1i - pi)


@njit(forceinline=True, **_OPTIONS)
def _pulses(up: Any, down: Any, z: Any, some: Any, bound: bool) -> None:
    """A pulse turns a full pool and saturates a bound one."""
    _pulse(up[0], down[0], z[0], some[_COS], some[_SIN])
    if bound:
        rest, left = z[1], some[_LEFT]
        for lane in range(LANES):
            rest[0, lane], rest[1, lane] = rest[0, lane] * left[lane], rest[1, lane] * left[lane]
    else:
        _pulse(up[1], down[1], z[1], some[_COS], some[_SIN])


@njit(forceinline=True, **_OPTIONS)
def _echo(up: Any, some: Any, event: Any, echo: Any) -> None:
    """The sum of the pools, demodulated."""
    first, second, row = up[0], up[1], some[_ECHO : _ECHO + 4]
    cosine, sine = event[4], event[5]
    for lane in range(LANES):
        f, fi, g, gi = first[0, lane], first[1, lane], second[0, lane], second[1, lane]
        x = f * row[0, lane] - fi * row[1, lane] + g * row[2, lane] - gi * row[3, lane]
        y = f * row[1, lane] + fi * row[0, lane] + g * row[3, lane] + gi * row[2, lane]
        echo[0, lane], echo[1, lane] = x * cosine - y * sine, x * sine + y * cosine


@njit(forceinline=True, **_OPTIONS)
def _interval(up: Any, down: Any, z: Any, some: Any) -> None:
    """Relaxation, exchange and precession, for one order."""
    _mixed(up[0], up[1], some[_T : _T + 8], _ONE)
    _mixed(down[0], down[1], some[_T : _T + 8], -_ONE)
    first, second, e = z[0], z[1], some[_E : _E + 4]
    for part in range(2):
        for lane in range(LANES):
            x, y = first[part, lane], second[part, lane]
            first[part, lane] = e[0, lane] * x + e[1, lane] * y
            second[part, lane] = e[2, lane] * x + e[3, lane] * y


@njit(forceinline=True, **_OPTIONS)
def _mixed(first: Any, second: Any, t: Any, sign: Any) -> None:
    """exp(L t) on F+ of both pools, or with the sign -1 its conjugate on F-."""
    for lane in range(LANES):
        f, fi, g, gi = first[0, lane], sign * first[1, lane], second[0, lane], sign * second[1, lane]
        first[0, lane] = t[0, lane] * f - t[1, lane] * fi + t[2, lane] * g - t[3, lane] * gi
        first[1, lane] = sign * (t[1, lane] * f + t[0, lane] * fi + t[3, lane] * g + t[2, lane] * gi)
        second[0, lane] = t[4, lane] * f - t[5, lane] * fi + t[6, lane] * g - t[7, lane] * gi
        second[1, lane] = sign * (t[5, lane] * f + t[4, lane] * fi + t[7, lane] * g + t[6, lane] * gi)


@njit(**_OPTIONS)
def _recover(z: Any, some: Any) -> None:
    for pool in range(2):
        rest, back = z[pool], some[_BACK + pool]
        for lane in range(LANES):
            rest[0, lane] += back[lane]
