"""Kernel of trains of equal intervals in which what is dephased diffuses; frames, rings and lanes are `_pathways`'.

With d = D times the square of an interval's dephasing in rad/m, diffusion leaves exp(-d TR k**2) of Z at order k and
exp(-d TR (k**2 + k + 1/3)) of F on its way between k and k + 1, up or down: the mean square of the order (Weigel 2015,
doi:10.1002/jmri.24619).  Intervals are equal, so these factors are computed once for a block of samples.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from factory.physics._pathways import LANES, _between, _both, _exp, _first, _return, _store, load, shifted

_OPTIONS: dict[str, Any] = {"nogil": True, "cache": True, "error_model": "numpy"}
_SPREAD, _FADES = 4, 11  # the row of d, until `_pathways` fills it, and where the factors begin, behind its rows
_THIRD = np.float32(1 / 3)


@njit(**_OPTIONS)
def train(samples: Any, start: Any, events: Any, marks: Any, orders: int, out: Any) -> None:
    """F0 at the echo of every pulse; each interval dephases and is as long as the first.

    Parameters
    ----------
    samples : float32, shape (5, sample)
        The rows of `_pathways.train`, and d in 1/s.
    start, events, marks, orders, out
        As `_pathways.train` takes them; all gradients dephase.
    """
    kind, ring = samples.dtype, 2
    while ring <= orders:
        ring *= 2
    up, down = np.zeros((ring, 2, LANES), kind), np.zeros((ring, 2, LANES), kind)
    z, some = np.zeros((orders, 2, LANES), kind), np.zeros((_FADES + 2 * orders, LANES), kind)
    echoes = np.zeros((out.shape[1] + 1, 2, LANES), kind)  # one for what no echo asks for
    for first in range(0, out.shape[0], LANES):
        up[:], down[:], z[:] = 0, 0, 0
        load(samples, first, some[: len(samples)])
        _fade(some, events[0, 2], orders)
        load(start.reshape(1, -1), first, z[0])
        above, below, seen = 0, 0, 0
        for n in range(len(events)):
            _between(some, events[n])
            _first(up[above], down[below], z[0], some, echoes[seen], events[n])
            seen += marks[n, 1]
            _faded(up[above], some[_FADES + 1])
            for k in range(1, marks[n, 2]):
                a, b, fades = (above + k) & (ring - 1), (below + k) & (ring - 1), some[_FADES + 2 * k - 1 :]
                _order(up[a], down[b], z[k], some, fades)
            above, below = shifted(down, above, below, orders)
            _return(down[below], up[above])
        _store(echoes, first, out)


@njit(**_OPTIONS)
def _fade(some: Any, interval: Any, orders: int) -> None:
    """What diffusion leaves in an interval: of Z at order k in row 2 k, of F between k and k + 1 in the next one."""
    for k in range(orders):
        for lane in range(LANES):
            spread, square = interval * some[_SPREAD, lane], np.float32(k) * np.float32(k)
            some[_FADES + 2 * k, lane] = _exp(-spread * square)
            some[_FADES + 2 * k + 1, lane] = _exp(-spread * (square + np.float32(k) + _THIRD))


@njit(forceinline=True, **_OPTIONS)
def _faded(up: Any, left: Any) -> None:
    for lane in range(LANES):
        up[0, lane], up[1, lane] = up[0, lane] * left[lane], up[1, lane] * left[lane]


@njit(forceinline=True, **_OPTIONS)
def _order(up: Any, down: Any, z: Any, some: Any, fades: Any) -> None:
    """A pulse and the interval behind it, for one order; fades: of F below the order, of Z at it, of F above it."""
    _both(up, down, z, some)
    _faded(down, fades[0])
    _faded(z, fades[1])
    _faded(up, fades[2])
