"""Fourier sums over pixels at any place of k-space, forward and adjoint, and their change under off-resonance.

Non-uniform fast Fourier transform with the "exponential of semicircle" kernel on a grid that is twice as fine: Barnett
2019, doi:10.1137/18M120885X.  Ours and not a library's, because a sample's bytes may not depend on the processor, by
which the FFT inside the usual one chooses its code.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit
from scipy import fft

from factory.numerics import cos_array, exp, exp_array, sin_array, sincos
from factory.units import Array

_OPTIONS: dict[str, Any] = {"nogil": True, "cache": True, "error_model": "numpy"}
WIDTH = 8  # cells of the fine grid that a sample reads along each axis: errors near 1e-7 of the largest sample
_SHAPE = 2.3 * WIDTH  # of the kernel, for a grid twice as fine
_SEGMENTS_TO = 1e-7  # what the interpolation between segments may leave out, of the image's sum


class Plan(NamedTuple):
    """What the places of the samples alone decide; ``point`` counts samples of k-space."""

    size: tuple[int, int]  # pixels along y and x
    fine: tuple[int, int]  # cells
    scale: tuple[Array, Array]  # of pixels along y and x: undoes what the kernel does to an image
    first: Array  # int64, (2, point): first cell along y and x
    weight_y: Array  # (point, WIDTH)
    weight_x: Array  # (point, 2 WIDTH): each number twice, for the real and the imaginary part


def plan(ky: Array, kx: Array, size: tuple[int, int]) -> Plan:
    """Places of the samples, in cycles per pixel, shape (point,); periodic with a period of 1."""
    rows, columns = (fft.next_fast_len(max(2 * n, 2 * WIDTH)) for n in size)
    fine = (rows, columns)
    first = np.empty((2, ky.size), np.int64)
    weights = np.empty((2, ky.size, WIDTH))
    for axis, k in enumerate((ky, kx)):
        _weights(np.ascontiguousarray(k, np.float64), fine[axis], first[axis], weights[axis])
    scale = (_undone(size[0], fine[0]), _undone(size[1], fine[1]))
    return Plan(size, fine, scale, first, weights[0], np.repeat(weights[1], 2, axis=1))


def forward(p: Plan, image: Array) -> Array:
    """sum over pixels of image exp(-i 2 pi k.r) / sqrt(pixels); image (y, x) complex128, result (point,) complex128."""
    grid = np.zeros(p.fine, np.complex128)
    _place(image, *p.scale, grid)
    grid = fft.fft2(grid, overwrite_x=True, workers=1)
    rim = np.empty((p.fine[0] + WIDTH, p.fine[1] + WIDTH), np.complex128)  # the first cells once more, behind the last
    rim[: p.fine[0], : p.fine[1]] = grid
    rim[p.fine[0] :, : p.fine[1]] = grid[:WIDTH]
    rim[:, p.fine[1] :] = rim[:, :WIDTH]
    out = np.empty(p.first.shape[1], np.complex128)
    _read(rim.view(np.float64), p.first, p.weight_y, p.weight_x, np.empty(2 * WIDTH), out.view(np.float64))
    return out


def adjoint(p: Plan, samples: Array, weight: Array) -> Array:
    """sum of weight samples exp(+i 2 pi k.r) / sqrt(pixels); with weights of 1 the adjoint of `forward`."""
    rim = np.zeros((p.fine[0] + WIDTH, p.fine[1] + WIDTH), np.complex128)
    values = samples.astype(np.complex128).view(np.float64) * np.repeat(weight, 2)
    _spread(values, p.first, p.weight_y, p.weight_x, np.empty(2 * WIDTH), rim.view(np.float64))
    rim[:, :WIDTH] += rim[:, p.fine[1] :]
    rim[:WIDTH] += rim[p.fine[0] :]
    grid = fft.ifft2(rim[: p.fine[0], : p.fine[1]], norm="forward", workers=1)
    out = np.empty(p.size, np.complex128)
    _cut(grid, *p.scale, out)
    return out


def _undone(n: int, fine: int) -> Array:
    """1 / (Fourier transform of the kernel, sqrt(n)) at the pixels of one axis, by the midpoint rule."""
    z = (np.arange(400) + 0.5) / 200 - 1
    kernel = exp_array(_SHAPE * (np.sqrt(1 - z * z) - 1))
    turns = np.pi * WIDTH * (np.arange(n) - n // 2)[:, None] * z / fine
    image: Array = WIDTH / 400 * np.sqrt(n) * (kernel * cos_array(turns)).sum(axis=1)
    return 1 / image


@njit(**_OPTIONS)
def _place(image: Any, scale_y: Any, scale_x: Any, grid: Any) -> None:
    """The pixel in the centre comes first; those before it are wrapped to the end."""
    rows, columns = image.shape
    for y in range(rows):
        row = grid[y - rows // 2]
        for x in range(columns):
            row[x - columns // 2] = image[y, x] * (scale_y[y] * scale_x[x])


@njit(**_OPTIONS)
def _cut(grid: Any, scale_y: Any, scale_x: Any, image: Any) -> None:
    """The adjoint of `_place`."""
    rows, columns = image.shape
    for y in range(rows):
        row = grid[y - rows // 2]
        for x in range(columns):
            image[y, x] = row[x - columns // 2] * (scale_y[y] * scale_x[x])


@njit(**_OPTIONS)
def _weights(k: Any, fine: int, first: Any, weight: Any) -> None:
    """First of the cells that each sample reads, wrapped, and the kernel at all of them."""
    for n in range(k.size):
        place = (k[n] - np.floor(k[n])) * fine
        begin = np.ceil(place - 0.5 * WIDTH)
        first[n] = (np.int64(begin) + fine) % fine
        for j in range(WIDTH):
            z = (place - begin - j) * (2.0 / WIDTH)
            weight[n, j] = exp(_SHAPE * (np.sqrt(max(0.0, 1.0 - z * z)) - 1.0))


@njit(**_OPTIONS)
def _read(rim: Any, first: Any, weight_y: Any, weight_x: Any, held: Any, out: Any) -> None:
    for n in range(first.shape[1]):
        y, x = first[0, n], 2 * first[1, n]
        held[:] = 0.0
        for j in range(WIDTH):
            row, w = rim[y + j, x : x + 2 * WIDTH], weight_y[n, j]
            for i in range(2 * WIDTH):
                held[i] += w * row[i]
        real, imaginary, w_x = 0.0, 0.0, weight_x[n]
        for i in range(WIDTH):
            real += w_x[2 * i] * held[2 * i]
            imaginary += w_x[2 * i] * held[2 * i + 1]
        out[2 * n], out[2 * n + 1] = real, imaginary


@njit(**_OPTIONS)
def _spread(values: Any, first: Any, weight_y: Any, weight_x: Any, held: Any, rim: Any) -> None:
    for n in range(first.shape[1]):
        y, x, w_x = first[0, n], 2 * first[1, n], weight_x[n]
        for i in range(WIDTH):
            held[2 * i], held[2 * i + 1] = w_x[2 * i] * values[2 * n], w_x[2 * i] * values[2 * n + 1]
        for j in range(WIDTH):
            row, w = rim[y + j, x : x + 2 * WIDTH], weight_y[n, j]
            for i in range(2 * WIDTH):
                row[i] += w * held[i]


# ----------------------------------------------------------------------------------------------------------------------
# off-resonance


def dephased(p: Plan, images: Array, time: Array, field: Array) -> Array:
    """`forward` of image exp(-i 2 pi field time), time being that of the sample.

    The exponential is interpolated in time between Chebyshev nodes (time segmentation: Noll 1991,
    doi:10.1109/42.108599; Sutton 2003, doi:10.1109/TMI.2002.808360); there are as many as its largest angle needs for
    1e-7.

    Parameters
    ----------
    images : complex128, shape (frame, y, x)
    time : float64 in s, shape (point,)
    field : float64 in Hz, shape (y, x)

    Returns
    -------
    samples : complex128, shape (frame, point)
    """
    low, high, begin, end = field.min(), field.max(), time.min(), time.max()
    centre, rest = 0.5 * (low + high), np.ascontiguousarray(field - 0.5 * (low + high), np.float64)
    parts = _parts(0.5 * np.pi * (high - low) * (end - begin))
    angle = np.pi * (np.arange(parts) + 0.5) / parts
    nodes = 0.5 * (begin + end) + 0.5 * (end - begin) * cos_array(angle)
    share = np.empty((parts, time.size))
    _shares(time, nodes, sin_array(angle) * (-1.0) ** np.arange(parts), share)
    out = np.zeros((len(images), time.size), np.complex128)
    turned = np.empty(images.shape[1:], np.complex128)
    for node, part in zip(nodes.tolist(), share, strict=True):
        for image, sum_ in zip(images, out, strict=True):
            _turn(image.reshape(-1), rest.reshape(-1), node, turned.reshape(-1))
            _add(part, forward(p, turned), sum_)
    for sum_ in out:
        _turn(sum_, time, centre, sum_)
    return out


def _parts(angle: float) -> int:
    """Chebyshev nodes for exp(i angle z), |z| <= 1: until 2 (angle / 2)**n / n!, which bounds the rest, is small."""
    bound, n = 2.0, 0
    while n == 0 or bound > _SEGMENTS_TO:
        n += 1
        bound *= 0.5 * angle / n
    return n


@njit(**_OPTIONS)
def _shares(time: Any, nodes: Any, sign: Any, share: Any) -> None:
    """Lagrange polynomials of the nodes at each time, by the barycentric formula."""
    for n in range(time.size):
        total, hit = 0.0, -1
        for j in range(nodes.size):
            distance = time[n] - nodes[j]
            if distance == 0.0:
                hit = j
                distance = 1.0
            share[j, n] = sign[j] / distance
            total += share[j, n]
        for j in range(nodes.size):
            share[j, n] = share[j, n] / total if hit < 0 else np.float64(j == hit)


@njit(**_OPTIONS)
def _add(share: Any, values: Any, out: Any) -> None:
    for n in range(out.size):
        out[n] += share[n] * values[n]


@njit(**_OPTIONS)
def _turn(values: Any, a: Any, b: float, out: Any) -> None:
    """values exp(-i 2 pi a b)."""
    for n in range(values.size):
        s, c = sincos(-2.0 * np.pi * a[n] * b)
        out[n] = values[n] * complex(c, s)
