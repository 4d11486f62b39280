"""Distribution functions that need more than a polynomial: the normal probability and the beta quantile.

They are made of `factory.numerics`, so their bytes are the same on every machine too.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from factory.numerics import Float, exp, fma, inlined, kernel, log, log1p, over

_SQRT_HALF = 0.7071067811865476
_INV_SQRT_PI = 0.5641895835477563


@inlined
def _ratio(x: float, top: tuple[float, ...], bottom: tuple[float, ...]) -> float:
    """A quotient of two polynomials, highest powers first."""
    a, b = top[0], bottom[0]
    for k in range(1, len(top)):
        a = fma(a, x, top[k])
    for k in range(1, len(bottom)):
        b = fma(b, x, bottom[k])
    return a / b


# W. J. Cody 1969, doi:10.1090/S0025-5718-1969-0247736-4: erf on [0, 0.46875], erfc on [0.46875, 4] and beyond 4
_ERF_TOP = (
    1.85777706184603153e-1, 3.16112374387056560, 1.1386415415105016e2, 3.7748523768530202e2, 3.2093775891384695e3,
)  # fmt: skip
_ERF_BOTTOM = (1.0, 2.36012909523441209e1, 2.44024637934444173e2, 1.28261652607737228e3, 2.84423683343917062e3)
_ERFC_TOP = (
    2.15311535474403846e-8, 5.64188496988670089e-1, 8.88314979438837594, 6.61191906371416295e1, 2.98635138197400131e2,
    8.81952221241769090e2, 1.71204761263407058e3, 2.05107837782607147e3, 1.23033935479799725e3,
)  # fmt: skip
_ERFC_BOTTOM = (
    1.0, 1.57449261107098347e1, 1.17693950891312499e2, 5.37181101862009858e2, 1.62138957456669019e3,
    3.29079923573345963e3, 4.36261909014324716e3, 3.43936767414372164e3, 1.23033935480374942e3,
)  # fmt: skip
_FAR_TOP = (
    1.63153871373020978e-2, 3.05326634961232344e-1, 3.60344899949804439e-1, 1.25781726111229246e-1,
    1.60837851487422766e-2, 6.58749161529837803e-4,
)  # fmt: skip
_FAR_BOTTOM = (
    1.0, 2.56852019228982242, 1.87295284992346725, 5.27905102951428412e-1,
    6.05183413124413191e-2, 2.33520497626869185e-3,
)  # fmt: skip


@kernel
def ndtr(x: float) -> float:
    """Standard normal probability of values below x.

    Error below 8 ulp down to x = -37.5 (probability 4.6e-308), where the result becomes subnormal; 0 below -38.5, 1
    above 8.3, nan for nan.
    """
    if x != x:
        return x
    y = abs(x) * _SQRT_HALF
    if y <= 0.46875:
        return 0.5 + 0.5 * (x * _SQRT_HALF) * _ratio(y * y, _ERF_TOP, _ERF_BOTTOM)
    if y > 28.0:
        return 0.0 if x < 0.0 else 1.0
    if y <= 4.0:
        scaled = _ratio(y, _ERFC_TOP, _ERFC_BOTTOM)
    else:
        z = 1.0 / (y * y)
        scaled = (_INV_SQRT_PI - z * _ratio(z, _FAR_TOP, _FAR_BOTTOM)) / y
    square = x * x
    square_low = fma(x, x, -square)
    tail = 0.5 * scaled * (exp(-0.5 * square) * (1.0 - 0.5 * square_low))
    return tail if x < 0.0 else 1.0 - tail


@kernel
def _stirling_rest(x: float) -> float:
    """log Gamma(x) - ((x - 1/2) log x - x + log(2 pi)/2) for x >= 10: Stirling's series, next term below 1e-17."""
    z = 1.0 / (x * x)
    p = fma(z, -3617 / 122400.0, 1 / 156.0)
    p = fma(p, z, -691 / 360360.0)
    p = fma(p, z, 1 / 1188.0)
    p = fma(p, z, -1 / 1680.0)
    p = fma(p, z, 1 / 1260.0)
    p = fma(p, z, -1 / 360.0)
    return fma(p, z, 1 / 12.0) / x


@kernel
def log_beta(a: float, b: float) -> float:
    """log B(a, b) for a, b > 0; error below 3e-14 + 3e-15 |log B|."""
    factor = 1.0
    while a < 10.0:
        factor *= (a + b) / a
        a += 1.0
    while b < 10.0:
        factor *= (a + b) / b
        b += 1.0
    small, large = min(a, b), max(a, b)
    q = small / large
    rest = _stirling_rest(small) + _stirling_rest(large) - _stirling_rest(small + large)
    head = 0.5 * log(2.0 * np.pi / small) + small * log(q / (1.0 + q)) + 0.5 * log1p(q) - large * log1p(q)
    return head + rest + log(factor)


@kernel
def _log_incomplete(t: float, a: float, b: float, scale: float) -> float:
    """log of the beta distribution function at x = exp(t) <= (a + 1)/(a + b + 2); scale = log(a B(a, b)).

    Lentz's evaluation of the continued fraction DLMF 8.17.22, which converges fast on this side.
    """
    x = exp(t)
    d = 1.0 / (1.0 - (a + b) * x / (a + 1.0))
    c, h = 1.0, d
    for k in range(1, 2000):
        step = k * (b - k) * x / ((a + 2 * k - 1.0) * (a + 2 * k))
        d = 1.0 / (1.0 + step * d)
        c = 1.0 + step / c
        h *= d * c
        step = -(a + k) * (a + b + k) * x / ((a + 2 * k) * (a + 2 * k + 1.0))
        d = 1.0 / (1.0 + step * d)
        c = 1.0 + step / c
        h *= d * c
        if abs(d * c - 1.0) < 1e-16:
            break
    return a * t + b * log1p(-x) - scale + log(h)


@kernel
def _lower_quantile(log_u: float, a: float, b: float) -> float:
    """The x with log of the distribution function = log_u, for x <= (a + 1)/(a + b + 2): safeguarded Newton steps
    in log x.
    """
    scale = log(a) + log_beta(a, b)
    upper = log((a + 1.0) / (a + b + 2.0))
    lower = -np.inf
    t = min((log_u + scale) / a, upper)  # the leading power of the series at 0
    if t < -745.0:
        return 0.0
    for _ in range(200):
        value = _log_incomplete(t, a, b, scale)
        if value > log_u:
            upper = t
        else:
            lower = t
        # d log I / dt = x**a (1 - x)**(b - 1) / (B I)
        slope = a * exp(a * t + (b - 1.0) * log1p(-exp(t)) - scale - value)
        new = t - (value - log_u) / slope
        if not (lower <= new <= upper):
            new = 0.5 * (lower + upper) if lower > -np.inf else t - 1.0
        if abs(new - t) <= 2e-16 * max(1.0, abs(t)):
            return exp(new)
        t = new
    return exp(t)


@kernel
def beta_quantile(u: float, a: float, b: float) -> float:
    """Quantile of the beta distribution on [0, 1].

    Domain: u in [0, 1] and a, b in [1e-3, 1e6]; nan outside. Relative error below 1e-12 times max(1, 1/a), of x below
    the median and of 1 - x above it.
    """
    if not (0.0 <= u <= 1.0 and 1e-3 <= a <= 1e6 and 1e-3 <= b <= 1e6):
        return np.nan
    if u == 0.0 or u == 1.0:
        return u
    split = log((a + 1.0) / (a + b + 2.0))
    if log(u) <= _log_incomplete(split, a, b, log(a) + log_beta(a, b)):
        return _lower_quantile(log(u), a, b)
    return 1.0 - _lower_quantile(log1p(-u), b, a)


@kernel
def _ndtr_loop(x: Any, out: Any) -> None:
    for i in range(out.size):
        out[i] = ndtr(x[i])


@kernel
def _beta_loop(u: Any, a: Any, b: Any, out: Any) -> None:
    for i in range(out.size):
        out[i] = beta_quantile(u[i], a[i], b[i])


def ndtr_array(x: npt.ArrayLike) -> Float:
    """`ndtr` of every entry; float64 of the same shape."""
    return over(_ndtr_loop, x)


def beta_quantile_array(u: npt.ArrayLike, a: npt.ArrayLike, b: npt.ArrayLike) -> Float:
    """`beta_quantile` of every entry, broadcast."""
    return over(_beta_loop, u, a, b)
