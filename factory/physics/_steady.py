"""The steady state of gradient echoes with RF spoiling, as a continued fraction over the orders of an extended graph.

In the frame of each pulse, with phases phi_n = phi n (n - 1) / 2, the states of order k differ from one repetition to
the next by exp(-i k n phi) alone.  What F+ of order k brings in comes back as F- through the pulse at k itself (B) and
through all orders above: rho_k = B + A**2 q / (1 - B q), where q = (E2 d_k)**2 exp(i (2 k + 1) phi) rho_(k+1), A is
1 - B, and d_k is what diffusion leaves of F between k and k + 1.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from factory.numerics import exp, sincos
from factory.physics._pools import longitudinal

_OPTIONS: dict[str, Any] = {"nogil": True, "cache": True, "error_model": "numpy"}


@njit(**_OPTIONS)
def steady(samples: Any, flip: Any, interval: float, increment: float, orders: Any, out: Any) -> None:
    """F0 right behind each pulse and right before the next, in its frame.

    Parameters
    ----------
    samples : float64, shape (4, sample)
        1 / T1 and 1 / T2 in 1/s, relative flip angle, and D k**2 in 1/s with k in rad/m the dephasing of an interval.
    flip : float64 in rad, shape (flip,)
    interval, increment : float in s and rad
        Repetition time, and the step of the phase's step.
    orders : int64, shape (sample,)
    out : complex128, shape (sample, flip, 2)
    """
    turns = _turns(np.max(orders), increment)
    left, transverse = np.empty(len(turns), np.complex128), np.empty(len(turns))
    for i in range(samples.shape[1]):
        r1, r2, relative, spread = samples[0, i], samples[1, i], samples[2, i], samples[3, i]
        for k in range(orders[i]):  # diffusion while the order stays at k, and while it goes from k to k + 1
            left[k] = exp(-interval * (r1 + spread * k * k)) * turns[k]
            transverse[k] = exp(-2 * interval * (r2 + spread * (k * k + k + 1 / 3)))
        for n in range(len(flip)):
            s, c = sincos(flip[n] * relative)
            _solve(s, c, left, transverse, turns, orders[i], 1 - left[0].real, out[i, n])


@njit(**_OPTIONS)
def steady_beside_bound(samples: Any, flip: Any, power: float, saturation: float, interval: float, increment: float,
                        orders: Any, out: Any) -> None:
    """`steady` of a free pool that exchanges with a bound one, which pulses saturate; over the M0 of both.

    Parameters
    ----------
    samples : float64, shape (7, sample)
        1 / T1 and 1 / T2 of the free pool, 1 / T1 of the bound one in 1/s, relative flip angle of the free pool,
        exchange from it to the bound pool in 1/s, the bound pool's share of M0, and the relative field it is under.
    power, saturation : float
        -log of what a pulse of 1 rad, and what else in a repetition, leaves of the bound pool at a relative field of 1.
    flip, interval, increment, orders, out
        As `steady` takes them.
    """
    turns = _turns(np.max(orders), increment)
    left, transverse = np.empty(len(turns), np.complex128), np.empty(len(turns))
    for i in range(samples.shape[1]):
        relative, k_bound, part, field = samples[3, i], samples[4, i], samples[5, i], samples[6, i]
        back = k_bound * (1 - part) / part
        slow, fast, p, q, r = longitudinal(samples[0, i], samples[2, i], k_bound, back)
        e, d = exp(interval * slow), exp(interval * fast)
        e11, e12, e21, e22 = d + (e - d) * p, (e - d) * q, (e - d) * r, e - (e - d) * p
        free = (1 - e11) * (1 - part) - e12 * part  # what comes back in an interval, from nothing
        bound = (1 - e22) * part - e21 * (1 - part)
        transverse[:] = exp(-2 * interval * samples[1, i])
        for n in range(len(flip)):
            s, c = sincos(flip[n] * relative)
            kept = exp(-field * field * (power * flip[n] * flip[n] + saturation))
            for k in range(orders[i]):  # once over to the bound pool and back, at once or after some repetitions
                left[k] = turns[k] * (e11 + turns[k] * e12 * kept * e21 / (1 - turns[k] * e22 * kept))
            source = free + e12 * kept * bound / (1 - e22 * kept)
            _solve(s, c, left, transverse, turns, orders[i], source, out[i, n])


@njit(**_OPTIONS)
def _turns(most: int, increment: float) -> Any:
    """exp(i k phi) of every order k."""
    turns = np.empty(most + 1, np.complex128)
    for k in range(most + 1):
        sine, cosine = sincos(np.fmod(k * increment, 2 * np.pi))
        turns[k] = complex(cosine, sine)
    return turns


@njit(**_OPTIONS)
def _solve(s: float, c: float, left: Any, transverse: Any, turns: Any, orders: int, source: float, out: Any) -> None:
    """The fraction, from the highest order down; `left` is what an interval leaves of Z, `source` what it adds."""
    rho = 0j
    for k in range(orders - 1, 0, -1):
        q = transverse[k] * turns[k] * turns[k + 1] * rho
        b = _back(s, c, left[k])
        rho = b + (1 - b) * (1 - b) * q / (1 - b * q)
    q = transverse[0] * turns[1] * rho  # of order 0, whose F- is the conjugate of its F+
    b = _back(s, c, left[0]).real
    ernst = 1j * s * source / (1 - c * left[0].real)
    near, far = 1 - b * q, (1 - b) * np.conj(q)
    size = (near * np.conj(near) - far * np.conj(far)).real
    out[0] = (np.conj(near) * ernst + far * np.conj(ernst)) / size
    out[1] = np.conj(q * out[0])


@njit(forceinline=True, **_OPTIONS)
def _back(s: float, c: float, left: complex) -> complex:
    """B: what a pulse turns from F+ into F-, at once and by way of the Z that an interval leaves."""
    return 0.5 * (1 - c) + 0.5 * s * s * left / (1 - c * left)
