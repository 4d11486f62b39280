"""Maps of tissues: procedural heads, slices of label volumes, and patches of both.

A map holds codes, the index of a tissue in `factory.units.TISSUES`; rows run from front to back.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated, Any, NamedTuple

import numpy as np
from numba import njit

from factory.draws import Draws
from factory.physics import rows
from factory.physics._head import STRUCTURES, forms, grid, structures
from factory.step import step
from factory.units import TISSUES, Array, Volumes

_OPTIONS: dict[str, Any] = {"nogil": True, "cache": True, "error_model": "numpy"}
CSF, WHITE = TISSUES.index("csf"), TISSUES.index("white_matter")  # csf, grey and white matter are next to each other


class Volume(NamedTuple):
    """What `brain` returns."""

    head: Annotated[Array, "1", "uint8", "slice", "row", "column"]


class Head(NamedTuple):
    """What `labels` returns."""

    head: Annotated[Array, "1", "uint8", "row", "column"]


class Patch(NamedTuple):
    """What `patch` returns."""

    tissue: Annotated[Array, "1", "uint8", "y", "x"]


# ----------------------------------------------------------------------------------------------------------------------
# procedural heads

_TISSUE = {"ventricle": "csf", "cortex": "grey_matter", "caudate": "grey_matter", "putamen": "grey_matter",
           "pallidum": "grey_matter", "thalamus": "grey_matter", "cerebellar_cortex": "grey_matter",
           "cerebral_white_matter": "white_matter", "cerebellar_white_matter": "white_matter",
           "brainstem": "white_matter", "vessel": "vessels", "skin": "muscle_skin"}  # fmt: skip
TISSUE_OF = np.array([TISSUES.index(_TISSUE.get(name, name)) for name in STRUCTURES], np.uint8)
"""The code of a tissue for each of `STRUCTURES`."""


def _extent(voxel: float, **_: Any) -> dict[str, int]:
    return dict(zip(("slice", "row", "column"), grid(1e3 * voxel), strict=True))


@step(sizes=_extent, probe={"lesions": 40})
def brain(
    draws: Draws,
    *,
    voxel: Annotated[float, "m", ">=0.0004", "<=0.01"] = 1e-3,
    lesions: Annotated[int, ">=0", "<=80"] = 0,
) -> Volume:
    """A head in three dimensions, a different one for every sample.

    Hemispheres with a folded cortex around white matter, ventricles, caudate, putamen, pallidum, thalamus, cerebellum
    with folia, brainstem, veins and the sagittal sinus, csf, skull with marrow, scalp with fat, muscle and skin; no
    eyes and no sinuses.  The cortex is a ribbon of 2 to 4 mm along the pia; its sulci are the sheets on which a random
    band-pass field vanishes.

    Parameters
    ----------
    voxel : float in m
        Edge of a voxel; the field of view of 196 x 232 x 192 mm stays.  1 mm takes some 3 s.
    lesions : int
        Median number of white-matter lesions (multiple sclerosis) of a head, at most 80; the number of a head is
        log-normal with a standard deviation of 0.5.  0: none.

    Returns
    -------
    head : uint8 codes of tissues, shape (sample, slice, row, column)
        Slices from below upwards, rows from front to back, columns from left to right.

    Notes
    -----
    Limit: from the outside inwards skin, skull and csf come before brain on every ray, and white matter only behind
    cortex. Volumes and folding lie in human ranges (docs/heads.md).  Stands in for BrainWeb's models (Cocosco 1997;
    Collins 1998, doi:10.1109/42.712135; Aubert-Broche 2006, doi:10.1109/TMI.2006.883453), which `labels` reads.
    """
    out = np.empty((draws.size, *grid(1e3 * voxel)), np.uint8)
    for head, form in zip(out, forms(draws, lesions), strict=True):
        head[:] = TISSUE_OF[structures(form, 1e3 * voxel)[:, ::-1]]
    return Volume(out)


# ----------------------------------------------------------------------------------------------------------------------
# slices of label volumes


def _frame(volumes: Volumes, table: dict[int, str], part: tuple[float, ...]) -> dict[str, int]:
    """Rows and columns that hold every slice of the file, used or not; complains about table and part at load."""
    _slices(volumes, table, part)
    return {dim: max(array.shape[axis] for array in volumes.arrays) for axis, dim in ((-2, "row"), (-1, "column"))}


@step(sizes=_frame)
def labels(
    draws: Draws,
    *,
    volumes: Volumes,
    table: dict[int, str],
    part: Annotated[tuple[float, ...], "1", ">=0", "<=1"] = (0.0, 1.0),
) -> Head:
    """One slice of the label volumes for each sample, uniformly among those that this split may use.

    Parameters
    ----------
    volumes : Volumes
        Label volumes of shape (slice, row, column); a 2-D entry of the file counts as one slice, of a 3-D one only
        slices with brain do, as they are stored.
    table : mapping from label to tissue
        A label may name any tissue; several labels may name the same.  Empty: the file holds codes of tissues already.
    part : two numbers
        [from, to): the share of the ordered list of slices (volume by volume) to choose from, so that train and test
        never share a slice.  Slice i of n lies at (i + 0.5) / n.

    Returns
    -------
    head : uint8, shape (sample, row, column)
        The largest row and column count of all volumes; smaller slices are centred on background.

    Raises
    ------
    ValueError
        A label that the table does not name, a part without a slice, a part that is not two rising numbers.

    Notes
    -----
    Limit: with one slice in `part`, every sample is that slice.
    """
    chosen = _slices(volumes, table, part)
    row, column = _frame(volumes, table, part).values()
    out = np.zeros((draws.size, row, column), np.uint8)
    for i, u in enumerate(draws.uniform("slice").tolist()):
        codes = chosen[int(u * len(chosen))]
        top, left = (row - codes.shape[0]) // 2, (column - codes.shape[1]) // 2
        out[i, top : top + codes.shape[0], left : left + codes.shape[1]] = codes
    return Head(out)


def _slices(volumes: Volumes, table: dict[int, str], part: tuple[float, ...]) -> list[Any]:
    """The slices of `part` in codes of tissues."""
    if len(part) != 2 or not 0.0 <= part[0] < part[1] <= 1.0:
        raise ValueError(f"anatomy.labels: part must be two rising numbers between 0 and 1, not {list(part)}")
    every = _translated(volumes, tuple(sorted(table.items())))
    chosen = [one for i, one in enumerate(every) if part[0] <= (i + 0.5) / len(every) < part[1]]
    if not chosen:
        raise ValueError(
            f"anatomy.labels: part {list(part)} holds none of the {len(every)} slices with brain of "
            f"{', '.join(volumes.names)}; slice i of n, from 0, lies at (i + 0.5) / n"
        )
    return chosen


@lru_cache(maxsize=4)
def _translated(volumes: Volumes, table: tuple[tuple[int, str], ...]) -> list[Any]:
    """All slices of all volumes that may be used, in codes of tissues.  A file is translated once a process."""
    every: list[Any] = []
    for name, array in zip(volumes.names, volumes.arrays, strict=True):
        codes = _codes(name, array, dict(table))
        every += [one for one in codes if len(codes) == 1 or np.any((one >= CSF) & (one <= WHITE))]
    return every


def _codes(name: str, array: Any, table: dict[int, str]) -> Any:
    """One volume in tissue codes."""
    found = np.unique(np.concatenate([np.unique(one) for one in array]))  # a slice at a time keeps memory small
    known = {label: TISSUES.index(tissue) for label, tissue in table.items()}
    known = known or {code: code for code in range(len(TISSUES))}
    unknown = [label for label in found.tolist() if label not in known]
    if unknown:
        shown = ", ".join(f"{label:g}" for label in unknown[:8]) + (" ..." if len(unknown) > 8 else "")
        legal = "the table does not name it" if table else f"without a table labels are 0 to {len(TISSUES) - 1}"
        raise ValueError(
            f"anatomy.labels: the volume {name!r} holds the label {shown}, but {legal}; "
            f"add a line such as {unknown[0]:g}: background to table"
        )
    codes = np.array([known[label] for label in found.tolist()], np.uint8)
    return np.stack([codes[np.searchsorted(found, one)] for one in array])


# ----------------------------------------------------------------------------------------------------------------------
# patches


@step(sizes=lambda size, **_: {"y": size, "x": size})
def patch(
    head: Annotated[Array, "1", "uint8", "...", "row", "column"], draws: Draws, *, size: Annotated[int, ">=1"]
) -> Patch:
    """A square crop of a slice, whose centre is uniform over the brain (csf, grey and white matter).

    Parameters
    ----------
    head : uint8 codes of tissues, shape (sample, row, column) or (sample, slice, row, column)
    size : int
        Rows and columns of the crop.  Near the border it is moved inwards until it lies inside the head's map.

    Returns
    -------
    tissue : uint8, shape (sample, y, x)

    Raises
    ------
    ValueError
        A map smaller than the patch, or one without brain.

    Notes
    -----
    Limit: a patch as large as the map of one slice is the map.
    """
    table, move = rows(head)
    if min(head.shape[-2:]) < size:
        raise ValueError(
            f"anatomy.patch: a patch of {size} x {size} does not fit into a map of {head.shape[-2]} x "
            f"{head.shape[-1]}; make size smaller or the map larger"
        )
    slices = table.reshape(len(table), -1, *head.shape[-2:])
    out = np.empty((len(head), size, size), np.uint8)
    empty = _crop(slices, move, draws.uniform("centre"), np.empty(slices.shape[1], np.int64), out)
    if empty >= 0:
        raise ValueError(
            f"anatomy.patch: the map of sample {draws.index[empty]} holds no csf, grey or white matter, "
            "so there is no brain to centre a patch on"
        )
    return Patch(out)


@njit(**_OPTIONS)
def _crop(heads: Any, move: int, u: Any, counts: Any, out: Any) -> int:
    """Returns the first sample without brain, or -1.  The brain of one head that all samples share is counted once."""
    size, (_, _, rows, columns) = out.shape[1], heads.shape
    total = 0
    for i in range(out.shape[0]):
        head = heads[i * move]
        if i == 0 or move:
            total = _count(head, counts)
        if total == 0:
            return i
        left = min(np.int64(u[i] * total), total - 1)
        n = 0
        while left >= counts[n]:
            left -= counts[n]
            n += 1
        row, column = _find(head[n], left)
        top, side = min(max(row - size // 2, 0), rows - size), min(max(column - size // 2, 0), columns - size)
        out[i] = head[n, top : top + size, side : side + size]
    return -1


@njit(**_OPTIONS)
def _count(head: Any, counts: Any) -> int:
    """Brain pixels of each slice, and of all."""
    total = 0
    for n in range(head.shape[0]):
        found = 0
        for v in head[n].flat:
            found += CSF <= v <= WHITE
        counts[n] = found
        total += found
    return total


@njit(**_OPTIONS)
def _find(one: Any, left: int) -> tuple[int, int]:
    """Row and column of the brain pixel number `left` of a slice."""
    for row in range(one.shape[0]):
        for column in range(one.shape[1]):
            if CSF <= one[row, column] <= WHITE:
                if left == 0:
                    return row, column
                left -= 1
    return -1, -1
