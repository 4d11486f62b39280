"""The kernels of `_isochromats` for a graphics card: one thread a spin, one block of threads a block of lanes.

They call what the processor's kernels call for one spin and add up in the same order, so the bytes are the same.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numba import cuda, float32, float64

from factory.numerics import exp, fma
from factory.physics import _isochromats
from factory.physics._isochromats import LANES

_fma: Any = fma  # of either type
_turned, _precessed, _along_z, _seen = (
    _isochromats.turned, _isochromats.precessed, _isochromats.along_z, _isochromats.seen)
_strength = _isochromats.strength
HELD = 2**29  # bytes of scratch on the card at a time
_KINDS: dict[Any, Any] = {np.dtype(np.float32): float32, np.dtype(np.float64): float64}


@cuda.jit(device=True)
def _decays(spin: Any, spans: Any, cuts: int, left: Any, lane: int) -> None:
    """What relaxation leaves of a spin after every length of time."""
    for d in range(spans.shape[0]):
        time = spans[d, 0] / cuts + spans[d, 1]
        e1 = exp(-time * spin[0])
        left[d, 0, lane], left[d, 1, lane], left[d, 2, lane] = e1, exp(-time * spin[1]), 1.0 - e1


@cuda.jit(device=True)
def _cut(field: Any, times: int) -> Any:
    """One of equal parts of a field."""
    rx, ry, gx, gy, gz, dt = field[0], field[1], field[2], field[3], field[4], field[5]
    if times > 1:
        cut = np.float32(times)
        return rx / cut, ry / cut, gx / cut, gy / cut, gz / cut, dt / cut
    return rx, ry, gx, gy, gz, dt


@cuda.jit(device=True)
def _collect(sums: Any, out: Any, lane: int) -> None:
    """The sum over a block, in the order of `_isochromats._collect`."""
    half = LANES // 2
    while half > 0:
        cuda.syncthreads()
        if lane < half:
            sums[0, lane] += sums[0, lane + half]
            sums[1, lane] += sums[1, lane + half]
        half //= 2
    if lane == 0:
        out[0], out[1] = sums[0, 0], sums[1, 0]
    cuda.syncthreads()


@cache
def _kernel(kind: np.dtype[Any], moves: bool) -> Any:
    """The kernel that computes in float32 or float64, of spins that stay or move."""
    real, number = kind.type, _KINDS[kind]

    @cuda.jit
    def kernel(spins: Any, weights: Any, moved: Any, fields: Any, kinds: Any, spans: Any, parts: Any, weight: Any,
               left: Any, partial: Any) -> None:
        block, lane, blocks = cuda.blockIdx.x, cuda.threadIdx.x, -(-spins.shape[1] // LANES)
        sample, first = block // blocks, (block % blocks) * LANES
        held = first + lane < spins.shape[1]
        i = first + lane if held else spins.shape[1] - 1
        sums = cuda.shared.array((2, LANES), number)
        spin, cuts = spins[sample, i], parts[sample]
        field = _strength(spin[3], spin[4])
        for coil in range(weights.shape[1]):
            seen = _seen(weights[sample, coil, i], spin[3], spin[4], field, held)
            weight[block, coil, 0, lane], weight[block, coil, 1, lane] = seen
        _decays(spin, spans, cuts, left[block], lane)
        x, y, z, b1, square = real(0.0), real(0.0), real(spin[2]), real(field), real(field * field)
        px, py, pz, f = real(spin[5]), real(spin[6]), real(spin[7]), real(spin[8])
        fx, fy, fz, taken, span = px, py, pz, 0, -1
        e1, e2, grown = real(0.0), real(0.0), real(0.0)
        for n in range(kinds.shape[0]):
            if moves:
                px, py, pz = fx + moved[sample, n, 0, i], fy + moved[sample, n, 1, i], fz + moved[sample, n, 2, i]
            pulse = kinds[n, 0] != 0
            times = cuts if pulse else 1
            rx, ry, gx, gy, gz, dt = _cut(fields[n], times)
            hz = _along_z(gx, gy, gz, dt, px, py, pz, f)
            for part in range(times):
                wanted = kinds[n, 1] if part < times - 1 else kinds[n, 2]
                if wanted != span:
                    span = wanted
                    e1, e2, grown = left[block, span, 0, lane], left[block, span, 1, lane], left[block, span, 2, lane]
                if pulse:
                    x, y, z = _turned(x, y, z, b1, square, rx, ry, hz)
                else:
                    x, y = _precessed(x, y, hz)
                x, y, z = e2 * x, e2 * y, _fma(e1, z, grown)
            if kinds[n, 3] != 0:
                for coil in range(weights.shape[1]):
                    wr, wi = weight[block, coil, 0, lane], weight[block, coil, 1, lane]
                    sums[0, lane], sums[1, lane] = _fma(wr, x, -wi * y), _fma(wr, y, wi * x)
                    _collect(sums, partial[block, coil, taken], lane)
                taken += 1

    return kernel


@cuda.jit
def _added(partial: Any, out: Any) -> None:
    """Add what all blocks of a sample saw, one after the other: partial (sample, block, n), out (sample, n)."""
    i = cuda.grid(1)
    sample, n = i // out.shape[1], i % out.shape[1]
    if sample < out.shape[0]:
        total = out[sample, n]
        for block in range(partial.shape[1]):
            total += partial[sample, block, n]
        out[sample, n] = total


def signals(spins: Any, weights: Any, moved: Any, fields: Any, kinds: Any, spans: Any, parts: Any, out: Any) -> None:
    """`_isochromats.signals` of many samples, with the number of parts of each, on a card."""
    count, spin = spins.shape[:2]
    coils, points = out.shape[1:]
    wide = coils * points * 16 + LANES * (spins.itemsize * 9 + (coils + len(spans)) * 24 + coils * 16)
    wide += LANES * 12 * moved.shape[1]  # bytes for a block of spins
    blocks = max(1, HELD // wide)
    shared = [cuda.to_device(values) for values in (fields, kinds.astype(np.int32), spans)]
    many = max(1, blocks // -(-spin // LANES))
    for first in range(0, count, many):
        part = slice(first, first + many)
        whole = cuda.to_device(np.zeros((len(spins[part]), coils * points * 2)))
        for begin in range(0, spin, blocks * LANES):
            chosen = slice(begin, begin + blocks * LANES)
            given = spins[part, chosen], weights[part, :, chosen], moved[part, :, :, chosen]
            _launch(*given, shared, parts[part], fields.dtype, whole)
        out[part] += whole.copy_to_host().view(complex).reshape(-1, coils, points)


def _launch(spins: Any, weights: Any, moved: Any, shared: list[Any], parts: Any, kind: Any, whole: Any) -> None:
    (count, spin), coils, spans = spins.shape[:2], weights.shape[1], shared[2].shape[0]
    each = -(-spin // LANES)
    blocks = count * each
    given = [cuda.to_device(np.ascontiguousarray(values)) for values in (spins, weights, moved)]
    weight = cuda.device_array((blocks, coils, 2, LANES), kind)
    left = cuda.device_array((blocks, spans, 3, LANES), kind)
    points = whole.shape[1] // (2 * coils)
    partial = cuda.device_array((blocks, coils, points, 2), np.float64)
    _kernel(kind, moved.shape[1] > 0)[blocks, LANES](
        *given, *shared, cuda.to_device(parts), weight, left, partial)
    _added[-(-whole.size // 256), 256](partial.reshape((count, each, whole.shape[1])), whole)
