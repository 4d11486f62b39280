"""From a map of tissues to maps of physical properties."""

from __future__ import annotations

from typing import Annotated, Any, NamedTuple

import numpy as np
from numba import njit

from factory.draws import Draws
from factory.physics import rows
from factory.step import step
from factory.units import TISSUES, Array

_OPTIONS: dict[str, Any] = {"nogil": True, "cache": True, "error_model": "numpy"}


class Maps(NamedTuple):
    """What `relaxation` returns."""

    t1: Annotated[Array, "s", "float32", "..."]
    t2: Annotated[Array, "s", "float32", "..."]
    amplitude: Annotated[Array, "1", "float32", "..."]


@step
def relaxation(
    tissue: Annotated[Array, "1", "uint8", "..."],
    tissue_t1: Annotated[Array, "s", "tissue"],
    tissue_t2: Annotated[Array, "s", "tissue"],
    tissue_amplitude: Annotated[Array, "1", "tissue"],
    draws: Draws,
    *,
    variation_t1: Annotated[float, "s", ">=0"] = 0.1,
    variation_t2: Annotated[float, "s", ">=0"] = 0.01,
    variation_amplitude: Annotated[float, "1", ">=0"] = 0.05,
    shortest: Annotated[float, "s", ">0"] = 0.005,
) -> Maps:
    """T1, T2 and amplitude of every voxel: its tissue's mean plus normal variation within the tissue.

    Parameters
    ----------
    tissue : uint8, shape (sample, ...)
        Codes, the index in `factory.units.TISSUES`.
    tissue_t1, tissue_t2 : array in s, shape (sample, tissue)
        Means of this sample.  0 for a tissue that the recipe's table leaves out.
    tissue_amplitude : array, shape (sample, tissue)
        Signal at complete recovery and no decay (proton density).
    variation_t1, variation_t2 : float in s
        Standard deviation from voxel to voxel.
    variation_amplitude : float
    shortest : float in s
        Floor of T1 and T2.

    Returns
    -------
    t1, t2 : float32 in s, shape of `tissue`
    amplitude : float32, shape of `tissue`
        Negative draws are reflected, background is 0 in all three.

    Raises
    ------
    ValueError
        A voxel of a tissue whose mean T1, T2 or amplitude is 0, or a code that is no tissue.

    Notes
    -----
    Limit: no variation gives the means, floored.  Sabidussi 2021, doi:10.1016/j.media.2021.102220; standard deviations
    from the same authors' package EMCqMRI 1.1.17.
    """
    codes, move = rows(tissue)
    shape = (len(tissue), codes.shape[1])
    means = np.stack([np.broadcast_to(m, (shape[0], len(TISSUES))) for m in (tissue_t1, tissue_t2, tissue_amplitude)])
    spread = np.array([variation_t1, variation_t2, variation_amplitude])
    floor = np.array([shortest, shortest, 0.0])
    maps = np.empty((3, *shape), np.float32)
    for k, name in enumerate(("t1", "t2", "amplitude")):
        missing = _fill(codes, move, means[k], spread[k], floor[k], draws.normal(name, shape[1:]), maps[k])
        if missing >= len(TISSUES):
            raise ValueError(f"tissue.relaxation: the map holds {missing}, but tissues end at {len(TISSUES) - 1}")
        if missing >= 0:
            word = TISSUES[missing]
            raise ValueError(
                f"tissue.relaxation: the map holds {word}, but tissue_{name} has no row for it (its mean "
                f"is 0); add {word} to the per_tissue table of tissue_{name}"
            )
    return Maps(*(m.reshape(tissue.shape) for m in maps))


@njit(**_OPTIONS)
def _fill(codes: Any, move: int, means: Any, spread: float, floor: float, noise: Any, out: Any) -> int:
    """One property; returns the first code that has no mean, or -1."""
    for i in range(out.shape[0]):
        for v in range(out.shape[1]):
            code = np.int64(codes[i * move, v])
            if code == 0:
                out[i, v] = 0.0
                continue
            if code >= means.shape[1] or means[i, code] == 0.0:
                return int(code)
            out[i, v] = max(floor, abs(means[i, code] + spread * noise[i, v]))
    return -1
