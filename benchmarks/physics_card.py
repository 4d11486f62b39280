"""Speed of the physics on a graphics card: python benchmarks/physics_card.py BAR ..., where BAR is one of

- fisp         fingerprints of a FISP train of 1,000 repetitions
- isochromats  rotations with relaxation

Both beside one core of the same machine, whose bytes have to come out.  Needs a CUDA device and numba-cuda; without
one it says so and records nothing.
"""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

import numpy as np
import physics
import physics_bloch
from rows import record, row
from timing import seconds

from factory import device
from factory.physics import _card_graphs, _card_isochromats, _graphs

COPIES = 64  # of the atoms, so that a card has enough to do
CALLS, SPINS = 64, 2**21


def fisp() -> list[dict[str, Any]]:
    from numba import cuda

    rows, (t1, t2) = [], physics.atoms()
    for orders, target in ((20, ">= 1e7"), (60, "")):
        rates = np.stack([-1 / t1, -1 / t2, np.ones(len(t1))]).astype(np.float32)
        start = (1 - 2 * np.exp(-physics.TRAIN["inversion_time"] / t1)).astype(np.float32)
        flip, interval = (physics.TRAIN[name].astype(np.float32) for name in ("flip_angle", "repetition_time"))
        constants = flip, interval, physics.TRAIN["echo_time"], orders
        ours, theirs = (np.empty((len(t1), len(flip)), np.float32) for _ in range(2))
        core = len(t1) / seconds(partial(_graphs.train, rates, start, *constants, theirs), 3)
        _card_graphs.train(rates, start, *constants, ours)
        rates, start = np.tile(rates, COPIES), np.tile(start, COPIES)
        there = [cuda.to_device(x) for x in (rates, start, flip, interval)]
        made, empty = cuda.device_array((len(start), len(flip)), np.float32), cuda.device_array(0, np.float32)
        block, numbers = _card_graphs.BLOCK, 3 * orders
        shared = 4 * numbers * block
        launch = _card_graphs._real(True)[-(-len(start) // block), block, 0, shared]
        given = *there, np.float32(physics.TRAIN["echo_time"]), orders, empty, made
        out = np.empty((len(start), len(flip)), np.float32)
        speed = len(start) / seconds(partial(_waited_for, launch, *given))
        fetched = len(start) / seconds(partial(_card_graphs.train, rates, start, *constants, out), 5)
        same = "the same bytes" if ours.tobytes() == theirs.tobytes() else f"{np.abs(ours - theirs).max():.1g} apart"
        rows.append(row(f"card, IR-FISP, {len(flip)} repetitions, {orders} orders", speed, "fingerprints/s",
                        target=target, baseline=f"{device.card()}; one core {core:,.0f} ({speed / core:.0f} times), "
                        f"{same}; {16e-12 * orders * len(flip) * speed:.2g} TFLOP/s; fetched to the processor "
                        f"{fetched:,.0f}, {4e-9 * len(flip) * fetched:.2g} GB/s"))  # fmt: skip
    return rows


def _waited_for(launch: Any, *given: Any) -> None:
    from numba import cuda

    launch(*given)
    cuda.synchronize()


def _turned(spins: Any, rf: Any, area: Any, kind: Any, times: int) -> Any:
    """The signal of spins (1, spin, 9) behind a pulse that is played some times."""
    fields = np.pi * np.column_stack([rf.real, rf.imag, area, np.ones(len(rf))])
    fields[:, [0, 1, 5]] *= physics_bloch.STEP
    kinds = np.zeros((len(rf), 4), np.int64)
    kinds[:, 0], kinds[-1, 3] = 1, 1
    still, spans = np.zeros((1, 0, 3, 0), np.float32), np.array([[0.0, physics_bloch.STEP]])
    weights, out = np.ones((1, 1, spins.shape[1]), complex), np.zeros((1, 1, times), complex)
    played = np.tile(fields.astype(kind), (times, 1)), np.tile(kinds, (times, 1))
    _card_isochromats.signals(spins, weights, still, *played, spans, np.ones(1, np.int64), out)
    return out


def isochromats() -> list[dict[str, Any]]:
    rows, (columns, rf, area) = [], physics_bloch.spins()
    steps = len(rf)
    for kind, target in ((np.float32, ">= 1e11"), (np.float64, "")):
        core_call = physics_bloch.by_lanes(columns, rf, area, kind)
        core = len(columns) * steps / seconds(core_call, 3)
        same = "the same bytes" if _turned(columns[None], rf, area, kind, 1)[0, 0, 0] == core_call() else "other bytes"
        many = np.tile(columns, (SPINS // len(columns), 1))[None]
        short, long = (seconds(partial(_turned, many, rf, area, kind, times), 3) for times in (1, 1 + CALLS))
        speed = many.shape[1] * steps * CALLS / (long - short)  # without what copying and starting take
        rows.append(row(f"card, isochromats, {kind.__name__}, rotation and relaxation", speed, "spin-steps/s",
                        target=target, baseline=f"{device.card()}; one core {core:.3g} ({speed / core:.0f} times), "
                        f"{same}; {physics_bloch.ONE_ROTATION * speed / 1e12:.2g} TFLOP/s"))  # fmt: skip
    return rows


if __name__ == "__main__":
    if why := device.missing():
        print(f"skipped {', '.join(sys.argv[1:])}: no graphics card: {why}")
        sys.exit(0)
    bars = {"fisp": fisp, "isochromats": isochromats}
    for bar in sys.argv[1:]:
        record("physics", bars[bar]())
