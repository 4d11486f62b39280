"""Elementary functions and random bits whose bytes are the same on every machine.

libm and NumPy choose their exp, log and power by the processor, and the choices differ in the last bit. Everything
between a random bit and a stored number therefore goes through the functions below. They are made only of IEEE-754
operations that have one right answer (+ - * / sqrt, fused multiply-add, bit moves), in an order that is written down:
no fastmath, no libm.

Fused multiply-adds are explicit (LLVM's ``llvm.fma``): one instruction on every x86-64 since Haswell and on every
ARMv8; a processor without it takes the C library's exact ``fma``, which is slow but gives the same bytes.

The scalar functions (``exp``, ``log``, ...) are numba functions for kernels: float64 in, float64 out, free of
branches where a loop should become SIMD code. The same names with ``_array`` take arrays. Quoted errors are in ulp
and measured against mpmath in ``tests/test_numerics.py``.
"""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt
from llvmlite import ir  # type: ignore[import-untyped]
from numba import njit, types
from numba.extending import intrinsic

Function = TypeVar("Function", bound=Callable[..., Any])


def kernel(function: Function) -> Function:
    """Compile with the rules of this house: IEEE arithmetic as written, no GIL, cached."""
    return cast(Function, njit(nogil=True, cache=True, error_model="numpy")(function))


def inlined(function: Function) -> Function:
    """`kernel` for small functions: always inlined, so that a loop around them can become SIMD code."""
    return cast(Function, njit(nogil=True, cache=True, error_model="numpy", forceinline=True)(function))


# --------------------------------------------------------------------------------------------------
# bits


def _fma(context: Any, a: Any, b: Any, c: Any) -> Any:
    f = types.float32 if a == types.float32 else types.float64
    return f(f, f, f), lambda context, builder, signature, values: builder.fma(*values)


def _floor(context: Any, x: Any) -> Any:

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.call(builder.module.declare_intrinsic("llvm.floor", [values[0].type]), values)

    return x(x), code


def _to_bits(context: Any, x: Any) -> Any:
    word = ir.IntType(64)
    return types.int64(types.float64), lambda context, builder, signature, values: builder.bitcast(values[0], word)


def _from_bits(context: Any, n: Any) -> Any:
    word = ir.DoubleType()
    return types.float64(types.int64), lambda context, builder, signature, values: builder.bitcast(values[0], word)


fma = cast(Callable[[float, float, float], float], intrinsic(_fma))  # a * b + c with one rounding, in a's precision
floor = cast(Callable[[float], float], intrinsic(_floor))  # in x's precision
to_bits = cast(Callable[[float], int], intrinsic(_to_bits))  # the 64 bits of a float64 as int64
from_bits = cast(Callable[[int], float], intrinsic(_from_bits))  # and back


# --------------------------------------------------------------------------------------------------
# exp, log, pow

_LOG2_E = 1.4426950408889634
_LN2_HIGH = 0.6931471803691238  # the first 32 bits of log 2, so that k * _LN2_HIGH is exact for |k| < 2**21
_LN2_LOW = 1.9082149292705877e-10  # log 2 - _LN2_HIGH
_ROUND = 6755399441055744.0  # 1.5 * 2**52: adding it leaves the nearest integer in the last bits
_ROUND_BITS = 0x4338000000000000
_INF = np.inf
_NAN = np.nan


@inlined
def _exp_of_sum(x: float, low: float) -> float:
    """exp(x + low) for a small correction ``low``; x in [-746, 710] or nan."""
    t = fma(x, _LOG2_E, _ROUND)
    k = to_bits(t) - _ROUND_BITS
    t -= _ROUND
    r = fma(-t, _LN2_HIGH, x)
    r = fma(-t, _LN2_LOW, r) + low
    # Taylor: on |r| <= log(2)/2 the first term left out, r**14/14!, is below 2**-57
    p = fma(r, 1 / 6227020800.0, 1 / 479001600.0)
    p = fma(p, r, 1 / 39916800.0)
    p = fma(p, r, 1 / 3628800.0)
    p = fma(p, r, 1 / 362880.0)
    p = fma(p, r, 1 / 40320.0)
    p = fma(p, r, 1 / 5040.0)
    p = fma(p, r, 1 / 720.0)
    p = fma(p, r, 1 / 120.0)
    p = fma(p, r, 1 / 24.0)
    p = fma(p, r, 1 / 6.0)
    p = fma(p, r, 0.5)
    p = 1.0 + fma(r * r, p, r)
    # two factors, because 2**k alone leaves the range of a normal float64 at both ends
    half = k >> 1
    return p * from_bits((half + 1023) << 52) * from_bits((k - half + 1023) << 52)


@inlined
def exp(x: float) -> float:
    """e**x. Error below 1 ulp (subnormal results: one unit of 2**-1074); inf above 709.79, 0 below -745.14, nan for
    nan.
    """
    inside = min(max(x, -746.0), 710.0)
    y = _exp_of_sum(inside, 0.0)
    return y if x == x else x


@inlined
def _split(x: float) -> tuple[float, float]:
    """x = 2**e * (1 + f) with 1 + f in [sqrt(1/2), sqrt(2)); x > 0 and finite. Returns (e as float, f)."""
    small = x < 2.2250738585072014e-308
    n = to_bits(x * 18014398509481984.0 if small else x)  # 2**54 lifts subnormals into the normal range
    n += 0x3FF0000000000000 - 0x3FE6A09E667F3BCD
    # the exponent is written into the last bits of 2**52 and so becomes a float64 without a conversion instruction
    e = from_bits((n >> 52) | 0x4330000000000000) - (4503599627370496.0 + 1023.0)
    m = from_bits((n & 0x000FFFFFFFFFFFFF) + 0x3FE6A09E667F3BCD)
    return (e - 54.0 if small else e), m - 1.0


@inlined
def _atanh_tail(z: float) -> float:
    """2 (1/5 + z/7 + z**2/9 + ...): atanh beyond its first two terms; z = s**2 <= 0.0295, next term below 2**-60 of
    the sum.
    """
    p = fma(z, 2 / 23.0, 2 / 21.0)
    p = fma(p, z, 2 / 19.0)
    p = fma(p, z, 2 / 17.0)
    p = fma(p, z, 2 / 15.0)
    p = fma(p, z, 2 / 13.0)
    p = fma(p, z, 2 / 11.0)
    p = fma(p, z, 2 / 9.0)
    p = fma(p, z, 2 / 7.0)
    return fma(p, z, 2 / 5.0)


@inlined
def _log_outside(x: float, y: float) -> float:
    """The logarithm y of x, replaced where x is no positive finite number."""
    y = y if x < _INF else x
    return y if x > 0.0 else (-_INF if x == 0.0 else _NAN)


@inlined
def log(x: float) -> float:
    """Natural logarithm. Error below 1 ulp, subnormals included; -inf at 0, inf at inf, nan below 0 and for nan."""
    e, f = _split(x)
    s = f / (2.0 + f)
    z = s * s
    half = 0.5 * f * f
    r = z * fma(_atanh_tail(z), z, 2 / 3.0)
    # log(1 + f) = 2 atanh(s) = f - half + s (half + r): the large part, f, is exact
    y = fma(e, _LN2_HIGH, f - (half - fma(s, half + r, e * _LN2_LOW)))
    return _log_outside(x, y)


@inlined
def log1p(x: float) -> float:
    """log(1 + x). Error below 2 ulp; -inf at -1, nan below."""
    u = 1.0 + x
    correction = (x - (u - 1.0)) / u
    return log(u) + (correction if correction == correction else 0.0)


@inlined
def _log_pair(x: float) -> tuple[float, float]:
    """log x as a sum of two float64, good to about 2**-66 of it; x > 0 and finite."""
    e, f = _split(x)
    d = 2.0 + f
    d_low = f - (d - 2.0)
    s = f / d
    s_low = (fma(-s, d, f) - s * d_low) / d
    z = s * s
    z_low = fma(s, s, -z) + 2.0 * s * s_low
    c = s * z
    c_low = fma(s, z, -c) + s_low * z + s * z_low
    # 2/3 s**3 with both halves of the factor, then the rest of the series, which is small enough for one float64
    cubic = c * (2 / 3.0)
    cubic_low = fma(c, 2 / 3.0, -cubic) + c_low * (2 / 3.0) + c * 3.700743415417188e-17
    rest = c * z * _atanh_tail(z)
    a = e * _LN2_HIGH
    high = a + 2.0 * s  # |a| >= |2 s| or a = 0: the difference below is exact
    low = (a - high) + 2.0 * s
    total = high + cubic
    low += (high - total) + cubic
    low += 2.0 * s_low + cubic_low + rest + e * _LN2_LOW
    high = total + low
    return high, low - (high - total)


@inlined
def pow(x: float, y: float) -> float:
    """x**y for x > 0. Error below 1.2 ulp; x = 0 gives 0 for y > 0, 1 for y = 0, inf for y < 0; nan below 0 and for
    nan.
    """
    high, low = _log_pair(x)
    p = y * high
    p_low = fma(y, high, -p) + y * low
    z = _exp_of_sum(min(max(p, -746.0), 710.0), p_low if abs(p) < 746.0 else 0.0)
    z = z if (x > 0.0) and (x < _INF) and (abs(y) < _INF) else exp(y * log(x))
    z = 1.0 if y == 0.0 else z
    return z if x == x else x


# --------------------------------------------------------------------------------------------------
# sin, cos

_TWO_OVER_PI = 0.6366197723675814
_HALF_PI = (1.5707963267948966, 6.123233995736766e-17, -1.4973849048591833e-33)  # their sum is pi/2 to 2**-161
_LARGEST_ANGLE = 1125899906842624.0  # 2**50


@inlined
def sincos(x: float) -> tuple[float, float]:
    """(sin x, cos x), x in radians. Error below 1 ulp for |x| <= 2**50; nan beyond, where an angle has lost its
    meaning.
    """
    t = fma(x, _TWO_OVER_PI, _ROUND)
    quadrant = to_bits(t) & 3
    t -= _ROUND
    first = fma(-t, _HALF_PI[0], x)  # exact: a multiple of 2**-53 and below 1
    product = t * _HALF_PI[1]
    r = first - product
    r_low = ((first - r) - product) - (fma(t, _HALF_PI[1], -product) + t * _HALF_PI[2])
    total = r + r_low
    r_low -= total - r
    r = total
    z = r * r
    # Taylor: on |r| <= pi/4 the terms left out, r**19/19! and r**20/20!, are below 2**-63
    p = fma(z, 1 / 355687428096000.0, -1 / 1307674368000.0)
    p = fma(p, z, 1 / 6227020800.0)
    p = fma(p, z, -1 / 39916800.0)
    p = fma(p, z, 1 / 362880.0)
    p = fma(p, z, -1 / 5040.0)
    p = fma(p, z, 1 / 120.0)
    p = fma(p, z, -1 / 6.0)
    sine = r + fma(r * z, p, fma(-0.5 * z, r_low, r_low))
    q = fma(z, -1 / 6402373705728000.0, 1 / 20922789888000.0)
    q = fma(q, z, -1 / 87178291200.0)
    q = fma(q, z, 1 / 479001600.0)
    q = fma(q, z, -1 / 3628800.0)
    q = fma(q, z, 1 / 40320.0)
    q = fma(q, z, -1 / 720.0)
    q = fma(q, z, 1 / 24.0)
    half = 0.5 * z
    one = 1.0 - half
    cosine = one + (((1.0 - one) - half) + fma(z * z, q, -r * r_low))
    odd = (quadrant & 1) == 1
    a = cosine if odd else sine
    b = sine if odd else cosine
    a = from_bits(to_bits(a) ^ ((quadrant & 2) << 62))
    b = from_bits(to_bits(b) ^ (((quadrant + 1) & 2) << 62))
    known = abs(x) <= _LARGEST_ANGLE
    return (a if known else _NAN), (b if known else _NAN)


@inlined
def sin(x: float) -> float:
    """sin x, see `sincos`."""
    return sincos(x)[0]


@inlined
def cos(x: float) -> float:
    """cos x, see `sincos`."""
    return sincos(x)[1]


# --------------------------------------------------------------------------------------------------
# the normal distribution


@inlined
def _ndtri_central(q: float) -> float:
    """Normal quantile at 0.5 + q for |q| <= 0.425."""
    r = fma(-q, q, 0.180625)
    a = fma(r, 2.5090809287301226727e3, 3.3430575583588128105e4)
    b = fma(r, 5.2264952788528545610e3, 2.8729085735721942674e4)
    a = fma(a, r, 6.7265770927008700853e4)
    b = fma(b, r, 3.9307895800092710610e4)
    a = fma(a, r, 4.5921953931549871457e4)
    b = fma(b, r, 2.1213794301586595867e4)
    a = fma(a, r, 1.3731693765509461125e4)
    b = fma(b, r, 5.3941960214247511077e3)
    a = fma(a, r, 1.9715909503065514427e3)
    b = fma(b, r, 6.8718700749205790830e2)
    a = fma(a, r, 1.3314166789178437745e2)
    b = fma(b, r, 4.2313330701600911252e1)
    a = fma(a, r, 3.3871328727963666080e0)
    b = fma(b, r, 1.0)
    return q * a / b


@inlined
def _ndtri_near(p: float) -> float:
    """Normal quantile at 1 - p for p from exp(-25) to 0.077."""
    r = np.sqrt(-log(p)) - 1.6
    a = fma(r, 7.74545014278341407640e-4, 2.27238449892691845833e-2)
    b = fma(r, 1.05075007164441684324e-9, 5.47593808499534494600e-4)
    a = fma(a, r, 2.41780725177450611770e-1)
    b = fma(b, r, 1.51986665636164571966e-2)
    a = fma(a, r, 1.27045825245236838258e0)
    b = fma(b, r, 1.48103976427480074590e-1)
    a = fma(a, r, 3.64784832476320460504e0)
    b = fma(b, r, 6.89767334985100004550e-1)
    a = fma(a, r, 5.76949722146069140550e0)
    b = fma(b, r, 1.67638483018380384940e0)
    a = fma(a, r, 4.63033784615654529590e0)
    b = fma(b, r, 2.05319162663775882187e0)
    a = fma(a, r, 1.42343711074968357734e0)
    b = fma(b, r, 1.0)
    return a / b


@kernel
def _ndtri_far(p: float) -> float:
    """Normal quantile at 1 - p for p below exp(-25); inf at 0, nan below 0."""
    if not p > 0.0:
        return _INF if p == 0.0 else _NAN
    r = np.sqrt(-log(p)) - 5.0
    a = fma(r, 2.01033439929228813265e-7, 2.71155556874348757815e-5)
    b = fma(r, 2.04426310338993978564e-15, 1.42151175831644588870e-7)
    a = fma(a, r, 1.24266094738807843860e-3)
    b = fma(b, r, 1.84631831751005468180e-5)
    a = fma(a, r, 2.65321895265761230930e-2)
    b = fma(b, r, 7.86869131145613259100e-4)
    a = fma(a, r, 2.96560571828504891230e-1)
    b = fma(b, r, 1.48753612908506148525e-2)
    a = fma(a, r, 1.78482653991729133580e0)
    b = fma(b, r, 1.36929880922735805310e-1)
    a = fma(a, r, 5.46378491116411436990e0)
    b = fma(b, r, 5.99832206555887937690e-1)
    a = fma(a, r, 6.65790464350110377720e0)
    b = fma(b, r, 1.0)
    return a / b


_CENTRE = 0.425  # |u - 1/2| up to which the central approximation holds: 85 % of all uniforms
_FAR = 1.3887943864964021e-11  # exp(-25)


@kernel
def ndtri(u: float) -> float:
    """Standard normal quantile (Wichura's AS 241, doi:10.2307/2347330).

    Error below 4 ulp for u in (0, 1), subnormals included; -inf at 0, inf at 1, nan outside [0, 1] and for nan.
    """
    q = u - 0.5
    if abs(q) <= _CENTRE:
        return _ndtri_central(q)
    p = min(u, 1.0 - u)
    x = _ndtri_near(p) if p >= _FAR else _ndtri_far(p)
    return x if q > 0.0 else -x


# --------------------------------------------------------------------------------------------------
# random bits

_LOW_32 = np.uint64(0xFFFFFFFF)
_SHIFT_32 = np.uint64(32)
_SHIFT_12 = np.uint64(12)
_M0 = np.uint64(0xD2511F53)
_M1 = np.uint64(0xCD9E8D57)
_W0 = np.uint64(0x9E3779B9)
_W1 = np.uint64(0xBB67AE85)
_ONE = np.uint64(1)
Words = tuple[np.uint64, np.uint64, np.uint64, np.uint64]


@inlined
def philox(c0: np.uint64, c1: np.uint64, c2: np.uint64, c3: np.uint64, k0: np.uint64, k1: np.uint64) -> Words:
    """Philox4x32-10 (Salmon et al. 2011, doi:10.1145/2063384.2063405): counter and key to four words of 32 random
    bits.

    Every word is a uint64 that holds 32 bits: a 32 x 32 -> 64 bit product is one SIMD instruction for such lanes.
    """
    for _ in range(10):
        a = _M0 * (c0 & _LOW_32)
        b = _M1 * (c2 & _LOW_32)
        # only the low half of a word counts; rubbish above it is cheaper than clearing it in every round
        c0, c1, c2, c3 = (b >> _SHIFT_32) ^ c1 ^ k0, b, (a >> _SHIFT_32) ^ c3 ^ k1, a
        k0 = (k0 + _W0) & _LOW_32
        k1 = (k1 + _W1) & _LOW_32
    return c0 & _LOW_32, c1 & _LOW_32, c2 & _LOW_32, c3 & _LOW_32


@inlined
def unit_interval(low: np.uint64, high: np.uint64) -> float:
    """((w >> 12) + 0.5) / 2**52 for the 64 bits w = (high, low): 52 bits as a float64 strictly between 0 and 1,
    exact.
    """
    mantissa: Any = np.int64(((high << _SHIFT_32) | low) >> _SHIFT_12)
    return from_bits(mantissa | 0x3FF0000000000000) - (1.0 - 2.0**-53)


@kernel
def _uniform_row(row: Any, index: np.uint64, block: np.uint64, key: np.uint64) -> None:
    """Uniforms number 2 block, 2 block + 1, ... of sample ``index`` into a contiguous row."""
    k0, k1 = key & _LOW_32, key >> _SHIFT_32
    i0, i1 = index & _LOW_32, index >> _SHIFT_32
    pairs = row.size // 2
    for j in range(pairs):
        b = block + np.uint64(j)
        w0, w1, w2, w3 = philox(i0, i1, b & _LOW_32, b >> _SHIFT_32, k0, k1)
        row[2 * j] = unit_interval(w0, w1)
        row[2 * j + 1] = unit_interval(w2, w3)
    if row.size % 2:
        b = block + np.uint64(pairs)
        w0, w1, w2, w3 = philox(i0, i1, b & _LOW_32, b >> _SHIFT_32, k0, k1)
        row[2 * pairs] = unit_interval(w0, w1)


@kernel
def uniform_rows(out: Any, key: np.uint64, index: Any) -> None:
    """Fill ``out`` (float64, C-contiguous, (n, m)) with uniforms in the open interval (0, 1).

    ``out[i, j]`` depends on (key, index[i], j) and on nothing else; ``index`` is uint64, (n,). Philox counter: (index
    low, index high, block low, block high) with block = j // 2, since one block holds two numbers of 52 bits.
    """
    for i in range(out.shape[0]):
        _uniform_row(out[i], index[i], np.uint64(0), key)


@kernel
def _normals(u: Any, out: Any, where: Any, tail: Any) -> None:
    """``out[j] = ndtri(u[j])`` for one chunk, in loops that become SIMD code; ``where`` and ``tail`` are working
    space.

    The centre is evaluated everywhere. The 15 % that lie outside are gathered, evaluated together and put in their
    places.
    """
    for j in range(u.size):
        out[j] = _ndtri_central(u[j] - 0.5)
    n = 0
    for j in range(u.size):  # no branch: whether the next number is a tail is what a processor cannot guess
        where[n] = j
        n += 1 if abs(u[j] - 0.5) > _CENTRE else 0
    for t in range(n):
        v = u[where[t]]
        tail[t] = min(v, 1.0 - v)
    for t in range(n):
        tail[t] = _ndtri_near(tail[t])
    for t in range(n):
        j = where[t]
        x = tail[t]
        if min(u[j], 1.0 - u[j]) < _FAR:
            x = _ndtri_far(min(u[j], 1.0 - u[j]))
        out[j] = x if u[j] > 0.5 else -x


_LANES = 64  # that are added up side by side
_CHUNK = 1024  # uniforms in flight: with the working space 32 kB, so they stay in the first-level cache


@kernel
def normal_rows(out: Any, key: np.uint64, index: Any) -> None:
    """Fill ``out`` (float64, C-contiguous, (n, m)) with standard normals: the bytes of ``ndtri`` of `uniform_rows`."""
    n, m = out.shape
    flat = out.reshape(-1)
    u, tail, where = np.empty(_CHUNK), np.empty(_CHUNK), np.empty(_CHUNK + 1, dtype=np.int64)
    rows = max(1, _CHUNK // max(m, 1))  # short rows share a chunk
    for i in range(0, n, rows):
        for start in range(0, m, _CHUNK):
            width = min(_CHUNK, m - start)
            size = 0
            for k in range(i, min(i + rows, n)):
                _uniform_row(u[size : size + width], index[k], np.uint64(start // 2), key)
                size += width
            begin = i * m + start
            _normals(u[:size], flat[begin : begin + size], where, tail)


# --------------------------------------------------------------------------------------------------
# the same functions for arrays
#
# Loops of our own and not ufuncs: the lanes that a branch-free function throws away must not raise floating-point
# warnings.

Float = npt.NDArray[np.float64]


def over(loop: Callable[..., None], *arguments: npt.ArrayLike) -> Float:
    """Run a kernel ``loop(*inputs, out)`` of flat float64 arrays over broadcast arguments of any shape."""
    arrays = np.broadcast_arrays(*(np.asarray(a, dtype=np.float64) for a in arguments))
    out = np.empty(arrays[0].size)
    loop(*(np.array(a, order="C").reshape(-1) if not a.flags.c_contiguous else a.reshape(-1) for a in arrays), out)
    return out.reshape(arrays[0].shape)


@kernel
def _exp_loop(x: Any, out: Any) -> None:
    for i in range(out.size):
        out[i] = exp(x[i])


@kernel
def _log_loop(x: Any, out: Any) -> None:
    for i in range(out.size):
        out[i] = log(x[i])


@kernel
def _pow_loop(x: Any, y: Any, out: Any) -> None:
    for i in range(out.size):
        out[i] = pow(x[i], y[i])


@kernel
def _sin_loop(x: Any, out: Any) -> None:
    for i in range(out.size):
        out[i] = sin(x[i])


@kernel
def _cos_loop(x: Any, out: Any) -> None:
    for i in range(out.size):
        out[i] = cos(x[i])


@kernel
def _ndtri_loop(u: Any, out: Any) -> None:
    tail, where = np.empty(_CHUNK), np.empty(_CHUNK + 1, dtype=np.int64)
    for start in range(0, out.size, _CHUNK):
        _normals(u[start : start + _CHUNK], out[start : start + _CHUNK], where, tail)


def exp_array(x: npt.ArrayLike) -> Float:
    """`exp` of every entry; float64 of the same shape."""
    return over(_exp_loop, x)


def log_array(x: npt.ArrayLike) -> Float:
    """`log` of every entry; float64 of the same shape."""
    return over(_log_loop, x)


def pow_array(x: npt.ArrayLike, y: npt.ArrayLike) -> Float:
    """`pow` of every pair of entries, broadcast."""
    return over(_pow_loop, x, y)


def sin_array(x: npt.ArrayLike) -> Float:
    """`sin` of every entry, in radians; float64 of the same shape."""
    return over(_sin_loop, x)


def cos_array(x: npt.ArrayLike) -> Float:
    """`cos` of every entry, in radians; float64 of the same shape."""
    return over(_cos_loop, x)


def ndtri_array(u: npt.ArrayLike) -> Float:
    """`ndtri` of every entry; float64 of the same shape."""
    return over(_ndtri_loop, u)


@kernel
def totals(flat: Any) -> Any:
    """Sums of the numbers at even and at odd places, and of all squares.

    Many lanes are added up side by side, as vector instructions do; reassociating floats is not left to a compiler.
    """
    added, squared = np.zeros(_LANES), np.zeros(_LANES)
    whole = len(flat) // _LANES * _LANES
    for i in range(0, whole, _LANES):
        for lane in range(_LANES):
            x = np.float64(flat[i + lane])  # `float` leaves a float32 what it is
            added[lane] += x
            squared[lane] += x * x
    for i in range(whole, len(flat)):
        x = np.float64(flat[i])
        added[i - whole] += x
        squared[i - whole] += x * x
    even = odd = squares = 0.0
    for lane in range(0, _LANES, 2):
        even += added[lane]
        odd += added[lane + 1]
        squares += squared[lane] + squared[lane + 1]
    return even, odd, squares
