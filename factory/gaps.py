"""Empty ranges in what a network is to learn.

A network that never saw a value between two modes maps everything between them onto one of the modes: trained with T2
of vessels around 275 ms and of csf around 2000 ms and nothing between, the networks of Sabidussi 2021
(doi:10.1016/j.media.2021.102220, section 7) estimated no T2 above 500 ms.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from factory.units import Array

WIDE = 1.5  # upper over lower edge
INSIDE, BESIDE = 0.001, 0.01  # share of the values that a gap may hold, and that must lie on each side of it
CHANCE, ENOUGH = 0.01, 20  # of a false alarm; independent draws that must lie on each side
FEW = 20  # different values: a choice, not a range


class Gap(NamedTuple):
    """An empty range, and the shares of the values below and above it."""

    low: float
    high: float
    below: float
    above: float


def gap(values: Array, independent: int | None = None) -> Gap | None:
    """The widest empty range of positive numbers; None where there is none.

    Parameters
    ----------
    values : any shape
        Zeros (background) and negative numbers are left out.
    independent : int, optional
        How many independent draws stand behind the values: voxels of one subject share its mean, and eight subjects
        leave empty ranges by chance.  By default every value is independent.

    Returns
    -------
    Gap or None
        The range from low to high = 1.5 low or more that holds at most 0.1 % of the values while at least 1 % lie on
        each side (and as much as 20 independent draws), if it is too wide for chance.  Ratios, because errors of
        relaxation times and amplitudes are relative.  Limit: uniform or log-uniform values of one decade have no gap.
    """
    x = np.sort(values[np.isfinite(values) & (values > 0)], axis=None).astype(np.float64)
    n, inside = len(x), int(INSIDE * len(x))
    if n < 200 or len(np.unique(x[:: max(1, n // 1000)])) <= FEW:
        return None
    beside = max(BESIDE, ENOUGH / (independent or n))
    first = np.arange(int(beside * n), int((1 - beside) * n) - inside - 1)
    if not len(first):
        return None
    k = int(first[np.argmax(x[first + inside + 1] / x[first])])
    low, high = float(x[k]), float(x[k + inside + 1])
    if high < WIDE * low or _by_chance(np.log(high / low) / np.log(x[-1] / x[0]), independent or n):
        return None
    return Gap(low, high, (k + 1) / n, 1 - (k + 1 + inside) / n)


def _by_chance(width: float, independent: int) -> bool:
    """Whether one in a hundred log-uniform samples has an empty range that is this share of the whole wide.

    The bound n (1 - w)^n on the probability that any of n spacings exceeds w.
    """
    return bool(independent * (1.0 - width) ** independent > CHANCE)
