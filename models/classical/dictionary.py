"""Matching of fingerprints: the entry of a dictionary whose direction is nearest.

Ma 2013, doi:10.1038/nature11971; compression by singular vectors: McGivney 2014, doi:10.1109/TMI.2014.2337321.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from factory.draws import Draws
from factory.floor import drawn, run_link
from factory.recipe import Recipe

Array = NDArray[Any]
BLOCK = 1 << 22  # products at once: few enough for the cache, many enough for BLAS


def entries(recipe: Recipe, variable: str, values: Mapping[str, Array], split: str = "train") -> Array:
    """What a recipe's chain makes of given values of its draws, without its noise.

    Parameters
    ----------
    variable : made by the chain from these draws
    values : draw -> (entry,), in the unit of the draw; all others as they are drawn for the first sample

    Returns
    -------
    array, shape (entry, ...)

    Raises
    ------
    ValueError
        The chain does not make the variable of draws alone.
    """
    plan, count = recipe.split(split), len(next(iter(values.values())))
    first = drawn(recipe, split, 0, 1)
    state = {name: np.repeat(one, count, axis=0) for name, one in first.items()} | dict(values)
    for link in plan.chain:
        if link.step.random or not all(name in state for name in link.wires.values()):
            continue
        state |= run_link(link, Draws(recipe.seed, plan.name, 0, count), state)
        if variable in state:
            return state[variable]
    raise ValueError(f"the chain of {recipe.name} makes no {variable!r} of draws alone")


def grid(**axes: Array) -> dict[str, Array]:
    """Every combination of some values: name -> (entry,)."""
    return {name: table.ravel() for name, table in zip(axes, np.meshgrid(*axes.values(), indexing="ij"), strict=True)}


def match(fingerprints: Array, dictionary: Array, rank: int | None = None) -> tuple[Array, Array]:
    """The nearest entry of each fingerprint, and the factor between the two.

    Parameters
    ----------
    fingerprints : (n, frame), real or complex, of any scale
    dictionary : (entry, frame)
    rank : compare in so many singular vectors of the dictionary instead of all frames

    Returns
    -------
    entry : int (n,), of the largest |<fingerprint, entry>| over the entry's norm
    factor : (n,), real or complex: fingerprint = factor * entry, in the sense of least squares

    Notes
    -----
    Limit: an entry times any factor is matched to itself, with that factor.
    """
    atoms = dictionary / np.linalg.norm(dictionary, axis=1, keepdims=True)
    kept = fingerprints
    if rank is not None:
        base = np.linalg.svd(atoms, full_matrices=False)[2][:rank].conj().T
        atoms, kept = atoms @ base, fingerprints @ base
    entry = np.empty(len(kept), np.int64)
    factor = np.empty(len(kept), np.result_type(kept, atoms))
    step = max(1, BLOCK // len(atoms))
    for start in range(0, len(kept), step):
        products = kept[start : start + step] @ atoms.conj().T
        best = np.abs(products).argmax(1)
        entry[start : start + step], factor[start : start + step] = best, products[np.arange(len(best)), best]
    return entry, factor / np.linalg.norm(dictionary, axis=1)[entry]
