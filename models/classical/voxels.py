"""Kernels that fit one exponential curve a voxel: an exhaustive grid over the time constant, then Levenberg-Marquardt.

The curve is |p0 offset - c E_n| with E_n = exp(-time_n / t). With ``ratio`` c = p0 p1, and (p0, p1) = (A, B) of an
inversion recovery (offset 1), or p1 = -1 with offset 0 for a decay; without ``ratio`` c = p1, a general line in E.
The absolute value makes the cost multimodal in t, so the grid is not optional: at each time constant the best linear
parameters of every sign pattern come from prefix sums in closed form. Patterns change sign once, as the curve does.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from factory.numerics import exp, inlined, kernel

Floats = NDArray[np.float64]
_STEPS = 100  # Levenberg-Marquardt; 5 to 20 are usual
_ENOUGH = 1e-11  # relative step at which a fit has converged


class Curve(NamedTuple):
    """What is fitted; a named tuple, so that kernels can take it.

    Attributes
    ----------
    offset : float
        1 for recovery, 0 for decay.
    ratio : bool
        Whether p1 multiplies p0 (and is bounded by low and high, with p0 >= 0), or both are free and of any sign.
    magnitude : bool
        Whether the absolute value is taken.
    free : bool
        Whether p1 is fitted.
    low, high : float
        Bounds of p1.
    shortest, longest : float
        Bounds of the time constant in s.
    """

    offset: float
    ratio: bool
    magnitude: bool
    free: bool
    low: float
    high: float
    shortest: float
    longest: float


@inlined
def normal(signal: Any, time: Any, decay: Any, p0: float, p1: float, t: float, curve: Any) -> Any:
    """Sum of squares, g = J' r and the six entries of J'J at one point; ``decay`` is room for E."""
    for n in range(time.size):
        decay[n] = exp(-time[n] / t)
    c = p0 * p1 if curve.ratio else p1
    slope = -c / (t * t)
    cost = g0 = g1 = g2 = h00 = h01 = h02 = h11 = h12 = h22 = 0.0
    for n in range(time.size):
        e = decay[n]
        m = p0 * curve.offset - c * e
        r = (-signal[n] if curve.magnitude and m < 0.0 else signal[n]) - m
        d0 = curve.offset - p1 * e if curve.ratio else 1.0
        d1 = -p0 * e if curve.ratio else -e
        d2 = slope * e * time[n]
        cost += r * r
        g0 += r * d0
        g1 += r * d1
        g2 += r * d2
        h00 += d0 * d0
        h01 += d0 * d1
        h02 += d0 * d2
        h11 += d1 * d1
        h12 += d1 * d2
        h22 += d2 * d2
    return cost, g0, g1, g2, h00, h01, h02, h11, h12, h22


@inlined
def _step(state: Any, damping: float, free1: bool, free2: bool) -> Any:
    """The damped step of the free parameters; whether the matrix was positive definite."""
    _, g0, g1, g2, h00, h01, h02, h11, h12, h22 = state
    more = 1.0 + damping
    h00 *= more
    if not h00 > 0.0:
        return False, 0.0, 0.0, 0.0
    k11, k12, k22 = h11 * more - h01 * h01 / h00, h12 - h01 * h02 / h00, h22 * more - h02 * h02 / h00
    r1, r2 = g1 - h01 * g0 / h00, g2 - h02 * g0 / h00
    if not free1:
        k11, k12, r1 = 1.0, 0.0, 0.0
    if not free2:
        k22, k12, r2 = 1.0, 0.0, 0.0
    if not k11 > 0.0:
        return False, 0.0, 0.0, 0.0
    pivot = k22 - k12 * k12 / k11
    if not pivot > 0.0:
        return False, 0.0, 0.0, 0.0
    s2 = (r2 - k12 * r1 / k11) / pivot
    s1 = (r1 - k12 * s2) / k11
    return True, (g0 - h01 * s1 - h02 * s2) / h00, s1, s2


@inlined
def _inward(p: float, low: float, high: float, downhill: float) -> bool:
    """Whether a parameter may move: it is not at a bound that the cost pushes it against."""
    return not ((p <= low and downhill <= 0.0) or (p >= high and downhill >= 0.0))


@kernel
def _refine(signal: Any, time: Any, decay: Any, p0: float, p1: float, t: float, curve: Any) -> Any:
    """Levenberg-Marquardt in a box from a start: (p0, p1, t, cost)."""
    state = normal(signal, time, decay, p0, p1, t, curve)
    damping = 1e-4
    for _ in range(_STEPS):
        free1 = curve.free and _inward(p1, curve.low, curve.high, state[2])
        free2 = _inward(t, curve.shortest, curve.longest, state[3])
        solved, s0, s1, s2 = _step(state, damping, free1, free2)
        q0 = max(p0 + s0, 0.0) if curve.ratio else p0 + s0
        q1 = min(max(p1 + s1, curve.low), curve.high) if curve.free else p1
        q2 = min(max(t + s2, curve.shortest), curve.longest)
        trial = normal(signal, time, decay, q0, q1, q2, curve)
        small = abs(q0 - p0) <= _ENOUGH * abs(p0) and abs(q1 - p1) <= _ENOUGH * abs(p1) and abs(q2 - t) <= _ENOUGH * t
        if solved and trial[0] <= state[0]:
            p0, p1, t, state = q0, q1, q2, trial
            damping = max(0.1 * damping, 1e-14)
        else:
            damping *= 10.0
        if (solved and small) or damping > 1e12:
            break
    return p0, p1, t, state[0]


@kernel
def _search_known(signal: Any, decay: Any, b: float, curve: Any, gain: Any, p0: Any, room: Any) -> None:
    """Squares explained at each time constant of the grid with p1 = b."""
    p0[:] = 0.0
    room[:] = 0.0
    for n in range(signal.size):
        s, row = signal[n], decay[n]
        for k in range(row.size):
            g = curve.offset - b * row[k]
            g = abs(g) if curve.magnitude else g
            p0[k] += g * s
            room[k] += g * g
    for k in range(gain.size):
        explained = max(p0[k], 0.0)
        p0[k] = explained / room[k] if room[k] > 0.0 else 0.0
        gain[k] = explained * p0[k]


@inlined
def _on_ray(b: float, u: float, w: float, count: float, total: float, power: float) -> Any:
    """Best p0 >= 0 with p1 = b, and the squares it explains."""
    explained = max(u - b * w, 0.0)
    p0 = explained / (count - 2.0 * b * total + b * b * power)
    return p0, explained * p0


@kernel
def _search_pairs(
    signal: Any, decay: Any, sums: Any, first: Any, curve: Any, gain: Any, p0: Any, p1: Any, w: Any
) -> None:
    """Squares explained at each time constant of the grid, the best of all sign patterns, and its (p0, p1)."""
    total, power, count = sums[0], sums[1], float(signal.size)
    gain[:] = -1.0
    w[:] = 0.0
    u = 0.0
    for n in range(signal.size):
        u += signal[n]
        for k in range(w.size):
            w[k] += signal[n] * decay[n, k]
    for flips in range(first.size if curve.magnitude else 1):
        twice = 2.0 * signal[flips - 1] if flips > 0 else 0.0
        row = decay[max(flips - 1, 0)]
        u -= twice
        for k in range(first[flips], gain.size):
            w[k] -= twice * row[k]
            det = count * power[k] - total[k] * total[k]
            a, c = (power[k] * u - total[k] * w[k]) / det, (total[k] * u - count * w[k]) / det
            best, q0, q1 = a * u - c * w[k], a, c
            if curve.ratio:
                low_a, low = _on_ray(curve.low, u, w[k], count, total[k], power[k])
                high_a, high = _on_ray(curve.high, u, w[k], count, total[k], power[k])
                inside = (a > 0.0) & (c >= curve.low * a) & (c <= curve.high * a)
                q1 = c / a if inside else (curve.low if low > high else curve.high)
                q0 = a if inside else (low_a if low > high else high_a)
                best = best if inside else max(low, high)
            better = best > gain[k]
            gain[k] = best if better else gain[k]
            p0[k] = q0 if better else p0[k]
            p1[k] = q1 if better else p1[k]


@inlined
def _two_peaks(gain: Any) -> Any:
    """Indices of the highest and the second highest local maximum (-1 where there is one only)."""
    best, second = 0, -1
    for k in range(gain.size):
        left = k == 0 or gain[k] >= gain[k - 1]
        right = k == gain.size - 1 or gain[k] > gain[k + 1]
        if left and right:
            if gain[k] > gain[best]:
                best, second = k, best
            elif k != best and (second < 0 or gain[k] > gain[second]):
                second = k
    if second == 0 and gain.size > 1 and gain[0] < gain[1]:
        second = -1
    return best, second


@kernel
def _fit(
    signals: Any, time: Any, grid: Any, decay: Any, sums: Any, first: Any, known: Any, curve: Any, out: Any
) -> None:
    """Fill ``out`` (voxel, 4) with p0, p1, t and the sum of squares."""
    size = grid.size
    gain, p0, p1, room = np.empty(size), np.empty(size), np.empty(size), np.empty(size)
    buffer = np.empty(time.size)
    for v in range(signals.shape[0]):
        signal = signals[v]
        if curve.free:
            _search_pairs(signal, decay, sums, first, curve, gain, p0, p1, room)
        else:
            _search_known(signal, decay, known[v], curve, gain, p0, room)
            p1[:] = known[v]
        best, second = _two_peaks(gain)
        fitted = _refine(signal, time, buffer, p0[best], p1[best], grid[best], curve)
        if second >= 0:
            other = _refine(signal, time, buffer, p0[second], p1[second], grid[second], curve)
            if other[3] < fitted[3]:
                fitted = other
        out[v, 0], out[v, 1], out[v, 2], out[v, 3] = fitted


@kernel
def _profile(signals: Any, time: Any, fitted: Any, curve: Any, slope: Any, bend: Any) -> None:
    """Derivative and Gauss-Newton curvature along p1 of half the sum of squares, minimised over p0 and t."""
    buffer = np.empty(time.size)
    for v in range(signals.shape[0]):
        p0, p1, t = fitted[v, 0], fitted[v, 1], fitted[v, 2]
        slope[v] = bend[v] = 0.0
        if p0 > 0.0 and curve.shortest < t < curve.longest:
            _, _, g1, _, h00, h01, h02, h11, h12, h22 = normal(signals[v], time, buffer, p0, p1, t, curve)
            pivot = h22 - h02 * h02 / h00
            cross = h12 - h02 * h01 / h00
            if pivot > 0.0:
                slope[v] = -g1
                bend[v] = max(h11 - h01 * h01 / h00 - cross * cross / pivot, 0.0)


def fit_curves(signals: Floats, time: Floats, curve: Curve, known: Floats | None = None, size: int = 200) -> Floats:
    """Fit every row of ``signals`` (voxel, n) at sorted times: (voxel, 4) with p0, p1, t and the sum of squares.

    ``known`` (voxel,) gives p1 where the curve does not fit it; ``size`` is that of the grid over the time constant.
    """
    grid = np.geomspace(curve.shortest, curve.longest, size)
    decay = np.exp(-time[:, None] / grid)
    sums = np.stack([decay.sum(0), (decay * decay).sum(0)])
    first = np.zeros(time.size, np.int64)
    if curve.ratio:  # a curve with p1 <= high is negative before grid * log(high) only; one step of slack
        null = grid * np.log(curve.high)
        first = np.r_[0, np.maximum(np.searchsorted(null, time) - 1, 0)]
    out = np.empty((len(signals), 4))
    _fit(signals, time, grid, decay, sums, first, np.empty(0) if known is None else known, curve, out)
    return out


def profile_curves(signals: Floats, time: Floats, curve: Curve, fitted: Floats) -> tuple[Floats, Floats]:
    """Derivative and curvature (voxel,) of the profiled cost along p1; zero where a voxel says nothing about it."""
    slope, bend = np.empty(len(signals)), np.empty(len(signals))
    _profile(signals, time, fitted, curve, slope, bend)
    return slope, bend
