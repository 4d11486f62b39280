"""exp, sin and cos in float32, for kernels whose result is kept in float32 and whose loops are to be SIMD code.

Polynomials of Cephes' degree with coefficients of its single-precision library (Moshier 1989, public domain): errors
below 1e-7 of the result, of 1 for sine and cosine.  Wherever a product is added to something, that is one fused
multiply-add: a compiler that fuses by itself (CUDA's does) finds nothing left and gives the same bytes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.extending import intrinsic

from factory.numerics import floor, fma, inlined

_fma: Any = fma  # of either type

_F = np.float32
_LOG2_E, _LN2_HIGH, _LN2_LOW = _F(1.44269504), _F(0.693359375), _F(-2.12194440e-4)
_TWO_OVER_PI = _F(0.636619772)
_HALF_PI = (_F(1.5703125), _F(4.837512969970703125e-4), _F(7.5497899548918861e-8))
_LEAST = _F(-87.0)  # the result is the smallest normal number
_HALF, _ONE = _F(0.5), _F(1.0)
_EXP = tuple(map(_F, (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1,
                      5.0000001201e-1)))  # fmt: skip
_SIN = tuple(map(_F, (-1.9515295891e-4, 8.3321608736e-3, -1.6666654611e-1)))
_COS = tuple(map(_F, (2.443315711809948e-5, -1.388731625493765e-3, 4.166664568298827e-2)))


def _power(_context: Any, _n: Any) -> Any:
    """2**n as a float32, for an int32 from -126 to 127."""

    def code(_context: Any, builder: Any, _signature: Any, values: Any) -> Any:
        word = ir.IntType(32)
        bits = builder.shl(builder.add(values[0], ir.Constant(word, 127)), ir.Constant(word, 23))
        return builder.bitcast(bits, ir.FloatType())

    return types.float32(types.int32), code


_power_of_two: Any = intrinsic(_power)


@inlined
def exp32(x: Any) -> Any:
    """e**x of a float32, at most 0; what is below e**-87 becomes that."""
    x = max(x, _LEAST)
    n = floor(_fma(x, _LOG2_E, _HALF))
    r = _fma(-n, _LN2_LOW, _fma(-n, _LN2_HIGH, x))
    p = _fma(_fma(_fma(_EXP[0], r, _EXP[1]), r, _EXP[2]), r, _EXP[3])
    p = _fma(_fma(p, r, _EXP[4]), r, _EXP[5])
    return _fma(p, r * r, r + _ONE) * _power_of_two(np.int32(n))


@inlined
def sincos32(x: Any) -> Any:
    """(sin x, cos x) of a float32 up to some thousand turns."""
    n = floor(_fma(x, _TWO_OVER_PI, _HALF))
    r = _fma(-n, _HALF_PI[2], _fma(-n, _HALF_PI[1], _fma(-n, _HALF_PI[0], x)))
    z = r * r
    s = _fma(_fma(_fma(_SIN[0], z, _SIN[1]), z, _SIN[2]), z * r, r)
    c = _fma(_fma(_fma(_COS[0], z, _COS[1]), z, _COS[2]), z * z, _fma(-_HALF, z, _ONE))
    quadrant = np.int32(n)
    odd = (quadrant & 1) == 1
    sine = c if odd else s
    cosine = s if odd else c
    return (-sine if (quadrant & 2) != 0 else sine), (-cosine if ((quadrant + 1) & 2) != 0 else cosine)
