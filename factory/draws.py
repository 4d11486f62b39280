"""Addressed random numbers: what is drawn depends on (seed, split, label, name, sample index) and on nothing else.

There is no state. Whoever asks for samples 7 to 9 gets the numbers that samples 7 to 9 have in a run of a million,
whatever else was drawn before, in which process and in which order. Philox is a function from (key, counter) to
random bits: the key is a hash of the names, the counter is the sample's index.

Two designs cover a parameter space more evenly than independent numbers, and are addressed in the same way: `sobol`
(any length) and `latin_hypercube` (a length fixed beforehand).
"""

from functools import cache
from hashlib import blake2b
from math import isqrt, prod
from typing import Any

import numpy as np
import numpy.typing as npt

from factory import numerics
from factory.numerics import Float, inlined, kernel, unit_interval

Integer = npt.NDArray[np.int64]


def address(*parts: int | str) -> int:
    """A 64-bit key for a sequence of names: blake2b, with every part's type and length inside, so no two sequences
    collide.
    """
    text = "".join(f"{type(part).__name__[0]}{len(str(part))}:{part}" for part in parts)
    return int.from_bytes(blake2b(text.encode(), digest_size=8, person=b"factory draws").digest(), "little")


class Draws:
    """Random numbers for some samples of one split.

    Parameters
    ----------
    seed : int
        The recipe's seed.
    split : str
        The name of the sample axis: two splits share no number.
    start, stop : int
        The half-open range of sample indices, ``0 <= start <= stop``.
    label : str
        A private name space inside the split, see `under`.
    """

    __slots__ = ("index", "label", "seed", "split")

    def __init__(self, seed: int, split: str, start: int, stop: int, label: str = "") -> None:
        if not 0 <= start <= stop:
            raise ValueError(f"the samples {start} to {stop} are no range: 0 <= start <= stop is needed")
        self.seed, self.split, self.label = seed, split, label
        self.index: npt.NDArray[np.uint64] = np.arange(start, stop, dtype=np.uint64)

    @classmethod
    def at(cls, seed: int, split: str, index: npt.ArrayLike, label: str = "") -> "Draws":
        """Those of any samples, by their indices in any order."""
        draws = cls(seed, split, 0, 0, label)
        draws.index = np.ascontiguousarray(index, np.uint64)
        return draws

    def __repr__(self) -> str:
        return f"Draws({self.seed}, {self.split!r}, {self.named()}, label={self.label!r})"

    def named(self) -> str:
        """The samples in a sentence."""
        ends = (int(self.index[0]), int(self.index[-1]) + 1) if self.size else (0, 0)
        return f"{self.size} of samples {ends[0]} to {ends[1]}" if self.size < ends[1] - ends[0] else (
            f"samples {ends[0]} to {ends[1]}")

    @property
    def size(self) -> int:
        """The number of samples."""
        return len(self.index)

    def part(self, first: int, last: int) -> "Draws":
        """The same numbers for some of the samples, counted from 0."""
        return Draws.at(self.seed, self.split, self.index[first:last], self.label)

    def under(self, label: str) -> "Draws":
        """The same samples in a private name space, so that a step used twice gets fresh numbers. Labels nest like
        paths.
        """
        return Draws.at(self.seed, self.split, self.index, f"{self.label}/{label}" if self.label else label)

    def key(self, name: str) -> int:
        """The 64-bit Philox key of one name."""
        return address(self.seed, self.split, self.label, name)

    def uniform(self, name: str, shape: tuple[int, ...] = ()) -> Float:
        """Uniform numbers in the open interval (0, 1). Shape (sample, *shape), float64.

        The j-th number of a sample does not depend on how many are asked for: a longer shape begins with a shorter
        one.
        """
        out = np.empty((self.size, prod(shape)))
        numerics.uniform_rows(out, np.uint64(self.key(name)), self.index)
        return out.reshape(self.size, *shape)

    def normal(self, name: str, shape: tuple[int, ...] = ()) -> Float:
        """Standard normal numbers, the quantiles of `uniform` of the same name. Shape (sample, *shape), float64."""
        out = np.empty((self.size, prod(shape)))
        numerics.normal_rows(out, np.uint64(self.key(name)), self.index)
        return out.reshape(self.size, *shape)


# --------------------------------------------------------------------------------------------------
# kernels of the designs and of the permutation

_LOW_32 = np.uint64(0xFFFFFFFF)
_SHIFT_32 = np.uint64(32)
_ONE = np.uint64(1)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_ZERO = np.uint64(0)
_SHIFT_30, _SHIFT_27, _SHIFT_31 = np.uint64(30), np.uint64(27), np.uint64(31)


@inlined
def _mix(x: np.uint64) -> np.uint64:
    """A bijection of 64-bit words that makes every output bit depend on every input bit (Stafford's mix 13, as in
    SplitMix64).
    """
    x = (x ^ (x >> _SHIFT_30)) * _MIX_1
    x = (x ^ (x >> _SHIFT_27)) * _MIX_2
    return x ^ (x >> _SHIFT_31)


@kernel
def _sobol_points(directions: Any, first: np.uint64, out: Any) -> None:
    """Sobol fractions (uint64) of points first, first + 1, ...; ``directions`` as 64-bit fractions, ``out`` (n,)."""
    for i in range(out.size):
        index = first + np.uint64(i)
        gray = index ^ (index >> _ONE)
        x = _ZERO
        k = 0
        while gray != _ZERO:
            if gray & _ONE:
                x ^= directions[k]
            gray >>= _ONE
            k += 1
        out[i] = x


_SWAPS = tuple(
    (np.uint64(1 << k), np.uint64(mask))
    for k, mask in enumerate(
        (0x5555555555555555, 0x3333333333333333, 0xF0F0F0F0F0F0F0F, 0xFF00FF00FF00FF, 0xFFFF0000FFFF, 0xFFFFFFFF)
    )
)


@inlined
def _reversed(x: np.uint64) -> np.uint64:
    """The 64 bits in reverse order."""
    for shift, mask in _SWAPS:
        x = ((x >> shift) & mask) | ((x & mask) << shift)
    return x


_EVEN = tuple(np.uint64(c) for c in (0x6C50B47C9D3A7E16, 0xB82F1E52C4AD3C86, 0xC7AFE638D2F14B9E, 0x8D22F6E6A1B3C4D2))


@kernel
def _owen_scramble(bits: Any, key: np.uint64, out: Any) -> None:
    """Nested uniform scramble of 64-bit fractions into float64 in (0, 1). Shapes (n,).

    On the reversed word, adding a constant and ``x ^= x * even`` let a bit depend on lower bits only: an Owen
    scramble.
    """
    a, b, c, d = _mix(key + _GOLDEN), _mix(key + _GOLDEN * np.uint64(2)), _mix(key + _GOLDEN * np.uint64(3)), _mix(key)
    for i in range(out.size):
        x = _reversed(bits[i]) + a
        x ^= x * _EVEN[0]
        x = x * (b | _ONE) + c
        x ^= x * _EVEN[1]
        x = x * (c | _ONE) + d
        x ^= x * _EVEN[2]
        x = x * (d | _ONE) + b
        x ^= x * _EVEN[3]
        x = _reversed(x + a)
        out[i] = unit_interval(x & _LOW_32, x >> _SHIFT_32)


_ROUNDS = 8


@inlined
def _turn(word: np.uint64, key: np.uint64, size: np.uint64) -> np.uint64:
    """A keyed number in [0, size) made from another; size at most 2**32."""
    f = ((word ^ key) * _MIX_1) ^ key
    f = (f ^ (f >> _SHIFT_32)) * _MIX_2
    return ((f >> _SHIFT_32) * size) >> _SHIFT_32


@kernel
def _permute_block(index: Any, n: np.uint64, left: np.uint64, right: np.uint64, key: np.uint64, out: Any) -> None:
    """A keyed permutation of 0 ... n - 1 at every index (int64, (m,)); left * right >= n, each at most 2**31."""
    keys = np.empty(_ROUNDS, dtype=np.uint64)
    for r in range(_ROUNDS):
        keys[r] = _mix(key + _GOLDEN * np.uint64(r + 1))
    for i in range(index.size):
        x = np.uint64(index[i])
        while True:
            a = x // right
            b = x - a * right
            for r in range(0, _ROUNDS, 2):
                a += _turn(b, keys[r], left)
                a = a - left if a >= left else a
                b += _turn(a, keys[r + 1], right)
                b = b - right if b >= right else b
            x = a * right + b
            if x < n:
                break
        out[i] = np.int64(x)


# --------------------------------------------------------------------------------------------------
# designs

# Primitive polynomials (all their bits) and initial direction numbers of the first dimensions, as published by Joe &
# Kuo 2008, doi:10.1137/070709359 (new-joe-kuo-6). The first dimension is the van der Corput sequence and needs
# neither.
_JOE_KUO: tuple[tuple[int, tuple[int, ...]], ...] = (
    (3, (1,)),
    (7, (1, 3)),
    (11, (1, 3, 1)),
    (13, (1, 1, 1)),
    (19, (1, 1, 3, 3)),
    (25, (1, 3, 5, 13)),
    (37, (1, 1, 5, 5, 17)),
    (41, (1, 1, 5, 5, 5)),
    (47, (1, 1, 7, 11, 19)),
    (55, (1, 1, 5, 1, 1)),
    (59, (1, 1, 1, 3, 11)),
    (61, (1, 3, 5, 5, 31)),
    (67, (1, 3, 3, 9, 7, 49)),
    (91, (1, 1, 1, 15, 21, 21)),
    (97, (1, 3, 1, 13, 27, 49)),
    (103, (1, 1, 1, 15, 7, 5)),
    (109, (1, 3, 1, 15, 13, 25)),
    (115, (1, 1, 5, 5, 19, 61)),
    (131, (1, 3, 7, 11, 23, 15, 103)),
    (137, (1, 3, 7, 13, 13, 15, 69)),
    (143, (1, 1, 3, 13, 7, 35, 63)),
    (145, (1, 3, 5, 9, 1, 25, 53)),
    (157, (1, 3, 1, 13, 9, 35, 107)),
    (167, (1, 3, 1, 5, 27, 61, 31)),
    (171, (1, 1, 5, 11, 19, 41, 61)),
    (185, (1, 3, 5, 3, 3, 13, 69)),
    (191, (1, 1, 7, 13, 1, 19, 1)),
    (193, (1, 3, 7, 5, 13, 19, 59)),
    (203, (1, 1, 3, 9, 25, 29, 41)),
    (211, (1, 3, 5, 13, 23, 1, 55)),
    (213, (1, 3, 7, 3, 13, 59, 17)),
)
SOBOL_DIMENSIONS = len(_JOE_KUO) + 1
_SOBOL_BITS = 62


@cache
def _directions(dimension: int) -> npt.NDArray[np.uint64]:
    """The direction numbers of one dimension, most significant bit first, as 64-bit fractions."""
    if not 0 <= dimension < SOBOL_DIMENSIONS:
        raise ValueError(f"a Sobol design has dimensions 0 to {SOBOL_DIMENSIONS - 1}, not {dimension}")
    if dimension == 0:
        m = [1] * _SOBOL_BITS
    else:
        polynomial, initial = _JOE_KUO[dimension - 1]
        m, degree = list(initial), len(initial)
        for k in range(degree, _SOBOL_BITS):
            value = m[k - degree] ^ (m[k - degree] << degree)
            for j in range(1, degree):
                if polynomial >> (degree - j) & 1:
                    value ^= m[k - j] << j
            m.append(value)
    return np.array([value << (63 - k) for k, value in enumerate(m)], dtype=np.uint64)


def sobol_bits(dimension: int, start: int, stop: int) -> npt.NDArray[np.uint64]:
    """The plain Sobol sequence in one dimension as 64-bit fractions, points ``start`` to ``stop`` in Gray-code
    order. Shape (n,).
    """
    out = np.empty(stop - start, dtype=np.uint64)
    _sobol_points(_directions(dimension), np.uint64(start), out)
    return out


def sobol(key: int, dimension: int, start: int, stop: int) -> Float:
    """Owen-scrambled Sobol points in one dimension, in the open interval (0, 1). Shape (n,).

    Point i of a dimension is the exclusive-or of one direction number for every set bit of i's Gray code, so no point
    needs its predecessors. The scramble is a hash in which every bit depends on the more significant bits only
    (nested uniform scrambling as in Burley 2020, Journal of Computer Graphics Techniques 9(4)): each aligned block of
    2**k points keeps exactly one point in each of 2**k equal intervals. Distinct keys give independent scrambles; the
    dimension is mixed into the key.
    """
    bits = sobol_bits(dimension, start, stop)
    out = np.empty(bits.shape)
    _owen_scramble(bits, np.uint64(address(key, "sobol", dimension)), out)
    return out


def latin_hypercube(key: int, n_total: int, start: int, stop: int) -> Float:
    """One dimension of a Latin hypercube of ``n_total`` points: exactly one in each interval of width 1/n_total.
    Shape (n,).

    Point i lies at a random place of interval number permutation(i). Give every dimension its own key.
    """
    if not 0 <= start <= stop <= n_total:
        raise ValueError(f"a Latin hypercube of {n_total} points has no points {start} to {stop}: its length is fixed")
    cell = permute(np.arange(start, stop, dtype=np.int64), n_total, address(key, "cell"))
    place = np.empty((stop - start, 1))
    numerics.uniform_rows(place, np.uint64(address(key, "place")), np.arange(start, stop, dtype=np.uint64))
    # above 2**53 / n_total the sum may round up to the next cell or to 1: the clip keeps the interval open
    return np.minimum((cell + place[:, 0]) / n_total, 1.0 - 2.0**-53)


def permute(index: Integer, n: int, key: int) -> Integer:
    """A keyed permutation of 0 ... n - 1, evaluated at ``index``: O(1) memory, no table.

    A Feistel network on a grid of about sqrt(n) x sqrt(n) cells, walked along its cycle in the rare case that it
    leads outside of n (Black & Rogaway 2002, doi:10.1007/3-540-45760-7_9).

    Parameters
    ----------
    index : int64 array of any shape, every entry in [0, n)
    n : int, 1 to 2**62
    key : int, 64 bits

    Returns
    -------
    int64 array of the same shape.
    """
    if not 1 <= n <= 2**62:
        raise ValueError(f"a permutation needs 1 to 2**62 places, {n} were asked for")
    flat = np.ascontiguousarray(index, dtype=np.int64).reshape(-1)
    if flat.size and (flat.min() < 0 or flat.max() >= n):
        raise IndexError(f"the permutation has the places 0 to {n - 1}; {flat.min()} to {flat.max()} were asked for")
    out = np.empty_like(flat)
    left = isqrt(n - 1) + 1
    right = -(-n // left)
    _permute_block(flat, np.uint64(n), np.uint64(left), np.uint64(right), np.uint64(key), out)
    return out.reshape(np.shape(index))
