"""Bias, variation and error of repeated estimates of one map.

With estimates x_c of a voxel's truth k: relative bias = mean or median over c of (x_c - k) / k; CV = standard deviation
over mean of x_c (Sabidussi 2021, doi:10.1016/j.media.2021.102220, eqs. 7 and 8); relative RMSE = sqrt(bias^2 + CV^2)
with the bias of the median, which a few lost voxels of a fit cannot move.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Row = dict[str, Any]


class Repeated(NamedTuple):
    """Per voxel, as fractions of the truth."""

    mean_bias: Floats
    bias: Floats  # of the median
    cv: Floats
    error: Floats


def repeated(estimates: Floats, truth: Floats) -> Repeated:
    """Statistics of estimates (repetition, voxel) of a truth (voxel,) that is not 0."""
    relative = estimates / truth - 1
    mean = estimates.mean(0)
    cv = estimates.std(0, ddof=1) / np.where(mean == 0, np.inf, np.abs(mean)) if len(estimates) > 1 else 0 * mean
    bias = np.median(relative, 0)
    return Repeated(relative.mean(0), bias, cv, np.sqrt(bias**2 + cv**2))


Part = tuple[Floats, Floats]  # estimates (repetition, voxel) and truth (voxel,) of one slice


def pooled(parts: Sequence[Part]) -> Repeated:
    """The statistics of the voxels of all slices."""
    return Repeated(*(np.concatenate(values) for values in zip(*(repeated(*part) for part in parts), strict=True)))


def slope(parts: Sequence[Part]) -> float:
    """Of the mean estimate against the truth over the voxels of a slice, median over slices; a constant map has 0."""
    found = []
    for estimates, truth in parts:
        centred = truth - truth.mean()
        if (centred**2).sum() > 0:
            found.append(float((estimates.mean(0) * centred).sum() / (centred**2).sum()))
    return float(np.median(found)) if found else float("nan")


def rows_of(parts: Sequence[Part], facts: Row) -> list[Row]:
    """The rows of one method, tissue and quantity: medians over voxels, in percent."""
    found = pooled(parts)
    values = {
        "median bias": 100 * np.median(found.bias),
        "bias of the mean": 100 * np.median(found.mean_bias),
        "CV": 100 * np.median(found.cv),
        "relative RMSE": 100 * np.median(found.error),
    }
    rows = [facts | {"name": name, "value": float(value), "unit": "%"} for name, value in values.items()]
    if facts["quantity"] == "efficiency":
        return rows  # one value a slice has no slope
    return [*rows, facts | {"name": "slope", "value": slope(parts), "unit": "1"}]


def box(values: Floats) -> Row:
    """What a box plot draws: quartiles, and the 5th and 95th percentile as whiskers."""
    low, first, middle, third, high = np.percentile(values, [5, 25, 50, 75, 95])
    return {"med": middle, "q1": first, "q3": third, "whislo": low, "whishi": high}


def value(rows: list[Row], **facts: Any) -> float:
    """The value of the one row with these facts."""
    found = [row["value"] for row in rows if all(row.get(key) == wanted for key, wanted in facts.items())]
    if len(found) != 1:
        raise LookupError(f"{len(found)} rows have {facts}")
    return float(found[0])
