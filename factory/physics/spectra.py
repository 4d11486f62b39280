"""Signals of spectroscopy: free induction decays."""

from __future__ import annotations

from typing import Annotated, Any, NamedTuple

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from factory.numerics import exp, fma, sincos
from factory.physics import SHORTEST
from factory.step import step
from factory.units import Array

_OPTIONS: dict[str, Any] = {"nogil": True, "cache": True, "error_model": "numpy"}
LANES = 8  # points side by side
GROUP = 16  # samples whose exponentials are begun side by side


class Decay(NamedTuple):
    """What `fid` returns."""

    signal: Annotated[Array, "?u", "complex64", "point"]
    point: Annotated[Array, "s", "float64", "point"]


def _times(dwell: float, n_point: int, **_: Any) -> dict[str, Any]:
    return {"point": dwell * np.arange(n_point)}


@step(coordinates=_times)
def fid(
    amplitude: Annotated[Array, "?u", "peak"],
    frequency: Annotated[Array, "Hz", "peak"],
    decay_time: Annotated[Array, "s", "peak"],
    phase: Annotated[Array, "rad", "peak"],
    peaks: Annotated[Array, "1", "int64"],
    *,
    dwell: Annotated[float, "s", ">0"],
    n_point: Annotated[int, ">=1"],
) -> Decay:
    """Sum of damped exponentials, amplitude exp(i phase) exp(-t / decay_time) exp(-i 2 pi frequency t).

    Parameters
    ----------
    amplitude : array, any unit, shape (sample, peak)
    frequency : array in Hz, shape (sample, peak)
    decay_time : array in s, shape (sample, peak)
        T2*: a Lorentzian line of full width 1 / (pi T2*) at half its height.
    phase : array in rad, shape (sample, peak)
    peaks : int64, shape (sample,)
        How many of the peaks, from the first on, a sample has; the others do not count.
    dwell : float in s
        From point to point.
    n_point : int

    Returns
    -------
    signal : complex64, unit of `amplitude`, shape (sample, point)
        In the sign of the physics; a spectrum that is stored with ppm ascending is its conjugate.
    point : float64 in s, shape (point,)

    Notes
    -----
    Limit: one peak at 0 Hz that does not decay is constant.  A point is a product of two powers in float32, summed over
    the peaks: it lies within 3e-7 of the sum of all amplitudes.  Sums of damped exponentials as training data: Qu 2020,
    doi:10.1002/anie.201908162.
    """
    most, blocks = GROUP * amplitude.shape[1], -(-n_point // LANES)
    out = np.empty((len(peaks), n_point), np.complex64)
    columns = [np.ascontiguousarray(values, np.float64) for values in (amplitude, frequency, decay_time, phase)]
    near, far = np.empty((most, 2, 2 * LANES), np.float32), np.empty((2, blocks, most), np.float32)
    begun, block = np.empty((6, most)), np.empty(2 * LANES, np.float32)
    _sums(*columns, np.ascontiguousarray(peaks), dwell, begun, near, far, block, out.view(np.float32))
    return Decay(out, **_times(dwell, n_point))


@njit(**_OPTIONS)
def _sums(amplitude: Any, frequency: Any, decay_time: Any, phase: Any, peaks: Any, dwell: float, begun: Any, near: Any,
          far: Any, block: Any, out: Any) -> None:
    """Point b LANES + k of a decay a z**n is z**(b LANES), in ``far``, times a z**k, in ``near``."""
    most = amplitude.shape[1]
    for first in range(0, len(peaks), GROUP):
        last, n = min(first + GROUP, len(peaks)), 0
        for i in range(first, last):
            for j in range(min(max(peaks[i], 0), most)):
                begun[0, n], begun[1, n] = amplitude[i, j], phase[i, j]
                begun[2, n], begun[3, n] = decay_time[i, j], frequency[i, j]
                n += 1
        _begin(begun[0, :n], begun[1, :n], begun[2, :n], begun[3, :n], dwell)
        _near(begun[0, :n], begun[1, :n], begun[2, :n], begun[3, :n], near)
        _far(begun[2, :n], begun[3, :n], begun[4, :n], begun[5, :n], far)
        n = 0
        for i in range(first, last):
            end = n + min(max(peaks[i], 0), most)
            _add(near[n:end], far[0, :, n:end], far[1, :, n:end], block, out[i])
            n = end


@njit(**_OPTIONS)
def _begin(a: Any, b: Any, c: Any, d: Any, dwell: float) -> None:
    """Amplitude, phase, decay time and frequency become a, b = a exp(i phase) and c, d = z, real and imaginary."""
    for p in range(len(a)):
        size, (s, c_phase) = a[p], sincos(b[p])
        left = exp(-dwell / max(c[p], SHORTEST))
        turned, along = sincos(-2.0 * np.pi * dwell * d[p])
        a[p], b[p], c[p], d[p] = size * c_phase, size * s, left * along, left * turned


@njit(**_OPTIONS)
def _near(a: Any, b: Any, c: Any, d: Any, near: Any) -> None:
    """(x, y) and i (x, y) = (-y, x) of the first points; z becomes z**LANES."""
    for p in range(len(a)):
        x, y, points, turned = a[p], b[p], near[p, 0], near[p, 1]
        for k in range(LANES):
            points[2 * k], points[2 * k + 1] = x, y
            turned[2 * k], turned[2 * k + 1] = -y, x
            x, y = fma(c[p], x, -d[p] * y), fma(c[p], y, d[p] * x)
    done = 1
    while done < LANES:
        for p in range(len(c)):
            c[p], d[p] = fma(c[p], c[p], -d[p] * d[p]), 2.0 * c[p] * d[p]
        done *= 2


@njit(**_OPTIONS)
def _far(c: Any, d: Any, x: Any, y: Any, far: Any) -> None:
    x[:], y[:] = 1.0, 0.0
    for b in range(far.shape[1]):
        real, imaginary = far[0, b], far[1, b]
        for p in range(len(c)):
            real[p], imaginary[p] = x[p], y[p]
            x[p], y[p] = fma(c[p], x[p], -d[p] * y[p]), fma(c[p], y[p], d[p] * x[p])


@njit(**_OPTIONS)
def _add(near: Any, real: Any, imaginary: Any, last: Any, out: Any) -> None:
    """The points of one sample; its last block, which may be longer than what is left of them, by way of ``last``."""
    whole, points = len(real) - 1, near.ctypes.data
    for b in range(whole):
        _block(real[b].ctypes.data, imaginary[b].ctypes.data, points, len(near), out[2 * LANES * b :].ctypes.data)
    _block(real[whole].ctypes.data, imaginary[whole].ctypes.data, points, len(near), last.ctypes.data)
    rest = out[2 * LANES * whole :]
    for k in range(len(rest)):
        rest[k] = last[k]


def _products(_typing: Any, _real: Any, _imaginary: Any, _near: Any, _count: Any, _row: Any) -> Any:
    """One block of points, the sum of ``count`` products, between addresses.

    Written for the compiler itself, so that the sums stay in registers: those of a plain loop pass through memory at
    every peak, which takes twice as long.
    """
    number, wide = ir.FloatType(), ir.VectorType(ir.FloatType(), 2 * LANES)
    zero, empty = ir.Constant(ir.IntType(32), 0), ir.Constant(wide, ir.Undefined)
    everywhere = ir.Constant(ir.VectorType(ir.IntType(32), 2 * LANES), [0] * 2 * LANES)

    def code(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        *far, near, count, row = arguments
        fused = cgutils.get_or_insert_function(  # type: ignore[no-untyped-call]
            builder.module, ir.FunctionType(wide, [wide] * 3), f"llvm.fma.v{2 * LANES}f32")
        nothing = ir.Constant(wide, [0.0] * 2 * LANES)
        sums = [cgutils.alloca_once_value(builder, nothing) for _ in far]  # type: ignore[no-untyped-call]
        with cgutils.for_range(builder, count) as loop:  # type: ignore[no-untyped-call]
            for part, (address, total) in enumerate(zip(far, sums, strict=True)):
                weight = builder.load(builder.gep(builder.inttoptr(address, number.as_pointer()), [loop.index]))
                weights = builder.shuffle_vector(builder.insert_element(empty, weight, zero), empty, everywhere)
                which = builder.add(builder.add(loop.index, loop.index), loop.index.type(part))
                points = builder.load(builder.gep(builder.inttoptr(near, wide.as_pointer()), [which]), align=4)
                builder.store(builder.call(fused, [weights, points, builder.load(total)]), total)
        both = builder.fadd(*[builder.load(total) for total in sums])
        builder.store(both, builder.inttoptr(row, wide.as_pointer()), align=4)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 5), code


_block: Any = intrinsic(_products)
