"""The geometry of a procedural head, for `anatomy.brain`: which structure every voxel belongs to.

Lengths are in mm; x to the right, y to the front, z up; the origin lies in the middle of the brain.  Every solid is an
implicit function of the position, so that any voxel size samples the same head.  Only the thickness of the cortex
needs a distance map.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit
from scipy import ndimage

from factory.draws import Draws
from factory.numerics import cos_array, exp_array, ndtri_array, pow, sin_array, sincos

_OPTIONS: dict[str, Any] = {"nogil": True, "cache": True, "error_model": "numpy"}
STRUCTURES = (
    "background", "csf", "ventricle", "cortex", "cerebral_white_matter", "caudate", "putamen", "pallidum", "thalamus",
    "cerebellar_cortex", "cerebellar_white_matter", "brainstem", "vessel", "lesion", "skull", "marrow", "fat", "muscle",
    "skin",
)  # fmt: skip
(NOTHING, CSF, VENTRICLE, CORTEX, WHITE, CAUDATE, PUTAMEN, PALLIDUM, THALAMUS, FOLIA, ARBOR, STEM, VESSEL, LESION,
 SKULL, MARROW, FAT, MUSCLE, SKIN) = range(len(STRUCTURES))  # fmt: skip
FIELD_OF_VIEW = np.array([196.0, 232.0, 192.0])  # z, y, x
_CENTRE = np.array([-8.0, 0.0, 0.0])  # of the field of view
_SPACING = 36.0  # of the nodes of the smooth random fields
_NODES = tuple(int(n / _SPACING) + 5 for n in FIELD_OF_VIEW)
_WARP, _DEPTH, _THICK, _SCALP, _BONE, _CHANNELS = 0, 3, 4, 5, 6, 7  # displacement in x, y, z; then thicknesses
_SPREAD = np.array([1.8, 1.8, 1.8, 3.0, 0.2, 0.35, 0.25])
_WAVES, _VEINS = 56, 20  # plane waves that fold the cortex, and that lay veins into its sulci
_LESIONS = 80  # the most that one head may have
_NARROW = 1.2  # mm; of fissures

# tubes: (x, y, z, radius) from end to end; those of one side are mirrored
_LATERAL = np.array([[10, 30, 2, 3.2], [9, 12, 13, 5.0], [12, -20, 14, 5.2], [24, -40, 2, 6.0], [30, -18, -14, 2.4]])
_CAUDATE = np.array([[14, 21, 2, 6.6], [17.5, 5, 13, 4.8], [21, -18, 15, 2.6]])
_BRAINSTEM = np.array(
    [[0, -16, -8, 13.0], [0, -20, -24, 13.0], [0, -24, -40, 12.0], [0, -32, -66, 8.0], [0, -34, -110, 6.5]]
)
_NECK = np.array([[0, -14, -60, 56.0], [0, -14, -120, 52.0]])


class Form(NamedTuple):
    """What makes one head."""

    turn: Any  # rotation matrix, world to head
    shift: Any
    scale: Any
    lattice: Any  # nodes of the smooth fields, (channel, z, y, x)
    folds: Any  # waves, (4, wave)
    veins: Any
    gap: float  # half width of a sulcus
    reach: float  # depth of the sulci
    ribbon: float  # thickness of the cortex
    ventricle: float  # scale of the ventricles' radii
    scalp: float  # thickness of its fat
    bone: float  # thickness of the skull
    sites: Any  # uniform numbers of each lesion, (lesion, 8)


def forms(draws: Draws, lesions: int = 0) -> list[Form]:
    """The forms of all samples; `lesions` is the median of their number of lesions."""
    u = draws.uniform("form", (20,))
    scale = draws.normal("scale", (5,)).clip(-1.5, 1.5)
    nodes = draws.normal("fields", (_CHANNELS, *_NODES))
    folds = _waves(draws.uniform("folds", (_WAVES, 4)), 27.0, 0.22)
    veins = _waves(draws.uniform("veins", (_VEINS, 4)), 36.0, 0.3)
    sites = draws.uniform("lesions", (_LESIONS, 8))
    counts = np.minimum(_LESIONS, np.rint(lesions * exp_array(0.5 * scale[:, 4]))).astype(int)
    return [_form(u[i], scale[i], nodes[i], folds[i], veins[i], sites[i, : counts[i]]) for i in range(draws.size)]


def _form(u: Any, size: Any, nodes: Any, folds: Any, veins: Any, sites: Any) -> Form:
    angles = (2 * u[:3] - 1) * np.array([0.17, 0.10, 0.10])  # nod, tilt, turn
    atrophy = u[6]  # wide sulci come with wide ventricles
    scale = 0.99 * (1 + 0.022 * size[0]) * (1 + 0.018 * size[1:4])
    return Form(
        turn=_rotation(angles),
        shift=(2 * u[3:6] - 1) * np.array([4.0, 4.0, 3.0]),
        scale=scale,
        lattice=nodes * _SPREAD[:, None, None, None] / 0.33,  # a cubic spline of white noise has a third of its spread
        folds=folds,
        veins=veins,
        gap=0.36 + 0.40 * atrophy,
        reach=14.0 + 4.0 * u[7],
        ribbon=(3.01 + 0.12 * u[8]) * (1 + 0.3 * (scale.prod() - 0.97)),  # grey matter keeps up with a large head
        ventricle=(0.85 + 0.50 * atrophy) * (0.85 + 0.3 * u[11]),
        scalp=2.5 + 3.5 * u[9],
        bone=5.5 + 2.5 * u[10],
        sites=sites,
    )


def _rotation(angles: Any) -> Any:
    (sa, sb, sc), (ca, cb, cc) = sin_array(angles), cos_array(angles)
    nod = np.array([[1, 0, 0], [0, ca, -sa], [0, sa, ca]])
    tilt = np.array([[cb, 0, sb], [0, 1, 0], [-sb, 0, cb]])
    turn = np.array([[cc, -sc, 0], [sc, cc, 0], [0, 0, 1]])
    return _product(_product(turn, tilt), nod)


def _product(a: Any, b: Any) -> Any:
    """a @ b without BLAS, whose bytes depend on the machine."""
    return (a[:, :, None] * b[None]).sum(1)


def _waves(u: Any, length: float, width: float) -> Any:
    """Plane waves of random direction whose wave lengths scatter around `length`: their sum is a band-pass field.

    Wave vectors and phases, shape (sample, 4, wave).
    """
    k = 2 * np.pi / length * (1 + width * (u[..., 0] + u[..., 1] - 1) * 2.45)  # triangular, standard deviation `width`
    up, turn = 2 * u[..., 2] - 1, 2 * np.pi * u[..., 3]
    flat = np.sqrt(1 - up * up)
    phase = 2 * np.pi * ((u * np.array([977.0, 577.0, 379.0, 677.0])).sum(-1) % 1.0)
    return np.stack([k * flat * cos_array(turn), k * flat * sin_array(turn), k * up, phase], axis=-2)


def grid(voxel: float) -> tuple[int, int, int]:
    """Voxels of the field of view, z, y, x."""
    nz, ny, nx = (max(8, round(length / voxel)) for length in FIELD_OF_VIEW.tolist())
    return nz, ny, nx


def structures(form: Form, voxel: float) -> Any:
    """Codes of `STRUCTURES`, uint8 (z, y, x); z up, y to the front, x to the right.

    Parameters
    ----------
    voxel : float in mm
    """
    out = np.zeros(grid(voxel), np.uint8)
    thick = np.zeros(out.shape, np.float32)
    _solids(form, voxel, out, thick)
    _keep_one_brain(out)
    _ribbon(out, thick, voxel)
    if len(form.sites):
        _damage(form.sites, voxel, out)
    return out


def _keep_one_brain(out: Any) -> None:
    """Turn what the sulci have cut off the brain into csf."""
    box = _box(_is_brain(out))
    part = out[box]
    brain = _is_brain(part)
    pieces, count = ndimage.label(brain)
    if count > 1:
        part[brain & (pieces != 1 + np.argmax(np.bincount(pieces.ravel())[1:]))] = CSF


def _is_brain(out: Any) -> Any:
    return ((out >= VENTRICLE) & (out <= STEM)) | (out == LESION)


def _box(mask: Any, margin: int = 2) -> tuple[slice, ...]:
    """The smallest box around a mask, and a margin."""
    found = []
    for axis in range(3):
        here = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
        found.append(slice(max(0, here[0] - margin), here[-1] + 1 + margin) if len(here) else slice(0, 1))
    return tuple(found)


def _ribbon(out: Any, thick: Any, voxel: float) -> None:
    """Cortex is what lies nearer to the pia than its thickness."""
    box = _box(_is_brain(out))
    part = out[box]
    depth = ndimage.distance_transform_edt(_is_brain(part)) * voxel - 0.5 * voxel
    part[(part == WHITE) & (depth <= thick[box])] = CORTEX


# ----------------------------------------------------------------------------------------------------------------------
# lesions of multiple sclerosis


def _damage(sites: Any, voxel: float, out: Any) -> None:
    """Lesions in white matter: most near the ventricles, a tenth below the cortex, some below the tentorium."""
    box = _box(_is_brain(out))
    part = out[box]
    white = part == WHITE
    near = ndimage.distance_transform_edt(part != VENTRICLE) * voxel
    cortex = ndimage.distance_transform_edt(part != CORTEX) * voxel
    below = (part == ARBOR) | (part == STEM)
    # none of the first kind starts next to the cortex or the ventricle: its middle lies in white matter all around
    around = white & ((near > voxel) & (cortex > voxel) if voxel < 4.0 else white)
    weights = around * (exp_array(-near / 5.0) + 0.005), white & (cortex <= 3.0), below
    chances = [np.cumsum(w.ravel().astype(np.float64)) for w in weights]
    for u in sites:
        chance = chances[0 if u[0] < 0.85 else 1 if u[0] < 0.95 else 2]
        if chance[-1] > 0:
            centre = np.unravel_index(np.searchsorted(chance, u[1] * chance[-1], side="right"), part.shape)
            _lesion(u, np.array(centre, np.int64), voxel, part)


def _lesion(u: Any, centre: Any, voxel: float, part: Any) -> None:
    radius = min(9.0, max(1.5, 3.0 * float(exp_array(0.4 * ndtri_array(u[2])))))
    radii = radius * np.array([0.8, 0.7 + 0.3 * u[3], 1.4])
    _plaque(centre, radii, 2 * np.pi * u[4:7], voxel, part)


# ----------------------------------------------------------------------------------------------------------------------
# kernels


@njit(**_OPTIONS)
def _plaque(centre: Any, radii: Any, phases: Any, voxel: float, part: Any) -> None:
    """One lesion: a bumpy ellipsoid whose long axis points away from the ventricles (Dawson's finger)."""
    nz, ny, nx = part.shape
    cz, cy, cx = centre
    reach = int(1.2 * radii[2] / voxel) + 1
    side = cx - 0.5 * nx
    ahead = 0.35 * (cy - 0.5 * ny)
    norm = np.sqrt(side * side + ahead * ahead) + 1e-9
    ux, uy = side / norm, ahead / norm
    for k in range(max(0, cz - reach), min(nz, cz + reach + 1)):
        for j in range(max(0, cy - reach), min(ny, cy + reach + 1)):
            for i in range(max(0, cx - reach), min(nx, cx + reach + 1)):
                z, y, x = (k - cz) * voxel, (j - cy) * voxel, (i - cx) * voxel
                along, across = ux * x + uy * y, ux * y - uy * x
                wobble = sincos(x + phases[0])[0] + sincos(y + phases[1])[0] + sincos(z + phases[2])[0]
                d = (along / radii[2]) ** 2 + (across / radii[1]) ** 2 + (z / radii[0]) ** 2
                here = part[k, j, i]
                if d < 1.0 + 0.15 * wobble and here in (WHITE, ARBOR, STEM):
                    part[k, j, i] = LESION


@njit(forceinline=True, **_OPTIONS)
def _ellipsoid(x: float, y: float, z: float, rx: float, ry: float, rz: float) -> float:
    """Signed distance to an ellipsoid, right to first order at its surface."""
    ux, uy, uz = x / rx, y / ry, z / rz
    k0 = np.sqrt(ux * ux + uy * uy + uz * uz)
    vx, vy, vz = ux / rx, uy / ry, uz / rz
    k1 = np.sqrt(vx * vx + vy * vy + vz * vz) + 1e-9
    return float(k0 * (k0 - 1.0) / k1)


@njit(forceinline=True, **_OPTIONS)
def _either(a: float, b: float, width: float) -> float:
    """Smooth minimum: the union of two solids, blended over `width`."""
    h = max(width - abs(a - b), 0.0) / width
    return float(min(a, b) - 0.25 * h * h * width)


@njit(**_OPTIONS)
def _tube(x: float, y: float, z: float, ends: Any) -> float:
    """Signed distance to a chain of cones between spheres (x, y, z, radius)."""
    best = 1e9
    for n in range(len(ends) - 1):
        ax, ay, az = ends[n, 0], ends[n, 1], ends[n, 2]
        ux, uy, uz = ends[n + 1, 0] - ax, ends[n + 1, 1] - ay, ends[n + 1, 2] - az
        t = ((x - ax) * ux + (y - ay) * uy + (z - az) * uz) / (ux * ux + uy * uy + uz * uz)
        t = min(1.0, max(0.0, t))
        dx, dy, dz = x - ax - t * ux, y - ay - t * uy, z - az - t * uz
        best = min(best, np.sqrt(dx * dx + dy * dy + dz * dz) - (1.0 - t) * ends[n, 3] - t * ends[n + 1, 3])
    return float(best)


@njit(**_OPTIONS)
def _field(x: float, y: float, z: float, waves: Any, angles: Any) -> tuple[float, float, float, float]:
    """The band-pass field of unit variance, and its gradient.  ``angles`` is room for sines and cosines, (2, wave)."""
    count = waves.shape[1]
    for n in range(count):  # apart from the sums, whose order counts: so it is SIMD code
        s, c = sincos(waves[0, n] * x + waves[1, n] * y + waves[2, n] * z + waves[3, n])
        angles[0, n], angles[1, n] = s, c
    f, gx, gy, gz = 0.0, 0.0, 0.0, 0.0
    for n in range(count):
        s = angles[0, n]
        f += angles[1, n]
        gx -= waves[0, n] * s
        gy -= waves[1, n] * s
        gz -= waves[2, n] * s
    norm = np.sqrt(2.0 / count)
    return f * norm, gx * norm, gy * norm, gz * norm


@njit(**_OPTIONS)
def _sheet(x: float, y: float, z: float, waves: Any, angles: Any) -> tuple[float, float]:
    """Distance to the nearest sheet where the field vanishes, and the field.

    The field is read at positions whose distance from the centre is pressed together, so that its sheets stand upright
    on the surface of the brain.
    """
    r2 = x * x + y * y + z * z + 900.0
    press = pow(4700.0 / r2, 0.425)
    f, gx, gy, gz = _field(x * press, y * press, z * press, waves, angles)
    radial = 0.85 * (gx * x + gy * y + gz * z) / r2
    gx, gy, gz = gx - radial * x, gy - radial * y, gz - radial * z
    return float(abs(f) / (press * np.sqrt(gx * gx + gy * gy + gz * gz) + 0.02)), f


@njit(**_OPTIONS)
def _cerebrum(x: float, y: float, z: float) -> float:
    """Signed distance to the smooth envelope of the cerebral hemispheres."""
    ax = abs(x)
    dome = _ellipsoid(x, y, z - 6.0, 62.5, 79.0, 58.0)
    floor = -18.0 - z
    dome = -_either(-dome, -floor, 10.0)
    temporal = _ellipsoid(ax - 36.0, y - 2.0, z + 24.0, 21.0, 46.0, 22.0)
    return float(_either(dome, temporal, 8.0))


@njit(**_OPTIONS)
def _cerebellum(x: float, y: float, z: float) -> float:
    lobe = _ellipsoid(abs(x) - 24.0, y + 50.0, z + 39.0, 27.0, 27.0, 20.0)
    vermis = _ellipsoid(x, y + 48.0, z + 36.0, 18.0, 23.0, 21.0)
    return float(_either(lobe, vermis, 8.0))


@njit(**_OPTIONS)
def _cavity(x: float, y: float, z: float) -> float:
    """Signed distance to the inside of the skull."""
    vault = _either(_cerebrum(x, y, z) - 3.5, _cerebellum(x, y, z) - 3.0, 10.0)
    return float(_either(vault, _tube(x, y, z, _BRAINSTEM) - 3.0, 6.0))


@njit(**_OPTIONS)
def _scalp(x: float, y: float, z: float) -> float:
    """Signed distance to the surface of head, face and neck."""
    head = _ellipsoid(x, y, z + 3.0, 79.5, 97.0, 81.0)
    face = _ellipsoid(x, y - 38.0, z + 62.0, 56.0, 62.0, 62.0)
    return float(_either(_either(head, face, 20.0), _tube(x, y, z, _NECK), 20.0))


@njit(**_OPTIONS)
def _outside(scalp: float, cavity: float, z: float, y: float, form: Any, fat: float, bone: float) -> int:
    """What lies outside of the brain's cavity, by the depths below the scalp and above the cavity."""
    base = 1.0 if z > -40.0 else max(0.6, 1.0 + (z + 40.0) / 40.0)
    thick = min(9.0, max(3.0, form.bone * (1.0 + bone))) * base
    if cavity < thick:
        inner = cavity / thick
        return MARROW if 0.28 < inner < 0.70 and thick > 4.5 else SKULL
    if scalp > -2.2:
        return SKIN
    cover = form.scalp * max(0.3, 1.0 + fat) * (1.0 + 0.8 * (z < -20.0))
    return FAT if scalp > -2.2 - cover else MUSCLE


@njit(**_OPTIONS)
def _ventricle(x: float, y: float, z: float, size: float) -> bool:
    ax = abs(x)
    third = ax < 1.5 * size and _ellipsoid(x, y + 4.0, z + 2.0, 9.0, 13.0, 10.0) < 0.0
    fourth = _ellipsoid(x, y + 34.0, z + 34.0, 7.0 * size, 4.0 * size, 9.0) < 0.0
    return bool(third or fourth or _tube(ax / size, y, z, _LATERAL) * size + 3.0 * (1.0 - size) < 0.0)


@njit(**_OPTIONS)
def _nucleus(x: float, y: float, z: float) -> int:
    """Deep grey matter, or nothing."""
    ax = abs(x)
    if _ellipsoid(ax - 10.8, y + 17.0, z - 5.0, 9.3, 16.5, 9.8) < 0.0:
        return THALAMUS
    if _tube(ax, y, z, _CAUDATE) < 0.0:
        return CAUDATE
    lateral = ax - 0.18 * y
    if _ellipsoid(lateral - 19.0, y + 3.0, z - 0.0, 4.6, 10.5, 7.5) < 0.0:
        return PALLIDUM
    if _ellipsoid(lateral - 26.0, y - 1.0, z - 2.0, 5.6, 18.5, 11.5) < 0.0:
        return PUTAMEN
    return NOTHING


@njit(**_OPTIONS)
def _fissure(x: float, y: float, z: float, f: float) -> bool:
    """Between the hemispheres, and the lateral fissure with the insula behind it."""
    ax = abs(x)
    callosum = 25.0 - 15.0 * (y + 3.0) * (y + 3.0) / 1444.0
    apart = z > callosum or y > 37.0 or y < -43.0
    if apart and abs(x - 0.5 * f) < _NARROW:
        return True
    if not -32.0 < y < 34.0:
        return False
    level = -9.0 + 0.22 * (34.0 - y) + 0.8 * f
    if ax > 38.0 and abs(z - level) < _NARROW:
        return True
    return bool(y > -22.0 and abs(ax - 38.5 + 0.004 * y * y) < 0.8 and level - 9.0 < z < level + 15.0)


@njit(**_OPTIONS)
def _hindbrain(x: float, y: float, z: float) -> int:
    """Cerebellum with its folia, and brainstem; or nothing."""
    d = _cerebellum(x, y, z)
    stem = _tube(x, y, z, _BRAINSTEM)
    peduncle = abs(x) < 20.0 and y > -46.0 and d < -3.0 and abs(z + 32.0) < 9.0
    if d < 0.0 and (stem > 0.0 or y < -34.0):
        if peduncle:
            return ARBOR
        # folia: sheets along the surface of a fan that opens to the back
        ripple = sincos((z + 36.0 + 0.25 * abs(x) + 0.35 * (y + 50.0)) * 1.25)[0]
        ribbon = 6.0 + 4.5 * ripple
        if d > -1.6 and ripple > 0.93:
            return CSF
        return FOLIA if -d < max(2.6, ribbon) else ARBOR
    return STEM if stem < 0.0 else NOTHING


@njit(**_OPTIONS)
def _inside(
    x: float, y: float, z: float, cavity: float, form: Any, deep: float, cell: float, angles: Any
) -> tuple[int, bool]:
    """The structure of a voxel inside the skull, and whether it may be cortex."""
    e = _cerebrum(x, y, z)
    behind = _hindbrain(x, y, z)
    if e > 0.0 or (behind == STEM and z < -12.0):
        if behind != NOTHING:
            return behind, False
        sinus = abs(x) < 3.0 and cavity > -5.0 and (z > 20.0 or y < -40.0) and z > -30.0
        return (VESSEL if sinus else CSF), False
    central = _ellipsoid(x, y + 2.0, z - 3.0, 31.0, 36.0, 19.0) < 0.0
    if _ventricle(x, y, z, form.ventricle):
        return VENTRICLE, False
    nucleus = _nucleus(x, y, z) if central else NOTHING
    if nucleus != NOTHING:
        return nucleus, False
    reach = min(26.0, max(8.0, form.reach + deep))
    if -e > reach and abs(x) > 3.0 and not 30.0 < abs(x) < 45.0:
        return WHITE, not central
    s, f = _sheet(x, y, z, form.folds, angles)
    if _fissure(x, y, z, f):
        return CSF, False
    if not central and -e < reach and s < form.gap * (0.4 + 0.6 * (1.0 + e / reach)) + 0.15 * cell:
        v = _sheet(x, y, z, form.veins, angles)[0]
        return (VESSEL if v < 0.7 and -e < 10.0 else CSF), False
    return WHITE, not central or y < -20.0


@njit(**_OPTIONS)
def _weights(t: float, out: Any) -> int:
    """Of a cubic B-spline at t nodes; returns the first of the four nodes."""
    first = int(t)
    a = t - first
    b = 1.0 - a
    out[0], out[3] = b * b * b / 6.0, a * a * a / 6.0
    out[1], out[2] = 2.0 / 3.0 - 0.5 * a * a * (2.0 - a), 2.0 / 3.0 - 0.5 * b * b * (2.0 - b)
    return first


@njit(**_OPTIONS)
def _row(form: Any, tz: float, ty: float, w: Any, v: Any, out: Any) -> None:
    """The smooth fields at the nodes along x, for one row of voxels."""
    z0, y0 = _weights(tz, w), _weights(ty, v)
    for c in range(_CHANNELS):
        for n in range(out.shape[1]):
            total = 0.0
            for i in range(4):
                for j in range(4):
                    total += w[i] * v[j] * form.lattice[c, z0 + i, y0 + j, n]
            out[c, n] = total


@njit(**_OPTIONS)
def _solids(form: Any, voxel: float, out: Any, thick: Any) -> None:
    """Every voxel but the ribbon of the cortex, which is white matter here with its thickness in `thick`."""
    nz, ny, nx = out.shape
    w, v, smooth = np.empty(4), np.empty(4), np.empty(_CHANNELS)
    nodes = np.empty((_CHANNELS, form.lattice.shape[3]))
    turn, shift, scale, angles = form.turn, form.shift, form.scale, np.empty((2, _WAVES))
    for k in range(nz):
        wz = (k + 0.5 - 0.5 * nz) * voxel
        for j in range(ny):
            wy = (j + 0.5 - 0.5 * ny) * voxel
            _row(form, (wz + 0.5 * FIELD_OF_VIEW[0]) / _SPACING, (wy + 0.5 * FIELD_OF_VIEW[1]) / _SPACING, w, v, nodes)
            for i in range(nx):
                wx = (i + 0.5 - 0.5 * nx) * voxel
                first = _weights((wx + 0.5 * FIELD_OF_VIEW[2]) / _SPACING, w)
                for c in range(_CHANNELS):
                    smooth[c] = 0.0
                    for n in range(4):
                        smooth[c] += w[n] * nodes[c, first + n]
                px, py, pz = wx - shift[0], wy - shift[1], wz + _CENTRE[0] - shift[2]
                x = (turn[0, 0] * px + turn[0, 1] * py + turn[0, 2] * pz) / scale[0] + smooth[_WARP]
                y = (turn[1, 0] * px + turn[1, 1] * py + turn[1, 2] * pz) / scale[1] + smooth[_WARP + 1]
                z = (turn[2, 0] * px + turn[2, 1] * py + turn[2, 2] * pz) / scale[2] + smooth[_WARP + 2]
                scalp = _scalp(x, y, z)
                if scalp > 30.0:
                    continue
                cavity = _cavity(x, y, z)
                scalp = _either(scalp, cavity - 12.0, 6.0)  # no brain without bone and skin
                if scalp > 0.0:
                    continue
                if cavity > 0.0:
                    out[k, j, i] = _outside(scalp, cavity, z, y, form, smooth[_SCALP], smooth[_BONE])
                    continue
                label, cortical = _inside(x, y, z, cavity, form, smooth[_DEPTH], voxel, angles)
                out[k, j, i] = label
                if cortical:
                    thick[k, j, i] = min(4.0, max(2.0, form.ribbon + smooth[_THICK]))
