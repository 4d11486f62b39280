"""Maps of tissues: random heads, slices of label volumes, and patches of both.

A map holds codes, the index of a tissue in `factory.units.TISSUES`; rows run from front to back.
"""

from __future__ import annotations

from functools import lru_cache
from math import sqrt
from typing import Annotated, Any, NamedTuple

import numpy as np
from numba import njit

from factory.draws import Draws
from factory.numerics import cos_array, sin_array, sincos
from factory.physics import rows
from factory.step import step
from factory.units import TISSUES, Array, Volumes

_OPTIONS: dict[str, Any] = {"nogil": True, "cache": True, "error_model": "numpy"}
BACKGROUND, CSF, GREY, WHITE, FAT, MUSCLE, SKIN, SKULL, VESSELS, MARROW = range(len(TISSUES))


class Head(NamedTuple):
    """What `blobs` and `labels` return."""

    head: Annotated[Array, "1", "uint8", "row", "column"]


class Patch(NamedTuple):
    """What `patch` returns."""

    tissue: Annotated[Array, "1", "uint8", "y", "x"]


# ----------------------------------------------------------------------------------------------------------------------
# random heads; lengths are in half fields of view (about 110 mm), x to the right, y to the back

_WAVES = 40  # cosines whose sum folds the cortex
_HARMONICS = 4  # of a shell's thickness around the head
_VESSELS = 10
# scalp, its fat, galea with muscle, outer table, diploe, inner table, rim of csf: mean thickness and relative ripple
_THICKNESS = np.array([0.030, 0.022, 0.016, 0.020, 0.026, 0.018, 0.026])
_RIPPLE = np.array([0.12, 0.55, 0.20, 0.12, 0.50, 0.12, 0.45])
_SHELL = np.array([SKIN, FAT, SKIN, SKULL, MARROW, SKULL, CSF])
_FAT, _GALEA = 1, 2


class _Form(NamedTuple):
    """What makes one head."""

    level: float  # 0 through the temporal lobes, 1 near the vertex
    half_width: float
    half_length: float
    tilt: float
    right: float
    back: float
    ribbon: float  # thickness of the cortex
    gap: float  # half width of a sulcus
    reach: float  # depth of a sulcus
    ventricle: float  # half width of a ventricle
    squeeze: float  # < 1 draws the folds out along the radius


@step(sizes=lambda size, **_: {"row": size, "column": size})
def blobs(draws: Draws, *, size: Annotated[int, ">=16"] = 128) -> Head:
    """A random axial slice of a head, a different one for every sample.

    Nested smooth shells (skin, fat, temporal muscle, skull with marrow, csf) around a brain whose cortex is a ribbon
    along the zero lines of a random band-pass field, drawn out along the radius; fissures, ventricles, deep grey
    matter and vessels follow the level of the slice.  All tissues of `factory.units.TISSUES` occur across samples, not
    all in each.

    Parameters
    ----------
    size : int
        Rows and columns of the map; the field of view stays, pixels shrink.

    Returns
    -------
    head : uint8, shape (sample, row, column)

    Notes
    -----
    Limit: the outermost tissue is skin, and a ray from the brain to the outside crosses csf, skull and skin in this
    order. Stands in for the slices of BrainWeb (Cocosco 1997; Collins 1998, doi:10.1109/42.712135), which `labels`
    reads.
    """
    u = draws.uniform("form", (11,))
    ripples = draws.normal("ripples", (len(_THICKNESS) + 1, 2 * _HARMONICS))
    waves = _waves(draws.uniform("waves", (_WAVES, 3)))
    sites = draws.uniform("vessels", (_VESSELS, 3)) - np.array([0.5, 0.5, 0.0])
    out = np.empty((draws.size, size, size), np.uint8)
    depth, x, y, fold = np.empty((4, size, size))
    for i in range(draws.size):
        form = _form(*u[i].tolist())
        _shells(form, ripples[i], waves[i], depth, x, y, fold, out[i])
        _brain(form, depth, x, y, fold, _placed(form, sites[i]), out[i])
    return Head(out)


def _form(level: float, *u: float) -> _Form:
    """Uniform numbers to the measures of a head; above the ventricles slices get smaller towards the vertex."""
    above = max(0.0, level - 0.62) / 0.38
    shrink = 1.0 - 0.35 * above * sqrt(above)
    return _Form(
        level=level,
        half_width=(0.74 + 0.08 * u[0]) * shrink,
        half_length=(0.86 + 0.06 * u[1]) * shrink,
        tilt=0.3 * (u[2] - 0.5),
        right=0.06 * (u[3] - 0.5),
        back=0.04 * (u[4] - 0.5),
        ribbon=0.040 + 0.012 * u[5],
        gap=0.006 + 0.011 * u[6],
        reach=(0.22 + 0.10 * u[7]) * shrink,
        # atrophy: wide sulci come with wide ventricles
        ventricle=0.028 + 0.035 * u[8] * u[6],
        squeeze=0.45 + 0.25 * u[9],
    )


def _waves(u: Any) -> Any:
    """Wave vector and phase of each cosine; the wavelengths make sulci 10 to 20 mm apart."""
    turn = 2.0 * np.pi
    k = turn / (0.19 + 0.17 * u[..., 0])
    return np.stack([k * cos_array(turn * u[..., 1]), k * sin_array(turn * u[..., 1]), turn * u[..., 2]], axis=-1)


def _placed(form: _Form, site: Any) -> Any:
    """Centres and radii of the discs in which csf and pia are vessels; the first two lie in the midline."""
    x, y, radius = 1.1 * site[:, 0], 1.3 * site[:, 1], 0.02 + 0.03 * site[:, 2]
    x[:2], y[0], y[1], radius[0] = 0.0, form.half_length - 0.20, -0.45, 0.04  # sagittal sinus, anterior cerebral artery
    return np.stack([x, y, radius], axis=-1)


@njit(**_OPTIONS)
def _wiggle(c: float, s: float, ripple: Any) -> float:
    """sum of (a_k cos k theta + b_k sin k theta) / k, from cos and sin of theta alone."""
    total, ck, sk = 0.0, c, s
    for k in range(_HARMONICS):
        total += (ripple[2 * k] * ck + ripple[2 * k + 1] * sk) / (k + 1.0)
        ck, sk = ck * c - sk * s, sk * c + ck * s
    return total


@njit(**_OPTIONS)
def _segment(x: float, y: float, ax: float, ay: float, bx: float, by: float) -> float:
    """Distance from (x, y) to the line from a to b."""
    ux, uy = bx - ax, by - ay
    t = min(1.0, max(0.0, ((x - ax) * ux + (y - ay) * uy) / (ux * ux + uy * uy)))
    dx, dy = x - ax - t * ux, y - ay - t * uy
    return float(np.sqrt(dx * dx + dy * dy))


@njit(**_OPTIONS)
def _inside(x: float, y: float, cx: float, cy: float, c: float, s: float, rx: float, ry: float) -> float:
    """(distance / radius)**2 in an ellipse that is turned by the angle of cosine c and sine s."""
    u, v = ((x - cx) * c + (y - cy) * s) / rx, ((y - cy) * c - (x - cx) * s) / ry
    return u * u + v * v


@njit(**_OPTIONS)
def _bump(z: float, low: float, high: float, edge: float) -> float:
    """1 for z in [low, high], falling smoothly to 0 within `edge` on both sides."""
    t = min(1.0, max(0.0, min(z - low, high - z) / edge + 1.0))
    return t * t * (3.0 - 2.0 * t)


@njit(**_OPTIONS)
def _field(x: float, y: float, waves: Any) -> float:
    """The band-pass field, variance about 1."""
    total = 0.0
    for k in range(_WAVES):
        total += sincos(waves[k, 0] * x + waves[k, 1] * y + waves[k, 2])[1]
    return float(total * np.sqrt(2.0 / _WAVES))


@njit(**_OPTIONS)
def _peel(form: Any, ripples: Any, c: float, s: float, d: float) -> tuple[int, float]:
    """Tissue at depth d > 0 below the skin in the direction (c, s), and the depth below the dura (csf only)."""
    temporal = max(0.0, abs(c) - 0.45) * max(0.0, 1.0 - 1.4 * abs(s + 0.25))
    for layer in range(_SHELL.size):
        width = _THICKNESS[layer] * max(0.0, 1.0 + _RIPPLE[layer] * _wiggle(c, s, ripples[layer + 1]))
        if layer == _FAT:
            width *= 1.25 - 0.5 * form.level
        if layer == _SHELL.size - 1:
            break
        if d < width:
            return _SHELL[layer], 0.0
        d -= width
        if layer == _GALEA:
            muscle = 0.22 * max(0.0, 1.0 - 1.6 * form.level) * temporal
            if d < muscle:
                return MUSCLE, 0.0
            d -= muscle
    return CSF, d - width


@njit(**_OPTIONS)
def _shells(form: Any, ripples: Any, waves: Any, depth: Any, px: Any, py: Any, fold: Any, out: Any) -> None:
    """Everything outside of the brain; for brain pixels depth below the pia (> 0), coordinates and the fold field."""
    size = out.shape[0]
    si, co = sincos(form.tilt)
    for i in range(size):
        for j in range(size):
            u, v = (2 * j + 1.0) / size - 1.0 - form.right, (2 * i + 1.0) / size - 1.0 - form.back
            x, y = co * u + si * v, co * v - si * u
            r = np.sqrt(x * x + y * y) + 1e-9
            c, s = x / r, y / r
            cw, sl = c / form.half_width, s / form.half_length
            edge = 1.0 / np.sqrt(cw * cw + sl * sl)
            edge *= 1.0 + 0.012 * _wiggle(c, s, ripples[0]) + 0.035 * s * (1.0 - 2.0 * c * c)  # an egg, blunt behind
            label, d = _peel(form, ripples, c, s, edge - r) if r < edge else (BACKGROUND, 0.0)
            out[i, j], depth[i, j], px[i, j], py[i, j] = label, d, x, y
            if d > 0.0:
                stretch = (0.8 * edge + form.squeeze * (r - 0.8 * edge)) / r
                fold[i, j] = _field(x * stretch, y * stretch, waves)


@njit(**_OPTIONS)
def _slope(fold: Any, depth: Any, i: int, j: int) -> float:
    """Length of the field's gradient, by differences that stay inside the brain."""
    total = 0.0
    for di, dj in ((0, 1), (1, 0)):
        i0, j0, i1, j1 = i - di, j - dj, i + di, j + dj
        if depth[i0, j0] <= 0.0:
            i0, j0 = i, j
        if depth[i1, j1] <= 0.0:
            i1, j1 = i, j
        steps = max(1, i1 - i0 + j1 - j0)
        d = (fold[i1, j1] - fold[i0, j0]) * 0.5 * fold.shape[0] / steps
        total += d * d
    return float(np.sqrt(total) + 1e-6)


@njit(**_OPTIONS)
def _pia(form: Any, d: float, x: float, y: float, f: float, slope: float) -> float:
    """Distance to the nearest pia, roughly: < 0 is csf, up to `ribbon` cortex."""
    gap, reach, scale = form.gap, form.reach, form.half_width / 0.75
    sulcus = abs(f) / slope - gap * max(0.25, 1.0 - d / reach) + 1.2 * max(0.0, d - reach * (1.0 + 0.25 * f))
    joined = 0.34 * _bump(form.level, 0.25, 0.66, 0.16)  # half length of what joins the hemispheres
    fissure = abs(x - 0.012 * f) - 1.2 * gap + max(0.0, joined - abs(y + 0.02))
    far = 1.0 - _bump(form.level, 0.05, 0.48, 0.12) + 0.01 * f
    ax = abs(x)
    stem = _segment(ax, y, 0.36 * scale, -0.12, 0.60 * scale, 0.02) - 1.4 * gap  # lateral fissure, then insula
    insula = _segment(ax, y, 0.36 * scale, -0.12, 0.36 * scale, 0.10) - 0.8 * gap
    return float(min(min(d, sulcus), min(fissure, min(stem, insula) + far)))


@njit(**_OPTIONS)
def _nucleus(form: Any, ax: float, y: float, f: float) -> bool:
    """Thalamus, lentiform nucleus, head of the caudate nucleus."""
    deep = _bump(form.level, 0.30, 0.52, 0.12)
    limit = deep * (1.0 + 0.2 * f)
    return bool(
        _inside(ax, y, 0.115, 0.10, 0.949, 0.316, 0.079, 0.137) < limit
        or _inside(ax, y, 0.27, -0.04, 0.929, -0.370, 0.055, 0.15) < limit
        or _segment(ax, y, 0.125, -0.26, 0.155, -0.08) < 0.045 * deep
    )


@njit(**_OPTIONS)
def _ventricle(form: Any, x: float, y: float, f: float) -> bool:
    """Lateral ventricles (frontal horn, body, occipital horn) and, in the midline, the third."""
    z, ax = form.level, abs(x)
    wide = form.ventricle * _bump(z, 0.42, 0.70, 0.22)
    horn = min(_segment(ax, y, 0.075, -0.27, 0.055, -0.08), _segment(ax, y, 0.055, -0.08, 0.075, 0.06) + 0.008)
    horn = min(horn, _segment(ax, y, 0.075, 0.10, 0.17, 0.30) - 0.008)
    if z > 0.52:
        horn = min(horn, _segment(ax, y, 0.06, -0.10, 0.09, 0.15) - 0.012)
    third = _bump(z, 0.30, 0.52, 0.12) > 0.5 and _segment(x, y, 0.0, -0.04, 0.0, 0.14) < 0.4 * form.ventricle
    return bool(third or (wide > 0.015 and horn + 0.006 * f < wide))


@njit(**_OPTIONS)
def _brain(form: Any, depth: Any, px: Any, py: Any, fold: Any, vessels: Any, out: Any) -> None:
    """Every brain pixel.  A brain pixel never lies at the edge of the map: the shells are around it."""
    for i in range(1, out.shape[0] - 1):
        for j in range(1, out.shape[1] - 1):
            if depth[i, j] <= 0.0:
                continue
            x, y, f = px[i, j], py[i, j], fold[i, j]
            pia = _pia(form, depth[i, j], x, y, f, _slope(fold, depth, i, j))
            label = GREY if pia < form.ribbon or _nucleus(form, abs(x), y, f) else WHITE
            if pia < 0.0 or _ventricle(form, x, y, f):
                label = CSF
            for n in range(vessels.shape[0]):
                dx, dy = x - vessels[n, 0], y - vessels[n, 1]
                if dx * dx + dy * dy < vessels[n, 2] * vessels[n, 2] and pia < 0.010:
                    label = VESSELS
            out[i, j] = label


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
def patch(head: Annotated[Array, "1", "uint8", "row", "column"], draws: Draws, *, size: Annotated[int, ">=1"]) -> Patch:
    """A square crop whose centre is uniform over the brain (csf, grey and white matter).

    Parameters
    ----------
    head : uint8 codes of tissues, shape (sample, row, column)
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
    Limit: a patch as large as the map is the map.
    """
    table, move = rows(head)
    if min(head.shape[1:]) < size:
        raise ValueError(
            f"anatomy.patch: a patch of {size} x {size} does not fit into a map of {head.shape[1]} x "
            f"{head.shape[2]}; make size smaller or the map larger"
        )
    out = np.empty((len(head), size, size), np.uint8)
    brain = np.empty(table.shape[1], np.int64)
    empty = _crop(table, move, head.shape[2], draws.uniform("centre"), brain, out)
    if empty >= 0:
        raise ValueError(
            f"anatomy.patch: the map of sample {draws.start + empty} holds no csf, grey or white matter, "
            "so there is no brain to centre a patch on"
        )
    return Patch(out)


@njit(**_OPTIONS)
def _crop(heads: Any, move: int, columns: int, u: Any, brain: Any, out: Any) -> int:
    """Returns the first sample without brain, or -1.  The list of brain pixels is made once for equal maps in a row."""
    size, total = out.shape[1], heads.shape[1]
    n_brain = 0
    for i in range(out.shape[0]):
        head = heads[i * move]
        if i == 0 or (move and not np.array_equal(head, heads[i - 1])):
            n_brain = 0
            for v in range(total):
                if CSF <= head[v] <= WHITE:
                    brain[n_brain] = v
                    n_brain += 1
        if n_brain == 0:
            return i
        centre = brain[min(np.int64(u[i] * n_brain), n_brain - 1)]
        top = min(max(centre // columns - size // 2, 0), total // columns - size)
        left = min(max(centre % columns - size // 2, 0), columns - size)
        for y in range(size):
            for x in range(size):
                out[i, y, x] = head[(top + y) * columns + left + x]
    return -1
