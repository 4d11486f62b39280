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
FEW = 20  # different values: a choice, not a range


class Gap(NamedTuple):
    """An empty range, and the shares of the values below and above it."""

    low: float
    high: float
    below: float
    above: float


def gap(values: Array) -> Gap | None:
    """The widest empty range of positive numbers; None where there is none.

    Parameters
    ----------
    values : any shape
        Zeros (background) and negative numbers are left out.

    Returns
    -------
    Gap or None
        The range from low to high = 1.5 low or more that holds at most 0.1 % of the values while at least 1 % lie on
        each side.  Ratios, because errors of relaxation times and amplitudes are relative.  Limit: uniform or
        log-uniform values of one decade have no gap.
    """
    x = np.sort(values[np.isfinite(values) & (values > 0)], axis=None).astype(np.float64)
    n, inside = len(x), int(INSIDE * np.size(values[values > 0]))
    if n < 200 or len(np.unique(x[:: max(1, n // 1000)])) <= FEW:
        return None
    first = np.arange(int(BESIDE * n), int((1 - BESIDE) * n) - inside - 1)
    if not len(first):
        return None
    k = int(first[np.argmax(x[first + inside + 1] / x[first])])
    low, high = float(x[k]), float(x[k + inside + 1])
    return Gap(low, high, (k + 1) / n, 1 - (k + 1 + inside) / n) if high >= WIDE * low else None
