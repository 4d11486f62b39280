"""Kernels of the Bloch-McConnell equations: propagators of many offsets, side by side in the lanes of vectors.

With each pool's magnetisation divided by the root of its fraction, a pulse of phase 0 has the generator A with
A^T = J A J, where J turns the sign of every y component: exchange is symmetric, turns are antisymmetric.  Every
polynomial in A keeps that, so of a propagator P only the upper triangle is held and multiplied.  What is held is
Q = P - 1, which doubles by Q <- Q Q + 2 Q: slow relaxation is not lost beside 1 while the steps are short.

The states are x, y, z of water, of the first solute, of the second ..., and z of a semisolid pool at the end.  How many
they are is told by the length of a tuple, so that numba compiles one kernel a number.  Inner loops are written for the
compiler as vectors of 8 float64 with fused products, in one order on every machine.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import njit, types
from numba.extending import intrinsic

from factory.physics._lineshapes import absorption

_OPTIONS: dict[str, Any] = {"nogil": True, "cache": True, "error_model": "numpy"}
LANES = 8
DEGREE = 8  # of the Taylor series of the shortest step ...
SHORT = 0.06  # ... whose generator is at most this long: 0.06**9 / 9! = 3e-17
_VECTOR = ir.VectorType(ir.DoubleType(), LANES)


def _generator(m: int) -> dict[tuple[int, int], tuple[int, int]]:
    """(row, column) -> (slot, sign) of the entries that are not 0.

    Slots: the diagonal, the offset of every pool with x and y, w1, the exchange of every pool but water; m + 2 (m // 3)
    + m % 3 in all.
    """
    n = m // 3
    entries = {(i, i): (i, 1) for i in range(m)}
    for p in range(n):
        x, y, z = 3 * p, 3 * p + 1, 3 * p + 2
        entries |= {(x, y): (m + p, 1), (y, x): (m + p, -1), (y, z): (m + n, 1), (z, y): (m + n, -1)}
        if p:
            entries |= {pair: (m + n + p, 1) for c in range(3) for pair in ((c, 3 * p + c), (3 * p + c, c))}
    if m % 3:
        entries |= {(2, m - 1): (m + 2 * n, 1), (m - 1, 2): (m + 2 * n, 1)}
    return entries


def _sign(i: int, j: int) -> int:
    """P[j, i] over P[i, j]: -1 if one of the two is a y."""
    return -1 if (i % 3 == 1) != (j % 3 == 1) else 1


class _Code:
    """Writes vector instructions: products are fused, a sign costs nothing."""

    def __init__(self, context: Any, builder: Any, signature: Any, values: Any) -> None:
        self.builder = builder
        self.signature = signature
        self.values = values
        self.context = context
        function = ir.FunctionType(_VECTOR, [_VECTOR] * 3)
        self._fma = builder.module.declare_intrinsic(f"llvm.fma.v{LANES}f64", fnty=function)

    def rows(self, argument: int) -> Any:
        """Where the rows of an array argument lie."""
        kind = self.signature.args[argument]
        if kind.layout != "C" or kind.dtype != types.float64:
            raise TypeError(f"rows of vectors must be a contiguous array of float64, not {kind}")
        array = self.context.make_array(kind)(self.context, self.builder, self.values[argument])
        return self.builder.bitcast(array.data, _VECTOR.as_pointer())

    def load(self, rows: Any, index: int) -> Any:
        place = self.builder.gep(rows, [ir.Constant(ir.IntType(64), index)])
        return self.builder.load(place, align=8)

    def store(self, value: Any, rows: Any, index: int) -> None:
        self.builder.store(value, self.builder.gep(rows, [ir.Constant(ir.IntType(64), index)]), align=8)

    def number(self, value: Any) -> Any:
        """A number in every lane."""
        if isinstance(value, float):
            return ir.Constant(_VECTOR, [value] * LANES)
        lane = self.builder.insert_element(ir.Constant(_VECTOR, ir.Undefined), value, ir.Constant(ir.IntType(32), 0))
        mask = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
        return self.builder.shuffle_vector(lane, lane, mask)

    def plus(self, a: Any, b: Any, c: Any, sign: int = 1) -> Any:
        """sign a b + c; c None is 0."""
        if c is None:
            product = self.builder.fmul(a, b)
            return product if sign > 0 else self.builder.fneg(product)
        return self.builder.call(self._fma, [a if sign > 0 else self.builder.fneg(a), b, c])


def _triangle(m: int) -> dict[tuple[int, int], int]:
    return {(i, j): k for k, (i, j) in enumerate((i, j) for i in range(m) for j in range(i, m))}


def _held(code: _Code, rows: Any, m: int) -> tuple[dict[tuple[int, int], Any], dict[tuple[int, int], int]]:
    """A packed matrix as (row, column) -> vector and its sign, for both triangles."""
    vectors, signs = {}, {}
    for (i, j), k in _triangle(m).items():
        vectors[i, j] = vectors[j, i] = code.load(rows, k)
        signs[i, j], signs[j, i] = 1, _sign(i, j)
    return vectors, signs


def _squared(m: int, code: _Code) -> None:
    q, s = _held(code, code.rows(0), m)
    made = {}
    for i, j in _triangle(m):
        total = code.builder.fadd(q[i, j], q[i, j])
        for k in range(m):
            total = code.plus(q[i, k], q[k, j], total, s[i, k] * s[k, j])
        made[i, j] = total
    for (i, j), k in _triangle(m).items():
        code.store(made[i, j], code.rows(0), k)


def _series(m: int, code: _Code) -> None:
    q, s = _held(code, code.rows(0), m)
    g, scale = code.rows(1), code.number(code.values[2])
    entries, made = _generator(m), {}
    loaded = {slot: code.load(g, slot) for slot, _ in entries.values()}
    for i, j in _triangle(m):
        total = None
        if (i, j) in entries:
            slot, sign = entries[i, j]
            total = loaded[slot] if sign > 0 else code.builder.fneg(loaded[slot])
        for (row, k), (slot, sign) in entries.items():
            if row == i:
                total = code.plus(loaded[slot], q[k, j], total, sign * s[k, j])
        made[i, j] = code.builder.fmul(total, scale)
    for (i, j), k in _triangle(m).items():
        code.store(made[i, j], code.rows(0), k)


def _settled(m: int, code: _Code) -> None:
    """Elimination of the symmetric J A without exchanging rows: its pivots only grow, for all rates are losses."""
    g, builder = code.rows(1), code.builder
    b: dict[tuple[int, int], Any] = {}
    for (i, j), (slot, sign) in _generator(m).items():
        if i <= j:
            value = code.load(g, slot)
            b[i, j] = value if (sign > 0) != (i % 3 == 1) else builder.fneg(value)
    right = [code.load(code.rows(2), i) for i in range(m)]  # the recovery acts on z alone, where J is 1
    inverse, one = [], code.number(1.0)
    for k in range(m):
        inverse.append(builder.fdiv(one, b[k, k]))
        below = [i for i in range(k + 1, m) if (k, i) in b]
        for i in below:
            factor = builder.fmul(b[k, i], inverse[k])
            for j in (j for j in below if j >= i):
                b[i, j] = code.plus(factor, b[k, j], b.get((i, j)), -1)
            right[i] = code.plus(factor, right[k], right[i], -1)
    found: list[Any] = [None] * m
    for k in reversed(range(m)):
        total = right[k]
        for j in (j for j in range(k + 1, m) if (k, j) in b):
            total = code.plus(b[k, j], found[j], total, -1)
        found[k] = builder.fmul(total, inverse[k])
        code.store(builder.fneg(found[k]), code.rows(0), k)


def _advanced(m: int, code: _Code) -> None:
    q, s = _held(code, code.rows(1), m)
    v = [code.load(code.rows(0), i) for i in range(m)]
    apart = [code.builder.fsub(v[i], code.load(code.rows(2), i)) for i in range(m)]
    for i in range(m):
        for k in range(m):
            v[i] = code.plus(q[i, k], apart[k], v[i], s[i, k])
    for i in range(m):
        code.store(v[i], code.rows(0), i)


def _composed(m: int, code: _Code) -> None:
    q, s = _held(code, code.rows(1), m)
    for j in range(m):
        column = [code.load(code.rows(0), i * m + j) for i in range(m)]
        for i in range(m):
            total = column[i]
            for k in range(m):
                total = code.plus(q[i, k], column[k], total, s[i, k])
            code.store(total, code.rows(0), i * m + j)


def _written(body: Any, context: Any, builder: Any, signature: Any, values: Any) -> Any:
    body(signature.args[-1].count, _Code(context, builder, signature, values))
    return context.get_dummy_value()


def _square_typed(_context: Any, q: Any, state: Any) -> Any:
    """Q of twice the time."""
    return types.void(q, state), lambda *code: _written(_squared, *code)


def _horner_typed(_context: Any, q: Any, g: Any, scale: Any, state: Any) -> Any:
    """Q <- scale (A + A Q)."""
    return types.void(q, g, types.float64, state), lambda *code: _written(_series, *code)


def _settle_typed(_context: Any, out: Any, g: Any, growth: Any, state: Any) -> Any:
    """out <- -A^-1 growth, the steady state."""
    return types.void(out, g, growth, state), lambda *code: _written(_settled, *code)


def _advance_typed(_context: Any, v: Any, q: Any, rest: Any, state: Any) -> Any:
    """v <- v + Q (v - rest)."""
    return types.void(v, q, rest, state), lambda *code: _written(_advanced, *code)


def _compose_typed(_context: Any, whole: Any, q: Any, state: Any) -> Any:
    """whole <- whole + Q whole, for a matrix without symmetry."""
    return types.void(whole, q, state), lambda *code: _written(_composed, *code)


_square: Any = intrinsic(_square_typed)
_horner: Any = intrinsic(_horner_typed)
_settle: Any = intrinsic(_settle_typed)
advance: Any = intrinsic(_advance_typed)
compose: Any = intrinsic(_compose_typed)


@njit(**_OPTIONS)
def _generate(g: Any, growth: Any, pools: Any, pulse: Any, line: int, table: Any, state: Any) -> None:
    """Slots of the generator and the recovery of z, both in 1/s.

    pools : (pool, {R1, R2 or a semisolid's T2, k, f, shift in rad/s}); pulse : ({w of the pulse, w1}, lane).
    The shift of the last row is 1 ppm; it is no pool.
    """
    m, n = len(state), len(state) // 3
    semisolid = m % 3
    growth[:] = 0.0
    leaving = 0.0
    for p in range(1, n + semisolid):
        g[m + n + p] = pools[p, 2] * np.sqrt(pools[p, 3])
        if p < n:
            leaving += pools[p, 2] * pools[p, 3]
    bound = pools[n, 2] * pools[n, 3] if semisolid else 0.0  # goes to the semisolid pool along z alone
    for p in range(n):
        out = pools[p, 2] if p else leaving
        g[3 * p : 3 * p + 2] = -pools[p, 1] - out
        g[3 * p + 2] = -pools[p, 0] - out - (0.0 if p else bound)
        growth[3 * p + 2] = pools[p, 0] * np.sqrt(pools[p, 3])
        for lane in range(LANES):
            g[m + p, lane] = pools[p, 4] - pulse[0, lane]
    for lane in range(LANES):
        g[m + n, lane] = pulse[1, lane]
    if semisolid:
        growth[m - 1] = pools[n, 0] * np.sqrt(pools[n, 3])
        for lane in range(LANES):
            absorbed = absorption(line, table, pools[n, 4] - pulse[0, lane], pools[n, 1], pools[n + 1, 4])
            g[m - 1, lane] = -pools[n, 0] - pools[n, 2] - pulse[1, lane] * pulse[1, lane] * absorbed


@njit(**_OPTIONS)
def _doublings(g: Any, time: Any, state: Any) -> int:
    """How often the time of the slowest lane is halved, so that every lane's generator is short."""
    m, n = len(state), len(state) // 3
    longest = 0.0
    for lane in range(LANES):
        for p in range(n):
            row = abs(g[m + p, lane]) + abs(g[m + n, lane]) - min(g[3 * p + 1, lane], g[3 * p + 2, lane])
            for other in range(1, n) if p == 0 else range(p, p + 1):
                row += g[m + n + other, lane]
            longest = max(longest, row * time[lane])
        if m % 3:
            longest = max(longest, (g[m + 2 * n, lane] - g[m - 1, lane]) * time[lane])
    times, size = 0, longest / SHORT
    while size > 1.0:
        size *= 0.5
        times += 1
    return times


@njit(**_OPTIONS)
def propagators(q: Any, rest: Any, g: Any, growth: Any, pools: Any, pulse: Any, line: int, table: Any, state: Any
                ) -> None:  # fmt: skip
    """Q and the steady state of one pulse a lane.

    Parameters
    ----------
    q, rest, g, growth : scratch and results, shapes (m (m + 1) / 2, lane), (m, lane), (slots, lane), (m, lane)
    pools : float64, shape (pool + 1, 5), as in `_generate`
    pulse : float64, shape (3, lane)
        Frequency in rad/s, w1 in rad/s, duration in s.
    line, table : as in `absorption`
    state : m zeros
    """
    _generate(g, growth, pools, pulse, line, table, state)
    _settle(rest, g, growth, state)
    times = _doublings(g, pulse[2], state)
    step = 0.5**times
    for row in range(g.shape[0]):
        for lane in range(LANES):
            g[row, lane] *= pulse[2, lane] * step
    q[:] = 0.0
    for k in range(DEGREE, 0, -1):
        _horner(q, g, 1.0 / k, state)
    for _ in range(times):
        _square(q, state)


@njit(**_OPTIONS)
def spectra(pools: Any, offset: Any, w1: Any, duration: float, start: float, line: int, table: Any, state: Any,
            out: Any) -> None:  # fmt: skip
    """Mz of water behind one pulse at each offset.

    pools : (sample, pool + 1, 5); offset : rad/s, (offset,); w1 : rad/s, (sample,); out : (sample, offset).
    """
    m = len(state)
    q, rest, v = np.empty((m * (m + 1) // 2, LANES)), np.empty((m, LANES)), np.empty((m, LANES))
    g, growth, pulse = np.zeros((m + 2 * (m // 3) + m % 3, LANES)), np.empty((m, LANES)), np.empty((3, LANES))
    pulse[2] = duration
    for i in range(out.shape[0]):
        pulse[1] = w1[i]
        for first in range(0, out.shape[1], LANES):
            held = min(LANES, out.shape[1] - first)
            for lane in range(LANES):  # what is left of the last block repeats its last offset
                pulse[0, lane] = offset[first + min(lane, held - 1)]
            propagators(q, rest, g, growth, pools[i], pulse, line, table, state)
            equilibrium(v, pools[i], start, state)
            advance(v, q, rest, state)
            for lane in range(held):
                out[i, first + lane] = v[2, lane]


@njit(**_OPTIONS)
def equilibrium(v: Any, pools: Any, start: float, state: Any) -> None:
    """Magnetisation along z, ``start`` of what there is in the end without pulses."""
    m, n = len(state), len(state) // 3
    v[:] = 0.0
    for p in range(n + m % 3):
        v[3 * p + 2 if p < n else m - 1] = start * np.sqrt(pools[p, 3])
