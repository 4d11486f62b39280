"""The elementary functions against mpmath, Philox against its published vectors, and no libm anywhere.

Budget: 5 s on two cores.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit

from factory import numerics, special

rng = np.random.default_rng(20260101)
PI_MULTIPLES = np.arange(1, 800) * np.pi / 2  # the angles whose sine or cosine is hardest to reduce
KEY = np.uint64(0x0123456789ABCDEF)


def ulp(got: float, exact: Any) -> float:
    return float(abs(mpmath.mpf(float(got)) - exact) / mpmath.mpf(float(np.spacing(abs(float(exact))))))


def worst(function: Callable[..., Any], exact: Callable[..., Any], *columns: np.ndarray) -> tuple[float, list[float]]:
    with mpmath.workprec(200):
        got = function(*columns)
        errors = [ulp(g, exact(*map(mpmath.mpf, map(float, x)))) for g, *x in zip(got, *columns, strict=True)]
    k = int(np.argmax(errors))
    return errors[k], [float(column[k]) for column in columns]


def both_tails(n: int) -> np.ndarray:
    small = 10.0 ** rng.uniform(-300, -1, n)
    large = 1 - 10.0 ** rng.uniform(-16, -1, n)
    return np.concatenate([rng.uniform(0, 1, 4 * n), small, large, rng.uniform(0.06, 0.09, n)])


def normal_quantile(u: Any) -> Any:
    """Newton's steps on the logarithm of the lower tail."""
    p, sign = (u, 1) if u < 0.5 else (1 - u, -1)
    x = mpmath.mpf(float(numerics.ndtri_array(float(p))))
    for _ in range(4):
        below = mpmath.ncdf(x)
        x -= (mpmath.log(below) - mpmath.log(p)) * below / mpmath.npdf(x)
    return sign * x


ANGLES = np.r_[rng.uniform(-7, 7, 999), PI_MULTIPLES, rng.uniform(-1, 1, 500) * 2**50]


@pytest.mark.parametrize(
    ("function", "exact", "x", "bound"),
    [
        (numerics.exp_array, mpmath.exp, np.r_[rng.uniform(-1, 1, 999), rng.uniform(-708, 709, 999)], 1.0),
        (numerics.exp_array, mpmath.exp, rng.uniform(-745, -708, 300), 1.0),  # subnormal results
        (numerics.log_array, mpmath.log, np.r_[rng.uniform(0, 2, 999), np.exp(rng.uniform(-700, 709, 999))], 1.0),
        (numerics.log_array, mpmath.log, np.r_[1 + rng.uniform(-1e-3, 1e-3, 500), [5e-324, 1e-310]], 1.0),
        (numerics.sin_array, mpmath.sin, ANGLES, 1.0),
        (numerics.cos_array, mpmath.cos, ANGLES, 1.0),
        (numerics.sin_array, mpmath.sin, 10.0 ** rng.uniform(-300, 0, 300), 1.0),
        (numerics.ndtri_array, normal_quantile, both_tails(100), 4.0),
        (special.ndtr_array, mpmath.ncdf, np.r_[rng.uniform(-37.4, 9, 800), rng.uniform(-3, 3, 800)], 8.0),
    ],
)  # fmt: skip
def test_errors_are_below_the_documented_ulps(
    function: Callable[..., Any], exact: Callable[..., Any], x: np.ndarray, bound: float
) -> None:
    error, where = worst(function, exact, x)
    assert error < bound, where


def test_pow_stays_below_its_documented_error_at_large_exponents() -> None:
    x = np.r_[rng.uniform(0.5, 2, 1000), np.exp(rng.uniform(-20, 20, 1000)), [5e-324, 1e-310]]
    y = np.r_[rng.uniform(-700, 700, 2000), [0.5, 0.25]] / np.r_[np.log(x[:2000]), [1.0, 1.0]]
    error, where = worst(numerics.pow_array, lambda a, b: a**b, x, y)
    assert error < 1.2, where


def test_log1p_keeps_small_arguments() -> None:
    x = np.r_[10.0 ** rng.uniform(-300, 2, 500), -(10.0 ** rng.uniform(-20, -0.01, 500))]
    error, where = worst(lambda v: [numerics.log1p(e) for e in v], mpmath.log1p, x)
    assert error < 2.0, where


@pytest.mark.parametrize(
    ("function", "x", "expected"),
    [
        (numerics.exp_array, [np.inf, -np.inf, np.nan, 709.79, -745.14, 0.0, -0.0],
         [np.inf, 0, np.nan, np.inf, 0, 1, 1]),
        (numerics.log_array, [0.0, -0.0, -1.0, -np.inf, np.inf, np.nan, 1.0],
         [-np.inf, -np.inf, np.nan, np.nan, np.inf, np.nan, 0]),
        (numerics.sin_array, [0.0, np.inf, np.nan, 2.0**51, 1e300], [0, np.nan, np.nan, np.nan, np.nan]),
        (numerics.cos_array, [0.0, -np.inf, np.nan, 2.0**51, 1e300], [1, np.nan, np.nan, np.nan, np.nan]),
        (numerics.ndtri_array, [0.0, 1.0, 0.5, -1e-9, 1.1, np.nan], [-np.inf, np.inf, 0, np.nan, np.nan, np.nan]),
        (special.ndtr_array, [-np.inf, np.inf, 0.0, -40.0, 40.0, np.nan], [0, 1, 0.5, 0, 1, np.nan]),
    ],
)  # fmt: skip
def test_values_at_the_edges_of_the_domain(function: Callable[..., Any], x: list[float], expected: list[float]) -> None:
    np.testing.assert_array_equal(function(x), expected)


@pytest.mark.parametrize(
    ("x", "y", "expected"),
    [(0, 2, 0), (0, 0, 1), (0, -1, math.inf), (-1, 2, math.nan), (math.inf, -1, 0), (2, math.inf, math.inf),
     (0.5, math.inf, 0), (2, 1024, math.inf), (2, -1074, 5e-324), (2, -1076, 0),
     (math.nan, 1, math.nan), (2, 10, 1024)],
)  # fmt: skip
def test_pow_at_the_edges_of_the_domain(x: float, y: float, expected: float) -> None:
    np.testing.assert_equal(float(numerics.pow_array(x, y)), expected)


def test_log_beta_and_beta_quantile_against_mpmath() -> None:
    for a, b in np.exp(rng.uniform(np.log(1e-3), np.log(1e6), (200, 2))):
        exact = mpmath.log(mpmath.beta(a, b))
        assert abs(special.log_beta(a, b) - exact) < 3e-14 + 3e-15 * abs(exact), (a, b)
    with mpmath.workdps(40):
        cases = [(0.5, 0.5, 0.3), (2, 5, 1e-9), (2, 5, 0.999999), (40, 3, 0.5), (0.05, 3, 0.2), (300, 900, 0.01)]
        for a, b, u in cases:
            x = special.beta_quantile(u, float(a), float(b))
            density = mpmath.mpf(x) ** (a - 1) * (1 - mpmath.mpf(x)) ** (b - 1) / mpmath.beta(a, b)
            miss = (mpmath.betainc(a, b, 0, x, regularized=True) - mpmath.mpf(u)) / density  # Newton's step to the root
            assert abs(miss) < 1e-12 * max(1, 1 / a) * x, (a, b, u)
    assert special.beta_quantile(0.25, 1.0, 1.0) == pytest.approx(0.25, rel=1e-15)  # closed form: the uniform
    assert special.beta_quantile(0.5, 7.0, 7.0) == pytest.approx(0.5, rel=1e-14)  # closed form: symmetry
    assert np.isnan(special.beta_quantile(0.5, 0.0, 1.0))
    assert np.isnan(special.beta_quantile(1.5, 1.0, 1.0))


@given(st.floats(0, 1, exclude_min=True, exclude_max=True), st.floats(-2, 3), st.floats(-2, 3))
@settings(max_examples=200, deadline=None)
def test_beta_quantile_stays_inside_and_mirrors(u: float, log_a: float, log_b: float) -> None:
    a, b = 10.0**log_a, 10.0**log_b
    x = special.beta_quantile(u, a, b)
    assert 0.0 <= x <= 1.0
    if 1e-6 < u < 1 - 1e-6:
        assert x == pytest.approx(1.0 - special.beta_quantile(1.0 - u, b, a), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [  # kat_vectors of Random123 1.14
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        ((0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0),
         (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)),
    ],
)  # fmt: skip
def test_philox_gives_the_published_words(
    counter: tuple[int, ...], key: tuple[int, ...], words: tuple[int, ...]
) -> None:
    assert tuple(int(w) for w in numerics.philox(*(np.uint64(w) for w in counter + key))) == words


def slow_philox(counter: list[int], key: list[int]) -> list[int]:
    """Philox4x32-10 as its paper writes it, in Python's integers."""
    for _ in range(10):
        a, b = 0xD2511F53 * counter[0], 0xCD9E8D57 * counter[2]
        counter = [b >> 32 ^ counter[1] ^ key[0], b & 0xFFFFFFFF, a >> 32 ^ counter[3] ^ key[1], a & 0xFFFFFFFF]
        key = [(key[0] + 0x9E3779B9) & 0xFFFFFFFF, (key[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return counter


@pytest.mark.parametrize("samples", [(0, 1, 2), (5, 3, 5), (2**32 - 1, 2**32, 0), (2**40, 7, 2**63)])
def test_uniform_rows_read_the_documented_counters(samples: tuple[int, ...]) -> None:
    out = np.empty((3, 5))
    numerics.uniform_rows(out, KEY, np.array(samples, np.uint64))
    for i in range(3):
        for j in range(5):
            index = samples[i]
            words = slow_philox([index & 0xFFFFFFFF, index >> 32, j // 2, 0], [int(KEY) & 0xFFFFFFFF, int(KEY) >> 32])
            w = words[2 * (j % 2)] | words[2 * (j % 2) + 1] << 32
            assert out[i, j] == ((w >> 12) + 0.5) * 2.0**-52


def test_the_extreme_uniforms_lie_inside_the_open_interval() -> None:
    top, zero = np.uint64(0xFFFFFFFF), np.uint64(0)
    assert numerics.unit_interval(zero, zero) == 2.0**-53
    assert numerics.unit_interval(top, top) == 1 - 2.0**-53
    assert np.isfinite(numerics.ndtri_array([2.0**-53, 1 - 2.0**-53])).all()


@given(st.integers(0, 6), st.integers(1, 2600), st.integers(0, 2**62))
@settings(max_examples=30, deadline=None)
def test_normals_are_the_quantiles_of_the_uniforms(n: int, m: int, first: int) -> None:
    u, z = np.empty((n, m)), np.empty((n, m))
    index = np.uint64(first) + np.arange(n, dtype=np.uint64)
    numerics.uniform_rows(u, KEY, index)
    numerics.normal_rows(z, KEY, index)
    assert z.tobytes() == np.array([[numerics.ndtri(v) for v in row] for row in u]).reshape(n, m).tobytes()


def test_array_quantiles_take_the_same_branches_as_the_scalar_one() -> None:
    u = both_tails(500)
    assert numerics.ndtri_array(u).tobytes() == np.array([numerics.ndtri(v) for v in u]).tobytes()


def test_arrays_of_any_layout_are_accepted_and_left_alone() -> None:
    x = np.linspace(0.1, 0.9, 24).reshape(4, 6)
    before = x.copy()
    x.flags.writeable = False
    for view in (x, x.T, x[:, ::2], np.broadcast_to(x[:1], (3, 6)), np.float64(0.5), x[:0]):
        assert numerics.exp_array(view).shape == np.shape(view)
        np.testing.assert_allclose(numerics.exp_array(view), np.exp(view), rtol=1e-15)
    np.testing.assert_array_equal(x, before)
    assert numerics.pow_array(x, [[2.0], [1.0], [0.5], [0.0]]).shape == (4, 6)


def called(function: Callable[..., Any], *arguments: Any) -> set[str]:
    """The names of the mathematical library that machine code of a function calls; compiled anew, since a cached
    function cannot be inspected."""
    fresh = njit(nogil=True, error_model="numpy")(getattr(function, "py_func", function))
    fresh(*arguments)
    names = r"\b(exp|exp2|log|log2|log1p|pow|sin|cos|sincos|fma|sqrt|erf|erfc|fmod|ldexp|frexp|floor|rint)\b(?=@|,|$)"
    return set(re.findall(names, "\n".join(fresh.inspect_asm().values()), re.MULTILINE))


def test_no_kernel_calls_libm() -> None:
    def guilty(x: float) -> float:
        return math.exp(x)

    assert called(guilty, 1.0) == {"exp"}  # the search does find a call
    row = np.full(64, 0.3)
    for loop, count in [(numerics._exp_loop, 2), (numerics._log_loop, 2), (numerics._sin_loop, 2),
                        (numerics._cos_loop, 2), (numerics._pow_loop, 3), (numerics._ndtri_loop, 2),
                        (special._ndtr_loop, 2), (special._beta_loop, 4)]:  # fmt: skip
        assert called(loop, *(row.copy() for _ in range(count))) == set(), loop
