"""Kernels of extended phase graphs for a graphics card: one thread a sample.

They call what the kernels of `_graphs` and `_pathways` call for one order of one sample.  Every product that is added
to something is fused there, so CUDA's compiler finds nothing to fuse and the bytes are those of the processor.

The numbers of a thread's states lie between those of its neighbours, in a block's shared memory or, where they are too
many for it, in the card's: number m of order k at (m orders + k) width + lane.  F+ moves one order up and F- one down:
their rings keep still and their origins move.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numba import cuda, float32

from factory.numerics import fma
from factory.numerics32 import exp32, sincos32
from factory.physics import _graphs, _pathways

_F = np.float32
_ZERO, _ONE = _F(0.0), _F(1.0)
_fma: Any = fma  # of either type
_turned, _turned_any, _product = _graphs.turned, _pathways.turned, _pathways.product
_DEPHASE, _SPOIL = _pathways.DEPHASE, _pathways.SPOIL
SHARED = 48 * 1024  # bytes that every card gives a block
BLOCK = 64  # threads
HELD = 2**28  # bytes of echoes, and of states, on the card at a time


@cuda.jit(device=True)
def _shifted(above: int, below: int, span: int, width: int) -> Any:
    """Where order 0 of F+ and of F- lies after one dephasing."""
    return above - width if above > 0 else span - width, below + width if below + width < span else 0


@cache
def _real(shared: bool) -> Any:
    """The kernel of trains of one phase, with states in shared memory or not."""

    @cuda.jit
    def kernel(rates: Any, start: Any, flip: Any, interval: Any, echo: Any, orders: int, scratch: Any, out: Any
               ) -> None:
        i = cuda.grid(1)
        if i >= out.shape[0]:
            return
        if shared:
            states, width, lane = cuda.shared.array(0, float32), cuda.blockDim.x, cuda.threadIdx.x
        else:
            states, width, lane = scratch, cuda.gridDim.x * cuda.blockDim.x, i
        r1, r2, relative, pulses = rates[0, i], rates[1, i], rates[2, i], flip.shape[0]
        for k in range(3 * orders):
            states[k * width + lane] = _ZERO
        span = orders * width
        up, down, z, above, below = lane, span + lane, 2 * span + lane, 0, 0
        states[z] = start[i]
        late = exp32(echo * r2)
        for n in range(pulses):
            s, c = sincos32(flip[n] * relative)
            e1, e2 = exp32(interval[n] * r1), exp32(interval[n] * r2)
            p, m, rest = _turned(states[up + above], states[down + below], states[z], c, s)
            out[i, n] = late * p
            states[up + above], states[down + below] = e2 * p, e2 * m
            states[z] = _fma(e1, rest, _ONE - e1)
            a, b, at = above, below, z
            for _ in range(1, min(n + 1, pulses - n, orders)):
                a, b, at = a + width, b + width, at + width
                a = a - span if a >= span else a
                b = b - span if b >= span else b
                p, m, rest = _turned(states[up + a], states[down + b], states[at], c, s)
                states[up + a], states[down + b], states[at] = e2 * p, e2 * m, e1 * rest
            states[down + below] = _ZERO  # it becomes the highest order
            above, below = _shifted(above, below, span, width)
            states[up + above] = -states[down + below]

    return kernel


@cuda.jit(device=True)
def _left(time: Any, r2: Any, turn: Any, step: Any) -> Any:
    """What a time leaves of F+, turned by off-resonance and a step of phase: its two parts."""
    e2 = exp32(time * r2)
    sine, cosine = sincos32(_fma(time, turn, step))
    return e2 * cosine, e2 * sine


@cache
def _any_phase(shared: bool) -> Any:
    """The kernel of `_pathways.train` in float32."""

    @cuda.jit
    def kernel(samples: Any, start: Any, events: Any, marks: Any, orders: int, scratch: Any, out: Any) -> None:
        i = cuda.grid(1)
        if i >= out.shape[0]:
            return
        if shared:
            states, width, lane = cuda.shared.array(0, float32), cuda.blockDim.x, cuda.threadIdx.x
        else:
            states, width, lane = scratch, cuda.gridDim.x * cuda.blockDim.x, i
        r1, r2, relative, turn = samples[0, i], samples[1, i], samples[2, i], samples[3, i]
        for k in range(6 * orders):
            states[k * width + lane] = _ZERO
        span = orders * width  # of one number; imaginary parts lie one span behind real ones
        up, down, z, above, below, seen = lane, 2 * span + lane, 4 * span + lane, 0, 0, 0
        states[z] = start[i]
        for n in range(events.shape[0]):
            event, pulsed = events[n], events[n, 0] != _ZERO
            s, c = sincos32(event[0] * relative)
            e1 = exp32(event[2] * r1)
            x, y = _left(event[2], r2, turn, event[1])
            a, b, at = above, below, z
            for k in range(marks[n, 2]):
                f, fi, g, gi = states[up + a], states[up + a + span], states[down + b], states[down + b + span]
                rest, rest_i = states[at], states[at + span]
                if pulsed:
                    f, fi, g, gi, rest, rest_i = _turned_any(f, fi, g, gi, rest, rest_i, c, s)
                if k == 0 and marks[n, 1] != 0:
                    real, imaginary = _left(event[3], r2, turn, _ZERO)
                    real, imaginary = _product(f, fi, real, imaginary)
                    out[i, 2 * seen], out[i, 2 * seen + 1] = _product(real, imaginary, event[4], event[5])
                    seen += 1
                states[up + a], states[up + a + span] = _product(f, fi, x, y)
                states[down + b], states[down + b + span] = _product(g, gi, x, -y)
                states[at] = _fma(e1, rest, _ONE - e1) if k == 0 else e1 * rest
                states[at + span] = e1 * rest_i
                a, b, at = a + width, b + width, at + width
                a, b = a - span if a >= span else a, b - span if b >= span else b
            if marks[n, 0] == _DEPHASE:
                states[down + below], states[down + below + span] = _ZERO, _ZERO  # it becomes the highest order
                above, below = _shifted(above, below, span, width)
                states[up + above] = states[down + below]
                states[up + above + span] = -states[down + below + span]
            elif marks[n, 0] == _SPOIL:
                for k in range(4 * orders):
                    states[k * width + lane] = _ZERO

    return kernel


def train(rates: Any, start: Any, flip: Any, interval: Any, echo: float, orders: int, out: Any) -> None:
    """`_graphs.train`, on a card."""
    constants = [cuda.to_device(flip), cuda.to_device(interval), _F(echo), orders]
    _run(_real, rates, start, constants, 3 * orders, out)


def train_of_any_phase(samples: Any, start: Any, events: Any, marks: Any, orders: int, out: Any) -> None:
    """`_pathways.train` in float32, on a card."""
    _run(_any_phase, samples, start, [cuda.to_device(events), cuda.to_device(marks), orders], 6 * orders,
         out.view(_F))


def _run(kernel: Any, samples: Any, start: Any, constants: list[Any], numbers: int, out: Any) -> None:
    """Launch a kernel on one piece of the samples after the other; while one is computed the last one is fetched."""
    shared = 4 * numbers * BLOCK <= SHARED
    size = max(HELD // (4 * max(out.shape[1], 0 if shared else numbers)) // BLOCK, 1) * BLOCK
    pending: list[tuple[Any, ...]] = []
    for first in range(0, len(out), size):
        part, stream = slice(first, first + size), cuda.stream()
        blocks = -(-len(out[part]) // BLOCK)
        scratch = cuda.device_array(0 if shared else numbers * blocks * BLOCK, _F)
        made = cuda.device_array(out[part].shape, _F)
        given = [cuda.to_device(np.ascontiguousarray(values), stream) for values in (samples[:, part], start[part])]
        launch = kernel(shared)[blocks, BLOCK, stream, 4 * numbers * BLOCK if shared else 0]
        launch(*given, *constants, scratch, made)
        pending.append((made, out[part], stream, given, scratch))  # which have to live until the kernel has run
        if len(pending) > 1:
            _fetch(*pending.pop(0))
    for one in pending:
        _fetch(*one)


def _fetch(made: Any, out: Any, stream: Any, *_used: Any) -> None:
    made.copy_to_host(out, stream)
    stream.synchronize()
