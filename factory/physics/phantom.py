"""Test objects with known values."""

from __future__ import annotations

from typing import Annotated, NamedTuple

import numpy as np

from factory.draws import Draws
from factory.numerics import cos_array, sin_array
from factory.step import step
from factory.units import Array


class Discs(NamedTuple):
    """What `discs` returns."""

    sphere: Annotated[Array, "1", "uint8", "y", "x"]
    t1: Annotated[Array, "s", "float32", "y", "x"]
    t2: Annotated[Array, "s", "float32", "y", "x"]
    amplitude: Annotated[Array, "1", "float32", "y", "x"]


@step(sizes=lambda size, **_: {"y": size, "x": size})
def discs(
    draws: Draws,
    *,
    t1: Annotated[tuple[float, ...], "s", ">0"],
    t2: Annotated[tuple[float, ...], "s", ">0"],
    amplitude: Annotated[float, "1", ">0"] = 1.0,
    size: Annotated[int, ">=16"] = 128,
) -> Discs:
    """A slice through a plate of spheres, as of the NIST/ISMRM system phantom, in empty space.

    The first ten spheres stand on a circle, up to four more within it; each sample turns the plate by a small angle.

    Parameters
    ----------
    t1, t2 : one value in s for each sphere, at most 14
    amplitude : float
        Of every sphere.
    size : int
        Rows and columns; the plate fills them.

    Returns
    -------
    sphere : uint8, shape (sample, y, x)
        Number of the sphere, from 1; 0 outside.
    t1, t2 : float32 in s
    amplitude : float32

    Raises
    ------
    ValueError
        Lists of different length, or more than 14 spheres.

    Notes
    -----
    Limit: every pixel of a sphere has its nominal values.  Stupic 2021, doi:10.1002/mrm.28779.
    """
    if len(t1) != len(t2) or len(t1) > 14:
        raise ValueError(f"phantom.discs: {len(t1)} values of t1 and {len(t2)} of t2; give as many of both, at most 14")
    sphere = np.zeros((draws.size, size, size), np.uint8)
    y, x = (np.indices((size, size)) + 0.5) * 2 / size - 1
    for one, turn in zip(sphere, 0.3 * draws.uniform("turn"), strict=True):
        for k in range(len(t1)):
            ring = (0.78, 10, k) if k < 10 else (0.36, 4, k - 10)
            angle = turn + 2 * np.pi * ring[2] / ring[1]
            cy, cx = ring[0] * sin_array(angle), ring[0] * cos_array(angle)
            one[(y - cy) ** 2 + (x - cx) ** 2 < 0.17**2] = k + 1
    slow, fast = (np.array([0.0, *values], np.float32)[sphere] for values in (t1, t2))
    return Discs(sphere, slow, fast, np.float32(amplitude) * (sphere > 0))
