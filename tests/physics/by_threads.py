"""Run the kernels for graphics cards in numba's simulator, a Python thread for each of CUDA's, and the processor's.

Started by test_card.py in a process of its own, because the simulator is chosen when numba is imported.  Prints one
line for each case: its name, and whether the bytes are the same.
"""

from __future__ import annotations

import os

os.environ["NUMBA_ENABLE_CUDASIM"] = "1"

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numba import njit

from factory.numerics import fma
from factory.physics import _card_graphs, _card_isochromats, _graphs, _isochromats, _pathways

CARD: Any = _card_graphs
SPINS: Any = _card_isochromats
ROUNDED = ("_turned", "_turned_any", "_product", "exp32", "sincos32")


def rounded(function: Callable[..., Any], kind: Any) -> Callable[..., Any]:
    """A compiled function called from Python, where it would take and give float64: in the precision of the kernel."""

    def called(*given: Any) -> Any:
        found = function(*[kind(x) if isinstance(x, float | np.floating) else x for x in given])
        return tuple(kind(x) for x in found) if isinstance(found, tuple) else kind(found)

    return called


@njit
def fused(a: Any, b: Any, c: Any) -> Any:
    return fma(a, b, c)


def graphs(rng: np.random.Generator) -> Iterator[tuple[str, Any, Any]]:
    for name in ROUNDED:
        setattr(CARD, name, rounded(getattr(CARD, name), np.float32))
    CARD._fma = rounded(fused, np.float32)
    samples, pulses = 70, 24  # more than a block of threads
    t1, t2 = rng.uniform(0.2, 3, samples), rng.uniform(0.02, 0.3, samples)
    rates = np.stack([-1 / t1, -1 / t2, rng.uniform(0.8, 1.2, samples)]).astype(np.float32)
    start = rng.uniform(-1, 1, samples).astype(np.float32)
    flip, time = (rng.uniform(low, high, pulses).astype(np.float32) for low, high in ((0.1, 1.2), (0.01, 0.02)))
    for orders, shared in ((1, 48 * 1024), (5, 48 * 1024), (5, 0), (pulses, 48 * 1024)):
        CARD.SHARED, out = shared, [np.empty((samples, pulses), np.float32) for _ in range(2)]
        _graphs.train(rates, start, flip, time, 0.003, orders, out[0])
        CARD.train(rates, start, flip, time, 0.003, orders, out[1])
        yield f"one phase, {orders} orders, {shared} bytes shared", *out
    CARD.SHARED = 48 * 1024
    columns = np.concatenate([rates, -2 * np.pi * rng.uniform(-20, 20, (1, samples)).astype(np.float32)])
    columns[3, :9] = -0.0
    for gradient in (_pathways.KEEP, _pathways.DEPHASE, _pathways.SPOIL, rng.integers(0, 3, pulses)):
        phase, echo = rng.uniform(0, 6, pulses), np.where(rng.random(pulses) > 0.3, 0.004, np.nan)
        angle = flip * (rng.random(pulses) > 0.2)
        tables = _pathways.schedule(angle, phase, time, gradient, echo, 0.3 * phase, 6, np.float32)
        out = [np.zeros((samples, int(tables[1][:, 1].sum())), np.complex64) for _ in range(2)]
        _pathways.train(columns, start, *tables, 6, out[0])
        CARD.train_of_any_phase(columns, start, *tables, 6, out[1])
        yield f"any phase, gradients {gradient}", *out


def isochromats(rng: np.random.Generator) -> Iterator[tuple[str, Any, Any]]:
    samples, count, coils, length = 2, 70, 2, 8
    spins = np.zeros((samples, count, 9))
    for column, low, high in ((0, 0.3, 3), (1, 3, 30), (2, 0.5, 1), (3, -0.8, 0.8), (4, -0.8, 0.8), (5, -0.1, 0.1),
                              (6, -0.1, 0.1), (7, -0.1, 0.1), (8, -30, 30)):  # fmt: skip
        spins[..., column] = rng.uniform(low, high, (samples, count))
    weights = rng.normal(size=(samples, coils, count)) + 1j * rng.normal(size=(samples, coils, count))
    kinds = np.stack([np.arange(length) % 2, *rng.integers(0, 3, (2, length)), np.arange(length) % 3 == 2], 1)
    fields = rng.uniform(-0.3, 0.3, (length, 6))
    fields[:, 5] = rng.uniform(1e-4, 1e-2, length)
    spans, moves = rng.uniform(1e-4, 1e-3, (3, 2)), rng.normal(0, 1e-2, (samples, length, 3, count)).astype(np.float32)
    for kind in (np.float32, np.float64):
        for name in ("_turned", "_precessed", "_along_z"):
            setattr(SPINS, name, rounded(getattr(_isochromats, name[1:]), kind))
        SPINS._fma = rounded(fused, kind)
        for moved, held in ((np.zeros((samples, 0, 3, 0), np.float32), SPINS.HELD), (moves, 1)):
            SPINS.HELD = held  # 1: a launch for each block
            out = [np.zeros((samples, coils, int(kinds[:, 3].sum())), complex) for _ in range(2)]
            parts = _isochromats._bounds(spins, moved, fields, kinds, 0.004, np.empty(samples))
            given = spins, weights, moved, fields.astype(kind), kinds, spans, parts
            _isochromats._all_signals(*given, out[0])
            SPINS.signals(*given, out[1])
            yield f"isochromats, {kind.__name__}, {moved.shape[1]} displacements, parts {parts}", *out


if __name__ == "__main__":
    for cases in (graphs, isochromats):
        for name, ours, theirs in cases(np.random.default_rng(1)):
            moved = np.abs(ours).max() > 0.01 and np.isfinite(ours).all()
            print(name, "same" if moved and ours.tobytes() == theirs.tobytes() else "DIFFERENT", sep=": ", flush=True)
