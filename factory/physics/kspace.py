"""From images to what a receiver measures, and back.

Pixel i of n lies (i - n // 2) steps from the centre, and so does sample i of n on a Cartesian grid of k-space.  A
measured sample is the sum over pixels of m(r) exp(-i 2 pi k.r), over the root of the number of pixels: orthonormal
where k covers the pixels' own grid, so that noise is as large in the image as in k-space.  A pixel is a point: what a
voxel does to a signal, an object with finer pixels shows.

Trajectories count `shot` (interleaf, spoke or line) and `readout` (samples of one shot).
"""

from __future__ import annotations

from typing import Annotated, Any, NamedTuple

import numpy as np
from numba import njit
from scipy import fft

from factory.numerics import cos_array, pow_array, sin_array, sincos
from factory.physics import _kspace
from factory.step import step
from factory.units import GAMMA_BAR, Array

_OPTIONS: dict[str, Any] = {"nogil": True, "cache": True, "error_model": "numpy"}
GOLDEN = np.pi * (np.sqrt(5) - 1) / 2
"""Between one spoke and the next, in rad: 111.246 degrees."""


class Image(NamedTuple):
    """What `cartesian_image` and `gridding` return."""

    image: Annotated[Array, "?u", "complex64", "...", "y", "x"]


class Shots(NamedTuple):
    """What `encode` returns."""

    kspace: Annotated[Array, "?u", "complex64", "...", "shot", "readout"]


class Alternating(NamedTuple):
    """What `alternating_phase` returns."""

    measured: Annotated[Array, "?u", "complex64", "...", "shot", "readout"]


# ----------------------------------------------------------------------------------------------------------------------
# Cartesian grids


class Grid(NamedTuple):
    """What `cartesian` returns."""

    kspace: Annotated[Array, "?u", "complex64", "...", "ky", "kx"]


@step(probe={"acceleration": 2, "n_calibration": 2})
def cartesian(
    image: Annotated[Array, "?u", "complex64", "...", "y", "x"],
    *,
    n_ky: Annotated[int, ">=1"],
    n_kx: Annotated[int, ">=1"],
    acceleration: Annotated[int, ">=1"] = 1,
    n_calibration: Annotated[int, ">=0"] = 0,
) -> Grid:
    """The middle n_ky x n_kx samples of the centred, orthonormal Fourier transform; lines along kx may be left out.

    Parameters
    ----------
    image : complex or real, any unit, shape (sample, ..., y, x)
    n_ky, n_kx : int
        At most as many as pixels: fewer give a coarser image.
    acceleration : int
        Each such line is measured, counted from the one through the centre; the others are 0.
    n_calibration : int
        Lines about the centre that are measured in any case.

    Returns
    -------
    kspace : complex64, unit of `image`, shape (sample, ..., ky, kx)
        Sample 0 lies at -(n // 2) over the field of view.

    Raises
    ------
    ValueError
        More samples than pixels.

    Notes
    -----
    Limits: a point in the centre gives the same number everywhere, one beside it a linear phase; with all samples, the
    sum of squares is that of the image.
    """
    if n_ky > image.shape[-2] or n_kx > image.shape[-1]:
        raise ValueError(f"kspace.cartesian: an image of {image.shape[-2]} x {image.shape[-1]} pixels cannot fill "
                         f"{n_ky} x {n_kx} samples; make the image finer or n_ky and n_kx smaller")
    out = np.zeros((*image.shape[:-2], n_ky, n_kx), np.complex64)
    line = np.arange(n_ky) - n_ky // 2
    measured = (line % acceleration == 0) | ((line >= -(n_calibration // 2)) & (line < (n_calibration + 1) // 2))
    y, x = (slice(n // 2 - m // 2, n // 2 - m // 2 + m) for n, m in zip(image.shape[-2:], (n_ky, n_kx), strict=True))
    for one, kspace in zip(image, out, strict=True):  # one by one: a transform of many may order its sums otherwise
        full = fft.fft2(fft.ifftshift(one.astype(np.complex128), (-2, -1)), norm="ortho", workers=1)
        kspace[..., measured, :] = fft.fftshift(full, (-2, -1))[..., y, x][..., measured, :]
    return Grid(out)


@step
def cartesian_image(
    kspace: Annotated[Array, "?u", "complex64", "...", "ky", "kx"],
    *,
    n_y: Annotated[int, ">=1"],
    n_x: Annotated[int, ">=1"],
) -> Image:
    """The adjoint of `cartesian`: zeros around the samples, then the inverse of the orthonormal Fourier transform.

    Parameters
    ----------
    kspace : complex64, any unit, shape (sample, ..., ky, kx)
    n_y, n_x : int
        Pixels, at least as many as samples.

    Returns
    -------
    image : complex64, unit of `kspace`, shape (sample, ..., y, x)
        As bright as the encoded one where it has as many pixels.

    Raises
    ------
    ValueError
        More samples than pixels.

    Notes
    -----
    Limit: all samples give back the image.
    """
    n_ky, n_kx = kspace.shape[-2:]
    if n_ky > n_y or n_kx > n_x:
        raise ValueError(f"kspace.cartesian_image: {n_ky} x {n_kx} samples do not fit into {n_y} x {n_x} pixels; "
                         "make n_y and n_x larger")
    out = np.empty((*kspace.shape[:-2], n_y, n_x), np.complex64)
    y, x = (slice(n // 2 - m // 2, n // 2 - m // 2 + m) for n, m in ((n_y, n_ky), (n_x, n_kx)))
    for one, image in zip(kspace, out, strict=True):
        full = np.zeros((*one.shape[:-2], n_y, n_x), np.complex128)
        full[..., y, x] = one
        image[:] = fft.fftshift(fft.ifft2(fft.ifftshift(full, (-2, -1)), norm="ortho", workers=1), (-2, -1))
    return Image(out)


# ----------------------------------------------------------------------------------------------------------------------
# trajectories


class Trajectory(NamedTuple):
    """Where and when samples are taken, where they were meant to be, and the area of k-space that each stands for."""

    kx: Annotated[Array, "1/m", "shot", "readout"]
    ky: Annotated[Array, "1/m", "shot", "readout"]
    kx_planned: Annotated[Array, "1/m", "shot", "readout"]
    ky_planned: Annotated[Array, "1/m", "shot", "readout"]
    time: Annotated[Array, "s", "shot", "readout"]
    weight: Annotated[Array, "1", "shot", "readout"]


def _alike(delay: Array, kx: Array, ky: Array, planned: tuple[Array, Array], time: Array, weight: Array) -> Trajectory:
    """What does not depend on the delay is one array that all samples see."""
    shape = (len(delay), *planned[0].shape)
    return Trajectory(kx, ky, *(np.broadcast_to(one, shape) for one in (*planned, time, weight)))


class _Arms:
    """Radius and angle of an analytic spiral over time: slow start under the slew rate, then under the gradient."""

    def __init__(self, field_of_view: float, resolution: float, n_shot: int, density: float, acceleration: float,
                 gradient: float, slew: float, dwell: float, **_: Any):
        self.edge, self.density = 0.5 / resolution, density
        self.turn = 2 * np.pi * density * self.edge * field_of_view / (n_shot * acceleration)  # rad of one arm
        self.power, self.climb = 0.5 * density + 1, np.sqrt(GAMMA_BAR * slew / self.edge) / self.turn
        self.glide = (density + 1) * GAMMA_BAR * gradient / (self.edge * self.turn)
        self.change = float(pow_array(min(1.0, GAMMA_BAR * gradient**2 / (slew * self.edge)), 1 / density))
        self.changed = float(pow_array(self.change, self.power)) / (self.power * self.climb)
        self.reached = float(pow_array(self.change, density + 1))
        self.end = self.changed + (1 - self.reached) / self.glide
        self.n_readout = int(self.end / dwell) + 1

    def at(self, time: Array) -> tuple[Array, Array]:
        """(radius in 1/m, angle in rad)."""
        time = np.clip(time, 0.0, self.end)
        early = pow_array(self.power * self.climb * np.minimum(time, self.changed), 1 / self.power)
        late = pow_array(self.reached + self.glide * np.maximum(time - self.changed, 0.0), 1 / (self.density + 1))
        along = np.where(time < self.changed, early, late)
        return self.edge * pow_array(along, self.density), self.turn * along


@step(sizes=lambda n_shot, **constants: {"shot": n_shot, "readout": _Arms(n_shot=n_shot, **constants).n_readout},
      probe={"gradient": 0.01})
def spiral(
    delay: Annotated[Array, "s"],
    *,
    field_of_view: Annotated[float, "m", ">0"],
    resolution: Annotated[float, "m", ">0"],
    n_shot: Annotated[int, ">=1"],
    gradient: Annotated[float, "T/m", ">0"],
    slew: Annotated[float, "T/m/s", ">0"],
    dwell: Annotated[float, "s", ">0"],
    echo_time: Annotated[float, "s", ">=0"],
    density: Annotated[float, "1", ">=1"] = 1.0,
    acceleration: Annotated[float, "1", ">0"] = 1.0,
) -> Trajectory:
    """Interleaved spirals from the centre outwards, k = tau**density exp(i w tau) / (2 resolution), tau from 0 to 1.

    ::

        |k|                      __--`
                        __--``          slew rate first, then amplitude of the gradient at its limit
                  _-``
              .`
        -----+-------------------------> time
             echo_time

    Parameters
    ----------
    delay : array in s, shape (sample,)
        By which gradients come later than planned.
    field_of_view, resolution : float in m
    n_shot : int
        Spirals, turned evenly over 2 pi.
    gradient, slew : float in T/m and T/m/s
        Largest amplitude and slew rate.  Within the first turn the slew rate is exceeded, where a spiral is no circle.
    dwell : float in s
        From sample to sample; a shot holds what fits into its duration.
    echo_time : float in s
        From the excitation to the first sample, which lies in the centre.
    density : float
        1: turns equally far apart (Archimedes); above, they are closer in the centre than at the edge.
    acceleration : float
        Distance of the turns at the edge, in units of 1 / field_of_view.

    Returns
    -------
    kx, ky : float64 in 1/m, shape (sample, shot, readout)
        Where samples are taken, a delay late.
    kx_planned, ky_planned : float64 in 1/m
        Where they would be without delay.
    time : float64 in s
        Since the excitation.
    weight : float64
        Area of k-space of each sample in units of 1 / field_of_view**2.

    Notes
    -----
    Limits: the weights add up to the area of the disc; the gradient reaches its limit and stays there.  Kim 2003,
    doi:10.1002/mrm.10493; weights are the Jacobian of (tau, angle of the arm), Hoge 1997, doi:10.1002/mrm.1910380117.
    """
    arms = _Arms(field_of_view, resolution, n_shot, density, acceleration, gradient, slew, dwell)
    time = dwell * np.arange(arms.n_readout)
    start = (2 * np.pi / n_shot * np.arange(n_shot))[:, None]

    def places(late: Array) -> tuple[Array, Array]:
        radius, angle = arms.at(time - late)
        return radius * cos_array(angle + start), radius * sin_array(angle + start)

    kx, ky = places(np.asarray(delay, np.float64)[:, None, None])
    inner, outer = (arms.at(time + half)[0] for half in (-0.5 * dwell, 0.5 * dwell))
    weight = np.pi / n_shot * field_of_view**2 * (outer * outer - inner * inner)
    return _alike(delay, kx, ky, places(np.zeros((1, 1))), echo_time + time, weight)


@step
def radial(
    delay: Annotated[Array, "s"],
    *,
    field_of_view: Annotated[float, "m", ">0"],
    resolution: Annotated[float, "m", ">0"],
    n_shot: Annotated[int, ">=1"],
    n_readout: Annotated[int, ">=2"],
    dwell: Annotated[float, "s", ">0"],
    echo_time: Annotated[float, "s", ">=0"],
) -> Trajectory:
    """Spokes through the centre, each turned by the golden angle against the one before.

    Parameters
    ----------
    delay : array in s, shape (sample,)
        By which gradients come later than planned: samples move along their spoke.
    field_of_view, resolution : float in m
    n_shot, n_readout : int
        Spokes and samples of each; field_of_view / resolution samples or more do not alias along a spoke.
    dwell : float in s
        From sample to sample.
    echo_time : float in s
        From the excitation to the sample in the centre, n_readout // 2.

    Returns
    -------
    kx, ky, kx_planned, ky_planned, time, weight
        As of `spiral`.

    Notes
    -----
    Limits: weights are a ramp times the angle to the neighbouring spokes, 1/6 of the first step in the centre (Euler's
    and Maclaurin's correction of a sum at the tip of the ramp), and add up to the area of the disc; field_of_view /
    resolution * pi / 2 spokes are as dense at the edge as a Cartesian grid.  Winkelmann 2007,
    doi:10.1109/TMI.2006.885337.
    """
    spacing = 1 / (resolution * n_readout)
    place = np.arange(n_readout) - n_readout // 2
    angle = (GOLDEN * np.arange(n_shot))[:, None]
    cosine, sine = cos_array(angle), sin_array(angle)
    shifted = spacing * (place - np.asarray(delay, np.float64)[:, None, None] / dwell)
    order = np.argsort(angle[:, 0] % np.pi)
    gap = np.diff(angle[order, 0] % np.pi, append=angle[order[0], 0] % np.pi + np.pi)
    share = np.empty((n_shot, 1))
    share[order, 0] = 0.5 * (gap + np.roll(gap, 1))
    area = np.where(place == 0, 1 / 6, np.abs(place)) * (spacing * field_of_view) ** 2
    planned = (spacing * place * cosine, spacing * place * sine)
    return _alike(delay, shifted * cosine, shifted * sine, planned, echo_time + dwell * place, area * share)


@step
def epi(
    delay: Annotated[Array, "s"],
    *,
    field_of_view: Annotated[float, "m", ">0"],
    resolution: Annotated[float, "m", ">0"],
    n_shot: Annotated[int, ">=1"],
    n_readout: Annotated[int, ">=2"],
    dwell: Annotated[float, "s", ">0"],
    ramp: Annotated[float, "s", ">=0"],
    echo_time: Annotated[float, "s", ">=0"],
) -> Trajectory:
    """Echo-planar lines of one excitation, every other one from right to left, sampled on the ramps as well.

    ::

        Gx   ____          ____
            /    \\        /    \\
        ---+------\\------/------\\------> time      ky one step up wherever Gx changes its sign
           |       \\____/
           line 0   line 1  line 2               each n_readout dwell long

    Parameters
    ----------
    delay : array in s, shape (sample,)
        By which the readout gradient comes later than planned: lines move to opposite sides, which makes a ghost.
    field_of_view, resolution : float in m
        Resolution along x; along y it is field_of_view / n_shot.
    n_shot, n_readout : int
        Lines, and samples of each.
    dwell : float in s
        From sample to sample.
    ramp : float in s
        Of the readout gradient, at most half a line; samples are closer in k-space there.
    echo_time : float in s
        From the excitation to the middle of the line through the centre, n_shot // 2.

    Returns
    -------
    kx, ky, kx_planned, ky_planned, time, weight
        As of `spiral`; lines from negative to positive ky, samples in the order in which they are taken.

    Raises
    ------
    ValueError
        A ramp longer than half a line.

    Notes
    -----
    Limits: without delay and ramp, and with resolution = field_of_view / n_readout, the samples are those of
    `cartesian`, every other line reversed.  A frequency f moves the image by f n_shot n_readout dwell pixels towards
    positive y (Jezzard 1995, doi:10.1002/mrm.1910340111).  A delay d makes the phase of line m (-1)**m 2 pi x d dk/dt
    and so a ghost half a field of view away (Buonocore 1997, doi:10.1002/mrm.1910380114).
    """
    length = n_readout * dwell
    if 2 * ramp > length * (1 + 1e-12):
        raise ValueError(f"kspace.epi: two ramps of {ramp:g} s are longer than a line of {n_readout} samples of "
                         f"{dwell:g} s; make ramp shorter")
    within, line = dwell * (np.arange(n_readout) + 0.5), np.arange(n_shot)[:, None]

    def swept(time: Array) -> Array:
        """Part of a line that is behind the gradient at a time of it."""
        rising = 0.5 / max(ramp, 1e-30)
        time, rest = np.clip(time, 0.0, length), np.clip(length - time, 0.0, length)
        flat = np.where(time < ramp, rising * time * time, time - 0.5 * ramp) / (length - ramp)
        return np.where(rest < ramp, 1 - rising * rest * rest / (length - ramp), flat)

    def places(late: Array) -> Array:
        time = line * length + within - late
        passed = np.clip(np.floor(time / length), 0, n_shot - 1)
        part = swept(time - passed * length)
        return (np.where(passed % 2 == 0, part, 1 - part) - 0.5 - 0.5 / n_readout) / resolution

    shape = (len(delay), n_shot, n_readout)
    ky = (line - n_shot // 2) / field_of_view + np.zeros(n_readout)
    weight = (swept(within + 0.5 * dwell) - swept(within - 0.5 * dwell)) * field_of_view / resolution
    time = echo_time + (line - n_shot // 2) * length + within - 0.5 * length
    late = places(np.asarray(delay, np.float64)[:, None, None])
    return _alike(delay, late, np.broadcast_to(ky, shape), (places(np.zeros((1, 1))), ky), time, weight)


# ----------------------------------------------------------------------------------------------------------------------
# along a trajectory


class Field(NamedTuple):
    """What `shim_error` returns."""

    off_resonance: Annotated[Array, "Hz", "float32", "y", "x"]


@step
def shim_error(
    offset: Annotated[Array, "Hz"],
    gradient_y: Annotated[Array, "T/m"],
    gradient_x: Annotated[Array, "T/m"],
    *,
    field_of_view: Annotated[float, "m", ">0"],
    n_y: Annotated[int, ">=1"],
    n_x: Annotated[int, ">=1"],
) -> Field:
    """Off-resonance of a shim that left an offset and a linear field: offset + gamma-bar (G_y y + G_x x).

    Parameters
    ----------
    offset : array in Hz, shape (sample,)
    gradient_y, gradient_x : array in T/m, shape (sample,)
    field_of_view : float in m
    n_y, n_x : int
        Pixels.

    Returns
    -------
    off_resonance : float32 in Hz, shape (sample, y, x)

    Notes
    -----
    Limit: no gradient gives the offset everywhere, which the pixel in the centre always has.
    """
    y, x = (field_of_view / n * (np.arange(n) - n // 2) for n in (n_y, n_x))
    slope_y, slope_x = (GAMMA_BAR * np.asarray(g, np.float64)[:, None, None] for g in (gradient_y, gradient_x))
    return Field((np.asarray(offset)[:, None, None] + slope_y * y[:, None] + slope_x * x).astype(np.float32))


@step
def encode(
    image: Annotated[Array, "?u", "complex64", "...", "y", "x"],
    kx: Annotated[Array, "1/m", "shot", "readout"],
    ky: Annotated[Array, "1/m", "shot", "readout"],
    time: Annotated[Array, "s", "shot", "readout"],
    off_resonance: Annotated[Array, "Hz", "y", "x"],
    *,
    field_of_view: Annotated[float, "m", ">0"],
) -> Shots:
    """Samples along a trajectory: the sum over pixels of image exp(-i 2 pi (k.r + f t)), over the root of their number.

    Parameters
    ----------
    image : complex or real, any unit, shape (sample, ..., y, x)
        At time 0.
    kx, ky : array in 1/m, shape (sample, shot, readout)
        At most half a cycle per pixel: further out k-space repeats itself, as that of points does.
    time : array in s, shape (sample, shot, readout)
    off_resonance : array in Hz, shape (sample, y, x)
    field_of_view : float in m
        Of the image, along y and along x.

    Returns
    -------
    kspace : complex64, unit of `image`, shape (sample, ..., shot, readout)

    Notes
    -----
    Limit: k on the grid of the pixels and no off-resonance give `cartesian`.  To 1e-6 of the largest sample
    (`factory.physics._kspace`).
    """
    n_y, n_x = image.shape[-2:]
    frames, shape = image.reshape(len(image), -1, n_y, n_x), kx.shape[1:]
    out = np.empty((*frames.shape[:2], kx[0].size), np.complex64)
    held = _Held(field_of_view, (n_y, n_x))
    for i, one in enumerate(frames):
        plan = held.plan(ky[i], kx[i])
        field = np.ascontiguousarray(off_resonance[i], np.float64)
        out[i] = _kspace.dephased(plan, one.astype(np.complex128), np.array(time[i], np.float64).reshape(-1), field)
    return Shots(out.reshape(*image.shape[:-2], *shape))


@step
def gridding(
    kspace: Annotated[Array, "?u", "complex64", "...", "shot", "readout"],
    kx: Annotated[Array, "1/m", "shot", "readout"],
    ky: Annotated[Array, "1/m", "shot", "readout"],
    weight: Annotated[Array, "1", "shot", "readout"],
    *,
    field_of_view: Annotated[float, "m", ">0"],
    n_y: Annotated[int, ">=1"],
    n_x: Annotated[int, ">=1"],
) -> Image:
    """An image from samples along a trajectory: the sum of weight kspace exp(i 2 pi k.r), over the root of the pixels.

    Parameters
    ----------
    kspace : complex64, any unit, shape (sample, ..., shot, readout)
    kx, ky : array in 1/m, shape (sample, shot, readout)
        Usually `kx_planned` and `ky_planned`.
    weight : array, shape (sample, shot, readout)
        Area of each sample in units of 1 / field_of_view**2; 1 everywhere makes this the adjoint of `encode`.
    field_of_view : float in m
        Of the image, along y and along x.
    n_y, n_x : int
        Pixels.

    Returns
    -------
    image : complex64, unit of `kspace`, shape (sample, ..., y, x)
        As bright as the encoded one where it has as many pixels.

    Notes
    -----
    Limit: on a Cartesian grid with weights of 1 it is `cartesian_image`.
    """
    samples = kspace.reshape(len(kspace), -1, kx[0].size)
    out = np.empty((*samples.shape[:2], n_y, n_x), np.complex64)
    held = _Held(field_of_view, (n_y, n_x))
    for i, frames in enumerate(samples):
        plan = held.plan(ky[i], kx[i])
        area = np.array(weight[i], np.float64).reshape(-1)
        for values, image in zip(frames, out[i], strict=True):
            image[:] = _kspace.adjoint(plan, values, area)
    return Image(out.reshape(*kspace.shape[:-2], n_y, n_x))


class _Held:
    """The plan of the last trajectory: samples mostly share one."""

    def __init__(self, field_of_view: float, size: tuple[int, int]):
        self.edge, self.size = (field_of_view / size[0], field_of_view / size[1]), size
        self.last: tuple[Array, Array, _kspace.Plan] | None = None

    def plan(self, ky: Array, kx: Array) -> _kspace.Plan:
        if self.last is None or not (np.array_equal(self.last[0], ky) and np.array_equal(self.last[1], kx)):
            made = _kspace.plan((ky * self.edge[0]).reshape(-1), (kx * self.edge[1]).reshape(-1), self.size)
            self.last = ky, kx, made
        return self.last[2]


@step
def alternating_phase(
    kspace: Annotated[Array, "?u", "complex64", "...", "shot", "readout"], phase: Annotated[Array, "rad"]
) -> Alternating:
    """A phase between the lines of one direction and those of the other, as eddy currents leave it in an EPI.

    Parameters
    ----------
    kspace : complex64, any unit, shape (sample, ..., shot, readout)
    phase : array in rad, shape (sample,)
        Of lines 1, 3, 5 ... against lines 0, 2, 4 ...; half of it is taken from these and half added to those.

    Returns
    -------
    measured : complex64, unit and shape of `kspace`

    Notes
    -----
    Limit: the image times cos(phase / 2) and, half a field of view away, a ghost times sin(phase / 2).  Buonocore 1997,
    doi:10.1002/mrm.1910380114.
    """
    out = np.empty(kspace.shape, np.complex64)
    lines = np.ascontiguousarray(kspace, np.complex64).reshape(len(kspace), -1, *kspace.shape[-2:])
    _alternate(lines, np.array(phase, np.float64), out.reshape(lines.shape))
    return Alternating(out)


@njit(**_OPTIONS)
def _alternate(kspace: Any, phase: Any, out: Any) -> None:
    for i in range(out.shape[0]):
        s, c = sincos(0.5 * phase[i])
        for frame in range(out.shape[1]):
            for line in range(out.shape[2]):
                turn = complex(c, -s if line % 2 == 0 else s)
                for n in range(out.shape[3]):
                    out[i, frame, line, n] = kspace[i, frame, line, n] * turn
