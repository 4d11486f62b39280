"""Trains of pulses and pauses under the Bloch-McConnell equations: each distinct element once, then their product.

An element is a pulse of some pieces, or a pause, with one frequency.  It takes magnetisation m (scaled as in
`factory.physics._exchange`) to G m + d; a program says which element follows which.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from factory.numerics import sincos
from factory.physics._exchange import LANES, advance, compose, equilibrium, propagators

_OPTIONS: dict[str, Any] = {"nogil": True, "cache": True, "error_model": "numpy"}
RESET, RECORD, SPOIL_AFTER = 1, 2, 4
"""What an operation does besides its element, in this order: start anew before it, record and spoil behind it."""


@njit(**_OPTIONS)
def signals(pools: Any, b1: Any, elements: Any, pieces: Any, program: Any, phases: Any, start: float, line: int,
            table: Any, state: Any, out: Any) -> None:  # fmt: skip
    """Mx, My and Mz of water where the program records.

    Parameters
    ----------
    pools : float64, shape (sample, pool + 1, 5), as in `propagators`
    b1 : float64, shape (sample,)
    elements : float64, shape (element, 3)
        First piece, number of pieces, frequency in rad/s; those with as many pieces stand together.
    pieces : float64, shape (piece, 3)
        w1 in rad/s, phase in rad, duration in s.
    program : int64, shape (operation, 2)
        Element and what else happens.
    phases : float64 in rad, shape (operation,)
    start : Mz over its equilibrium, of every pool, at the begin and after RESET
    line, table, state : as in `propagators`
    out : float64, shape (sample, record, 3)
    """
    m = len(state)
    whole = np.empty((len(elements), m, m + 1))
    turns = np.empty((len(phases), 2))
    for k in range(len(phases)):
        turns[k, 1], turns[k, 0] = sincos(phases[k])
    v, moved = np.empty((m, LANES)), np.empty(m)
    for i in range(len(out)):
        first = 0
        while first < len(elements):
            held = 1
            while held < LANES and first + held < len(elements) and elements[first + held, 1] == elements[first, 1]:
                held += 1
            _played(whole[first : first + held], elements[first : first + held], pieces, pools[i], b1[i], line, table,
                    state)  # fmt: skip
            first += held
        equilibrium(v, pools[i], start, state)
        _followed(whole, program, turns, v[:, 0].copy(), moved, state, out[i])


@njit(**_OPTIONS)
def _followed(whole: Any, program: Any, turns: Any, begun: Any, moved: Any, state: Any, out: Any) -> None:
    m, recorded, v = len(state), 0, begun.copy()
    transverse = m - m % 3
    for k in range(len(program)):
        does = program[k, 1]
        if does & RESET:
            v[:] = begun
        g = whole[program[k, 0]]
        _turn(v, turns[k, 0], -turns[k, 1], transverse)
        for i in range(m):
            total = g[i, m]
            for j in range(m):
                total += g[i, j] * v[j]
            moved[i] = total
        v[:] = moved
        _turn(v, turns[k, 0], turns[k, 1], transverse)
        if does & RECORD:
            out[recorded] = v[:3]
            recorded += 1
        if does & SPOIL_AFTER:
            _spoil(v, transverse)


@njit(**_OPTIONS)
def _spoil(v: Any, transverse: int) -> None:
    for x in range(0, transverse, 3):
        v[x : x + 2] = 0.0


@njit(**_OPTIONS)
def _turn(v: Any, c: float, s: float, transverse: int) -> None:
    """Mx + i My of every pool times c + i s."""
    for x in range(0, transverse, 3):
        v[x], v[x + 1] = c * v[x] - s * v[x + 1], s * v[x] + c * v[x + 1]


@njit(**_OPTIONS)
def _played(whole: Any, elements: Any, pieces: Any, pools: Any, b1: float, line: int, table: Any, state: Any
            ) -> None:  # fmt: skip
    """G and d of up to 8 elements with one number of pieces; both in the frame of the scanner's carrier.

    While a pulse lasts its own frequency is the frame's; each piece acts in a frame that is turned by its phase.
    """
    m, held = len(state), len(elements)
    q, rest, d, full = np.empty((m * (m + 1) // 2, LANES)), np.empty((m, LANES)), np.zeros((m, LANES)), np.zeros(
        (m * m, LANES))  # fmt: skip
    g, growth = np.zeros((m + 2 * (m // 3) + m % 3, LANES)), np.empty((m, LANES))
    pulse, angle, lasted = np.empty((3, LANES)), np.zeros(LANES), np.zeros(LANES)
    for i in range(m):
        full[i * m + i] = 1.0
    for k in range(int(elements[0, 1])):
        for lane in range(LANES):  # what is left of the block repeats its last element
            one = min(lane, held - 1)
            piece = pieces[int(elements[one, 0]) + k]
            pulse[0, lane], pulse[1, lane], pulse[2, lane] = elements[one, 2], piece[0] * b1, piece[2]
            lasted[lane] += piece[2]
            _turned(full, d, lane, angle[lane] - piece[1], m)
            angle[lane] = piece[1]
        propagators(q, rest, g, growth, pools, pulse, line, table, state)
        compose(full, q, state)
        advance(d, q, rest, state)
    for lane in range(held):
        _turned(full, d, lane, angle[lane] - elements[lane, 2] * lasted[lane], m)
        for i in range(m):
            for j in range(m):
                whole[lane, i, j] = full[i * m + j, lane]
            whole[lane, i, m] = d[i, lane]


@njit(**_OPTIONS)
def _turned(full: Any, d: Any, lane: int, angle: float, m: int) -> None:
    """One lane's transverse rows times exp(i angle)."""
    if angle == 0.0:
        return
    s, c = sincos(angle)
    for x in range(0, m - m % 3, 3):
        for j in range(m):
            a, b = full[x * m + j, lane], full[(x + 1) * m + j, lane]
            full[x * m + j, lane], full[(x + 1) * m + j, lane] = c * a - s * b, s * a + c * b
        a, b = d[x, lane], d[x + 1, lane]
        d[x, lane], d[x + 1, lane] = c * a - s * b, s * a + c * b
