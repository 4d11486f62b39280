"""Kernels of extended phase graphs with pulses of any phase: complex states, many samples in the lanes of vectors.

The states are kept in the frame of the pulse that acts on them: its phase is then 0, and leaves F+ + F- as it is while
d = (F+ - F-) / 2 and Z are turned into each other: d -> c d + i s Z, Z -> i s d + c Z.  The step from one pulse's phase
to the next and the precession off resonance are one rotation together with the decay of the interval between them.
F+ moves one order up and F- one down: their rings of orders keep still and their origins move.

Written for the dtype of its arguments: float32 in steps, float64 where a reference asks for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import overload

from factory import device
from factory.numerics import cos_array, exp, exp_array, fma, inlined, log_array, sin_array, sincos
from factory.numerics32 import exp32, sincos32

_OPTIONS: dict[str, Any] = {"nogil": True, "cache": True, "error_model": "numpy"}
LANES = 64  # samples side by side: 20 orders of their states fill a first-level cache
KEEP, DEPHASE, SPOIL = 0, 1, 2  # what an interval does to what is transverse: no gradient, one order, nothing is left
_RATE1, _RATE2, _RELATIVE, _TURN, _COS, _SIN, _E1, _REAL, _IMAG, _ECHO_REAL, _ECHO_IMAG = range(11)


_fma: Any = fma  # of either type
_ZERO, _HALF, _ONE = map(np.float32, (0.0, 0.5, 1.0))  # exact: they take the precision of what they meet


def _exp(x: Any) -> Any:
    """e**x in the precision of x."""


def _sincos(x: Any) -> Any:
    """(sin x, cos x) in the precision of x."""


def _of_precision(single: Any, double: Any) -> Any:
    """What numba compiles for a call: `single` for a float32, else `double`."""

    def of_single(x: Any) -> Any:
        return single(x)

    def of_double(x: Any) -> Any:
        return double(x)

    def chosen(x: Any) -> Any:
        return of_single if x == types.float32 else of_double

    return chosen


for _function, _choices in ((_exp, (exp32, exp)), (_sincos, (sincos32, sincos))):
    overload(_function, jit_options={"forceinline": True, "error_model": "numpy"})(_of_precision(*_choices))


def schedule(flip: Any, phase: Any, interval: Any, gradient: Any, echo: Any, receiver: Any, orders: int, kind: Any
             ) -> tuple[Any, Any]:
    """The tables of events that `train` reads.

    Parameters
    ----------
    flip, phase : float in rad, shape (event,)
        A flip angle of 0 is no pulse.
    interval : float in s, shape (event,)
        Length of what lies behind each pulse.
    gradient : int, shape (event,)
        KEEP, DEPHASE or SPOIL.
    echo : float in s, shape (event,)
        From the pulse to an echo before the interval's gradient; NaN for none.
    receiver : float in rad, shape (event,)
        Phase that is taken off an echo.
    orders : int
        How many orders are kept at most.
    kind : dtype
        float32 or float64.

    Returns
    -------
    events : kind, shape (event, 6)
    marks : int64, shape (event, 3)
        An order matters when the gradients so far can have made it and those before the last echo can undo it.
    """
    columns = np.broadcast_arrays(flip, phase, interval, gradient, echo, receiver)
    flip, phase, interval, gradient, echo, receiver = columns
    frame = np.array(phase, float)  # without a pulse the frame stays that of the last one
    for n in np.flatnonzero(np.asarray(flip) == 0):
        frame[n] = frame[n - 1] if n > 0 else 0.0
    step = -np.diff(frame, append=frame[-1])
    step -= 2 * np.pi * np.rint(step / (2 * np.pi))
    read = ~np.isnan(echo)
    demodulated = frame - receiver
    shifts = (gradient == DEPHASE).astype(np.int64)
    made = np.cumsum(shifts) - shifts
    undone = np.maximum(made[np.flatnonzero(read)[-1]] - made, 0)
    turn = cos_array(demodulated), sin_array(demodulated)
    events = np.stack([flip, step, interval, np.where(read, echo, 0), *turn], 1)
    marks = np.stack([gradient, read, np.minimum(np.minimum(made, undone) + 1, orders)], 1)
    return events.astype(kind), marks.astype(np.int64)


def enough(t1: Any, t2: Any, interval: float, pulses: float, error: float, most: int, spread: Any = None) -> Any:
    """How many orders keep every F0 of a train within an error, whatever its pulses are.

    Let E1 and E2 be what an interval with its dephasing leaves, r = E1**share for a share of at most 1, w = r / E2, and
    weigh order k by w**k in the norm that pulses keep: |F+|**2 + |F-|**2 + 2 |Z|**2, of order 0 |F|**2 + Z**2.

    - Forwards.  Climbing, F+ becomes w E2 = r of itself; F- and Z lose more.  So an interval takes a state of norm M to
      sqrt(r**2 M**2 - x**2) at most if x is the weighed size of what it drops at order K, and recovery adds at most
      g = 1 - E1.  The norm never exceeds c = g / (1 - r), and x**2 = (r M)**2 - (M' - g)**2 <= (r M)**2 - M'**2 +
      c**2 (1 - r**2), M' being the next norm: all x**2, each times r**2 for every later interval, add up to c**2.
    - Backwards.  What reads F0 has the norm 1, and going back through an interval it too shrinks to r; but what of it
      lies on F+ of order K goes down, to r / w**2 of itself.  So the squares of its weighed sizes there, less the r of
      the intervals, add up to 1 / (1 - w**-4), and are at most as many as there are pulses.

    What is lost is the sum over intervals of one times the other and of w**(-2 K), by Cauchy and Schwarz at most
    c w**(-2 K) sqrt(min(pulses, 1 / (1 - w**-4))).  The best of some shares is taken: the whole where T2 is far below
    T1, less where it is not.

    With diffusion the weight of an order is the product of r / (E2 d_k) over the orders below it, d_k being what is
    left of F between k and k + 1: all of the above holds, and w**K grows by exp(spread interval K**3 / 3).

    Parameters
    ----------
    t1, t2 : float in s, shape (sample,)
    interval : float in s
        The shortest one.
    pulses : float
        How many there are; infinity in a steady state.
    error : float
        Of F0, over M0.
    most : int
        How many orders can matter at all.
    spread : float in 1/s, shape (sample,), optional
        D k**2 with k in rad/m the dephasing of an interval.

    Returns
    -------
    orders : int64, shape (sample,)
        Rounded up to 4, 6, 8, 12, 16, 24 ..., so that few sizes occur; `most` where T2 is above 4 T1.
    """
    needed = np.full(len(t1), np.inf)
    for share in (1.0, 0.5, 0.25):
        recovered, lost = (np.maximum(1 - exp_array(-x * interval / t1), 1e-12) for x in (1.0, share))
        rate = 1 / t2 - share / t1
        passed = np.maximum(1 - exp_array(-4 * interval * np.maximum(rate, 0.0)), 1e-12)
        terms = np.sqrt(np.minimum(pulses, 1 / passed)) * np.maximum(recovered / lost, 1)
        fall = log_array(np.maximum(terms / error, 1)) / (2 * interval)
        bound = fall / np.where(rate > 0, rate, 1.0)
        if spread is not None:
            bound = np.minimum(bound, exp_array(log_array(np.maximum(3 * fall / np.maximum(spread, 1e-30), 1e-30)) / 3))
        needed = np.where(rate > 0, np.minimum(needed, bound), needed)
    sizes = np.array([4, *(k * 2**n for n in range(1, 24) for k in (3, 4))])
    rounded = sizes[np.minimum(np.searchsorted(sizes, needed), len(sizes) - 1)]
    return np.minimum(rounded, most)


def by_orders(kernel: Callable[[Any, Any, int, Any], Any], samples: Any, start: Any, orders: Any, out: Any) -> Any:
    """Run a kernel with as many orders as each sample asks for: its own, so its bytes do not depend on its neighbours.

    Parameters
    ----------
    kernel : function of samples, start, a number of orders, and where to write
    samples, start : float, shape (..., sample)
    orders : int64, shape (sample,)
    out : shape (sample, echo)
        Returned.
    """
    for size in np.unique(orders):
        chosen = np.flatnonzero(orders == size)
        part = np.empty((len(chosen), out.shape[1]), out.dtype)
        kernel(np.ascontiguousarray(samples[..., chosen]), np.ascontiguousarray(start[..., chosen]), int(size), part)
        out[chosen] = part
    return out


def trains(samples: Any, start: Any, tables: tuple[Any, Any], orders: int, out: Any) -> None:
    """`train` in float32 on the chosen device, by the tables that `schedule` gives."""
    if device.chosen() == "cuda":
        from factory.physics import _card_graphs

        _card_graphs.train_of_any_phase(samples, start, *tables, orders, out)
    else:
        train(samples, start, *tables, orders, out)


@njit(**_OPTIONS)
def train(samples: Any, start: Any, events: Any, marks: Any, orders: int, out: Any) -> Any:
    """F0 at the echoes of a train of pulses and intervals.

    Parameters
    ----------
    samples : float, shape (4, sample)
        -1 / T1 and -1 / T2 in 1/s, relative flip angle, -2 pi off-resonance in rad/s.
    start : float, shape (sample,)
        Mz before the first pulse, over M0.
    events : float, shape (event, 6)
        Flip angle in rad (0: no pulse), its phase less the next one's in rad, length of the interval behind it in s,
        from the pulse to the echo in s, cosine and sine of the phase less the receiver's.
    marks : int64, shape (event, 3)
        KEEP, DEPHASE or SPOIL; whether there is an echo (before the dephasing); how many orders matter.
    orders : int
        How many orders of dephasing are kept.
    out : complex, shape (sample, echo)

    Returns
    -------
    up, down, z : float, shape (ring or orders, 2, lane)
        F+, F- and Z of the last samples at the end, real and imaginary, in the frame of the last pulse.
    above, below : int
        Where in the rings order 0 lies.
    """
    kind, ring = samples.dtype, 2
    while ring <= orders:
        ring *= 2
    up, down = np.zeros((ring, 2, LANES), kind), np.zeros((ring, 2, LANES), kind)
    z, some = np.zeros((orders, 2, LANES), kind), np.zeros((11, LANES), kind)
    echoes = np.zeros((out.shape[1] + 1, 2, LANES), kind)  # one for what no echo asks for
    above, below = 0, 0
    for first in range(0, out.shape[0], LANES):
        up[:], down[:], z[:] = 0, 0, 0
        load(samples, first, some)
        load(start.reshape(1, -1), first, z[0])
        above, below, seen = 0, 0, 0
        for n in range(len(events)):
            gradient, read, reach = marks[n]
            _between(some, events[n])
            _first(up[above], down[below], z[0], some, echoes[seen], events[n])
            seen += read
            for k in range(1, reach):
                _order(up[(above + k) & (ring - 1)], down[(below + k) & (ring - 1)], z[k], some, events[n, 0] != 0)
            if gradient == DEPHASE:
                above, below = shifted(down, above, below, orders)
                _return(down[below], up[above])
            elif gradient == SPOIL:
                up[:], down[:] = 0, 0
        _store(echoes, first, out)
    return up, down, z, above, below


@njit(**_OPTIONS)
def load(table: Any, first: int, lanes: Any) -> None:
    """Rows of one block of samples; what is left of the last block repeats its last sample."""
    for lane in range(LANES):
        i = min(first + lane, table.shape[1] - 1)
        for row in range(len(table)):
            lanes[row, lane] = table[row, i]


@njit(forceinline=True, **_OPTIONS)
def shifted(down: Any, above: int, below: int, orders: int) -> Any:
    """Where in the rings order 0 lies behind a dephasing; nothing comes down to the highest order that is kept."""
    last = len(down) - 1
    above, below = (above - 1) & last, (below + 1) & last
    down[(below + orders - 1) & last] = 0
    return above, below


@njit(**_OPTIONS)
def _store(echoes: Any, first: int, out: Any) -> None:
    for lane in range(min(LANES, out.shape[0] - first)):
        for n in range(out.shape[1]):
            out[first + lane, n] = complex(echoes[n, 0, lane], echoes[n, 1, lane])


@njit(**_OPTIONS)
def _between(some: Any, event: Any) -> None:
    """Cosine and sine of the pulse, what is left of Z and (turned) of F after the interval and at the echo."""
    r1, r2, relative, turn = some[_RATE1], some[_RATE2], some[_RELATIVE], some[_TURN]
    c, s, e1, real, imag = some[_COS], some[_SIN], some[_E1], some[_REAL], some[_IMAG]
    echo_real, echo_imag = some[_ECHO_REAL], some[_ECHO_IMAG]
    flip, step, interval, echo = event[0], event[1], event[2], event[3]
    for lane in range(LANES):
        s[lane], c[lane] = _sincos(flip * relative[lane])
        e1[lane], e2 = _exp(interval * r1[lane]), _exp(interval * r2[lane])
        sine, cosine = _sincos(_fma(interval, turn[lane], step))
        real[lane], imag[lane] = e2 * cosine, e2 * sine
    for lane in range(LANES):
        e2 = _exp(echo * r2[lane])
        sine, cosine = _sincos(_fma(echo, turn[lane], _ZERO))
        echo_real[lane], echo_imag[lane] = e2 * cosine, e2 * sine


@njit(forceinline=True, **_OPTIONS)
def _order(up: Any, down: Any, z: Any, some: Any, pulsed: bool) -> None:
    """A pulse, if there is one, and the interval behind it, for one order."""
    if pulsed:
        _both(up, down, z, some)
    else:
        _interval(up, down, z, some)


@njit(forceinline=True, **_OPTIONS)
def _first(up: Any, down: Any, z: Any, some: Any, echo: Any, event: Any) -> None:
    """The same for order 0, with the echo in between and the recovery of Z behind it."""
    if event[0] != 0:
        _pulse(up, down, z, some[_COS], some[_SIN])
    real, imag, e1 = some[_ECHO_REAL], some[_ECHO_IMAG], some[_E1]
    cosine, sine = event[4], event[5]
    for lane in range(LANES):
        x, y = product(up[0, lane], up[1, lane], real[lane], imag[lane])
        echo[0, lane], echo[1, lane] = product(x, y, cosine, sine)
    x, y = some[_REAL], some[_IMAG]
    for lane in range(LANES):
        up[0, lane], up[1, lane] = product(up[0, lane], up[1, lane], x[lane], y[lane])
        down[0, lane], down[1, lane] = product(down[0, lane], down[1, lane], x[lane], -y[lane])
        z[0, lane], z[1, lane] = _fma(e1[lane], z[0, lane], _ONE - e1[lane]), e1[lane] * z[1, lane]


@inlined
def product(f: Any, fi: Any, x: Any, y: Any) -> Any:
    """(f + i fi) (x + i y); products that are added are fused, so nothing else can fuse them."""
    return _fma(f, x, -(fi * y)), _fma(f, y, fi * x)


@inlined
def turned(f: Any, fi: Any, g: Any, gi: Any, z: Any, zi: Any, c: Any, s: Any) -> Any:
    """A pulse of phase 0 on F+ = f + i fi, F- = g + i gi and Z."""
    mean, mean_i, d, di = _HALF * (f + g), _HALF * (fi + gi), _HALF * (f - g), _HALF * (fi - gi)
    change, change_i = _fma(c, d, -(s * zi)), _fma(c, di, s * z)
    return (mean + change, mean_i + change_i, mean - change, mean_i - change_i, _fma(c, z, -(s * di)),
            _fma(c, zi, s * d))


@njit(forceinline=True, **_OPTIONS)
def _pulse(up: Any, down: Any, z: Any, c: Any, s: Any) -> None:
    for lane in range(LANES):
        up[0, lane], up[1, lane], down[0, lane], down[1, lane], z[0, lane], z[1, lane] = turned(
            up[0, lane], up[1, lane], down[0, lane], down[1, lane], z[0, lane], z[1, lane], c[lane], s[lane])


@njit(forceinline=True, **_OPTIONS)
def _interval(up: Any, down: Any, z: Any, some: Any) -> None:
    e1, x, y = some[_E1], some[_REAL], some[_IMAG]
    for lane in range(LANES):
        up[0, lane], up[1, lane] = product(up[0, lane], up[1, lane], x[lane], y[lane])
        down[0, lane], down[1, lane] = product(down[0, lane], down[1, lane], x[lane], -y[lane])
        z[0, lane], z[1, lane] = e1[lane] * z[0, lane], e1[lane] * z[1, lane]


@njit(forceinline=True, **_OPTIONS)
def _both(up: Any, down: Any, z: Any, some: Any) -> None:
    c, s, e1, x, y = some[_COS], some[_SIN], some[_E1], some[_REAL], some[_IMAG]
    for lane in range(LANES):
        f, fi, g, gi, rest, rest_i = turned(
            up[0, lane], up[1, lane], down[0, lane], down[1, lane], z[0, lane], z[1, lane], c[lane], s[lane])
        up[0, lane], up[1, lane] = product(f, fi, x[lane], y[lane])
        down[0, lane], down[1, lane] = product(g, gi, x[lane], -y[lane])
        z[0, lane], z[1, lane] = e1[lane] * rest, e1[lane] * rest_i


@njit(**_OPTIONS)
def _return(down: Any, up: Any) -> None:
    """What comes back to order 0 from below goes on as F+: its conjugate."""
    for lane in range(LANES):
        up[0, lane], up[1, lane] = down[0, lane], -down[1, lane]
