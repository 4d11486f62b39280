"""Receive coils: what they are sensitive to, what they see, and one image from all of theirs.

Reciprocity (Hoult 2000, doi:10.1002/1099-0534(2000)12:4<173::AID-CMR1>3.0.CO;2-Q): where a current I in a coil makes
the field B I, magnetisation M induces -d/dt of the sum over B.M in it.  In the house's sign Mx + i My turns clockwise,
Mxy exp(-i w t), so B.M is the real part of (Bx - i By) Mxy exp(-i w t): a coil receives with Bx - i By (B1-), while it
transmits with (Bx + i By) / 2, the part of its field that turns as the spins do.  The constant i w is left out.
"""

from __future__ import annotations

from typing import Annotated, Any, NamedTuple

import numpy as np
from numba import njit

from factory.numerics import inlined, sincos
from factory.physics import rows
from factory.step import step
from factory.units import Array

_OPTIONS: dict[str, Any] = {"nogil": True, "cache": True, "error_model": "numpy"}
_MEANS = 7  # of Gauss: enough to the last digit for places down to 1e-4 of the loop's size away from the wire


class Sensitivities(NamedTuple):
    """What `loops` returns."""

    sensitivity: Annotated[Array, "1", "complex64", "coil", "y", "x"]
    coil: Annotated[Array, "1", "int64", "coil"]


class Seen(NamedTuple):
    """What `receive` returns."""

    coil_images: Annotated[Array, "?u", "complex64", "coil", "...", "y", "x"]


class Combined(NamedTuple):
    """What `combine` returns."""

    image: Annotated[Array, "?u", "complex64", "...", "y", "x"]


class Magnitude(NamedTuple):
    """What `root_sum_of_squares` returns."""

    magnitude: Annotated[Array, "?u", "float32", "...", "y", "x"]


# ----------------------------------------------------------------------------------------------------------------------
# sensitivities


@step(coordinates=lambda n_coil, **_: {"coil": np.arange(n_coil)})
def loops(
    ring_radius: Annotated[Array, "m"],
    loop_radius: Annotated[Array, "m"],
    rotation: Annotated[Array, "rad"],
    height: Annotated[Array, "m"],
    *,
    n_coil: Annotated[int, ">=1"],
    field_of_view: Annotated[float, "m", ">0"],
    n_y: Annotated[int, ">=1"],
    n_x: Annotated[int, ">=1"],
) -> Sensitivities:
    """Receive sensitivities B1- of equal circular loops that stand evenly on a ring around the slice and face its axis.

    ::

              y|                       z|
              (1)                   |   |   |
            .-   -.              ...|...|...|... slice at height
        (2)    +    (0)--x          |   +---|--- x
            '-   -'                 |       |
              (3)                 loop     loop

    Parameters
    ----------
    ring_radius, loop_radius : array in m, shape (sample,), > 0
        From the ring's centre, which is that of the image, to the centres of the loops; of each loop.
    rotation : array in rad, shape (sample,)
        Angle of coil 0, from x towards y; coil c lies 2 pi c / n_coil further on.
    height : array in m, shape (sample,)
        Of the slice above the plane of the ring.
    n_coil : int
    field_of_view : float in m
        Of the image, along y and along x.
    n_y, n_x : int
        Pixels.

    Returns
    -------
    sensitivity : complex64, shape (sample, coil, y, x)
        (Bx - i By) over that of all coils (root of the sum of squares) at the ring's centre, height 0.  B0 is along z,
        and a current runs counter-clockwise as seen from outside.
    coil : int64, shape (coil,)

    Raises
    ------
    ValueError
        A radius that is not positive.

    Notes
    -----
    Law of Biot and Savart in closed form (Simpson 2001, NASA/TM-2013-217919), with the elliptic integrals by the mean
    of Gauss and rearranged so that nothing cancels on the axis; to 1e-12 before it is stored.  Limits: on its axis a
    loop has mu0 I a**2 / (2 (a**2 + z**2)**1.5); in the centre coil c has exp(-i angle) / sqrt(n_coil).  A wire is a
    pixel thick.  The field is that of air: wavelengths much longer than the ring, loops that do not couple.
    """
    ring, loop = np.array(ring_radius, np.float64), np.array(loop_radius, np.float64)
    for name, radius in (("ring_radius", ring), ("loop_radius", loop)):
        if not np.all(radius > 0.0):
            raise ValueError(f"coil.loops: {name} must be > 0, but one sample has {radius.min():g} m; bound its draw")
    y, x = (field_of_view / n * (np.arange(n) - n // 2) for n in (n_y, n_x))
    out = np.empty((len(ring), n_coil, n_y, n_x), np.complex64)
    wire = 0.5 * field_of_view / min(n_y, n_x)
    _loops(ring, loop, np.array(rotation, np.float64), np.array(height, np.float64), y, x, wire, out)
    return Sensitivities(out, np.arange(n_coil))


@inlined
def circular(along: float, away: float, loop: float, wire: float) -> tuple[float, float]:
    """Field of a loop over mu0 I / 4: along its axis, and away from it over the distance.

    Parameters
    ----------
    along, away : float in m
        Distance from the loop's plane, signed, and from its axis.
    loop, wire : float in m
        Radii of the loop and of its wire, within which the field falls linearly.

    Notes
    -----
    With the distances n and f from the near and the far point of the wire, K(k) = pi / (2 M(1, n / f)), k**2 = 4 loop
    away / f**2 = 2 q, and E = K (1 - q - q**2 t): t is a sum of positive terms, in which nothing cancels.
    """
    square = along * along + away * away
    near = max((loop - away) * (loop - away) + along * along, wire * wire)
    far = near + 4.0 * loop * away
    n, f = np.sqrt(near), np.sqrt(far)
    q = 2.0 * loop * away / far
    mean, root, weight, t = 1.0, n / f, 1.0, 0.0
    part = 1.0 / (1.0 + root)  # (mean - root) / 2 of each round, over q
    for _ in range(_MEANS):
        mean, root = 0.5 * (mean + root), np.sqrt(mean * root)
        t += weight * part * part
        part = q * part * part / (2.0 * (mean + root))
        weight *= 2.0
    less = q + q * q * t
    factor = 1.0 / (mean * near * f)
    axial = factor * ((loop * loop - square) * (1.0 - less) + near)
    return axial, factor * 4.0 * along * loop * loop / far * (1.0 - t * (1.0 - q))


@njit(**_OPTIONS)
def _loops(ring: Any, loop: Any, rotation: Any, height: Any, y: Any, x: Any, wire: float, out: Any) -> None:
    for i in range(out.shape[0]):
        a, h = loop[i], height[i]
        reach = a * a + ring[i] * ring[i]
        scale = reach * np.sqrt(reach) / (2.0 * a * a * np.sqrt(np.float64(out.shape[1])))  # to 1 in the centre
        for c in range(out.shape[1]):
            sine, cosine = sincos(rotation[i] + 2.0 * np.pi * c / out.shape[1])
            for j in range(y.size):
                row, v = out[i, c, j], y[j]
                for k in range(x.size):
                    along, side = x[k] * cosine + v * sine - ring[i], v * cosine - x[k] * sine
                    axial, radial = circular(along, np.sqrt(side * side + h * h), a, wire)
                    p, q = scale * axial, -scale * radial * side  # (p + i q) exp(-i angle) is Bx - i By
                    row[k] = complex(p * cosine + q * sine, q * cosine - p * sine)


# ----------------------------------------------------------------------------------------------------------------------
# images


@step
def receive(
    image: Annotated[Array, "?u", "complex64", "...", "y", "x"],
    sensitivity: Annotated[Array, "1", "complex64", "coil", "y", "x"],
) -> Seen:
    """The image that each coil sees: image times sensitivity.

    Parameters
    ----------
    image : complex or real, any unit, shape (sample, ..., y, x)
    sensitivity : complex64, shape (sample, coil, y, x)

    Returns
    -------
    coil_images : complex64, unit of `image`, shape (sample, coil, ..., y, x)

    Notes
    -----
    Limit: a sensitivity of 1 gives the image.
    """
    seen, move, pixels = _by_coil(sensitivity)
    frames = np.ascontiguousarray(image, np.complex64).reshape(len(image), -1, pixels)
    out = np.empty((len(image), seen.shape[1], *image.shape[1:]), np.complex64)
    _receive(frames, seen, move, out.reshape(*out.shape[:2], *frames.shape[1:]))
    return Seen(out)


@step
def combine(
    coil_images: Annotated[Array, "?u", "complex64", "coil", "...", "y", "x"],
    sensitivity: Annotated[Array, "1", "complex64", "coil", "y", "x"],
) -> Combined:
    """One image from those of all coils, weighted for the least noise: sum conj(S) image / sum |S|**2.

    Parameters
    ----------
    coil_images : complex64, any unit, shape (sample, coil, ..., y, x)
        Coils have the same noise and do not share it.
    sensitivity : complex64, shape (sample, coil, y, x)

    Returns
    -------
    image : complex64, unit of `coil_images`, shape (sample, ..., y, x)
        0 where no coil sees anything.

    Notes
    -----
    Least squares.  Limits: images that are sensitivity times object give the object; noise of sigma in each coil
    becomes sigma / sqrt(sum |S|**2).  Roemer 1990, doi:10.1002/mrm.1910160203.
    """
    seen, move, pixels = _by_coil(sensitivity)
    images = np.ascontiguousarray(coil_images, np.complex64).reshape(*coil_images.shape[:2], -1, pixels)
    out = np.empty((len(coil_images), *coil_images.shape[2:]), np.complex64)
    _combine(images, seen, move, out.reshape(len(out), *images.shape[2:]))
    return Combined(out)


@step
def root_sum_of_squares(coil_images: Annotated[Array, "?u", "complex64", "coil", "...", "y", "x"]) -> Magnitude:
    """The magnitude of all coils together, without their sensitivities: sqrt(sum |image|**2).

    Parameters
    ----------
    coil_images : complex64, any unit, shape (sample, coil, ..., y, x)

    Returns
    -------
    magnitude : float32, unit of `coil_images`, shape (sample, ..., y, x)

    Notes
    -----
    Limits: one coil gives its magnitude; noise of sigma alone has the mean square 2 n sigma**2 for n coils.  Roemer
    1990, doi:10.1002/mrm.1910160203.
    """
    images = np.ascontiguousarray(coil_images, np.complex64).reshape(*coil_images.shape[:2], -1)
    out = np.empty((len(coil_images), *coil_images.shape[2:]), np.float32)
    _root_sum_of_squares(images, out.reshape(len(out), -1))
    return Magnitude(out)


def _by_coil(sensitivity: Array) -> tuple[Array, int, int]:
    """Sensitivities (sample or 1, coil, pixel), how many rows to move from sample to sample, and the pixels."""
    table, move = rows(sensitivity)
    pixels = sensitivity.shape[-2] * sensitivity.shape[-1]
    return table.reshape(len(table), sensitivity.shape[1], pixels), move, pixels


@njit(**_OPTIONS)
def _receive(image: Any, sensitivity: Any, move: int, out: Any) -> None:
    for i in range(out.shape[0]):
        for c in range(out.shape[1]):
            seen = sensitivity[i * move, c]
            for frame in range(out.shape[2]):
                for v in range(out.shape[3]):
                    out[i, c, frame, v] = np.complex128(image[i, frame, v]) * np.complex128(seen[v])


@njit(**_OPTIONS)
def _combine(images: Any, sensitivity: Any, move: int, out: Any) -> None:
    for i in range(out.shape[0]):
        seen = sensitivity[i * move]
        for frame in range(out.shape[1]):
            for v in range(out.shape[2]):
                total, power = 0j, 0.0
                for c in range(images.shape[1]):
                    s = np.complex128(seen[c, v])
                    total += s.conjugate() * np.complex128(images[i, c, frame, v])
                    power += s.real * s.real + s.imag * s.imag
                inverse = 1.0 / power if power > 0.0 else 0.0
                out[i, frame, v] = complex(total.real * inverse, total.imag * inverse)


@njit(**_OPTIONS)
def _root_sum_of_squares(images: Any, out: Any) -> None:
    for i in range(out.shape[0]):
        for v in range(out.shape[1]):
            power = 0.0
            for c in range(images.shape[1]):
                re, im = np.float64(images[i, c, v].real), np.float64(images[i, c, v].imag)
                power += re * re + im * im
            out[i, v] = np.sqrt(power)
