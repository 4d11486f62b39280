"""Speed of the physics, a core: python benchmarks/physics.py BAR ..., where BAR is one of

- fisp     fingerprints of a FISP train of 1,000 repetitions, against NumPy and, where it is installed, mrpro
- phases   the same train with RF spoiling and with two pools that exchange; RF-spoiled steady states
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from typing import Any

import numpy as np
from rows import record, row
from timing import seconds

from factory.physics import _graphs, _pathways, _pools, epg

ROUNDS, FRAMES, ATOMS = 7, 1000, 4096
TRAIN = {
    "flip_angle": np.deg2rad(5 + 65 * np.sin(np.linspace(0, 5 * np.pi, FRAMES)) ** 2),
    "repetition_time": np.random.default_rng(1).uniform(0.012, 0.015, FRAMES), "echo_time": 0.003,
    "inversion_time": 0.02,
}  # fmt: skip
TARGETS = {20: 100_000, 60: 45_000}  # orders: fingerprints/s


def rate(call: Callable[[], Any], count: int) -> float:
    """How many a second."""
    return count / seconds(call, ROUNDS)


def by_numpy(t1: Any, t2: Any, orders: int) -> Any:
    """The textbook graph over all atoms at once, complex64."""
    shape = (orders, len(t1))
    plus, minus, z = (np.zeros(shape, np.complex64) for _ in range(3))
    z[0] = 1 - 2 * np.exp(-TRAIN["inversion_time"] / t1)
    out = np.empty((FRAMES, len(t1)), np.complex64)
    late = np.exp(-TRAIN["echo_time"] / t2)
    for n, (angle, tr) in enumerate(zip(TRAIN["flip_angle"], TRAIN["repetition_time"], strict=True)):
        s, c = np.float32(np.sin(angle)), np.float32(np.cos(angle))
        c2, s2 = (1 + c) / 2, (1 - c) / 2
        plus, minus, z = (c2 * plus + s2 * minus + np.complex64(1j) * s * z,
                          s2 * plus + c2 * minus - np.complex64(1j) * s * z,
                          np.complex64(0.5j) * s * (plus - minus) + c * z)  # fmt: skip
        out[n] = plus[0] * late
        e1, e2 = np.exp(-tr / t1), np.exp(-tr / t2)
        z *= e1
        z[0] += 1 - e1
        plus[1:], minus[:-1] = (plus * e2)[:-1], (minus * e2)[1:]
        minus[-1] = 0
        plus[0] = minus[0].conj()
    return out


def by_mrpro(t1: Any, t2: Any, orders: int) -> Any:
    """What runs the same train by mrpro's blocks, on one thread; None where it is not installed."""
    try:
        from mrpro.operators.models.EPG import EPGSequence, FispBlock, InversionBlock, Parameters
    except ImportError:
        return None
    import torch

    torch.set_num_threads(1)
    train = FispBlock(torch.tensor(TRAIN["flip_angle"], dtype=torch.float32), 0.0, TRAIN["echo_time"],
                      torch.tensor(TRAIN["repetition_time"], dtype=torch.float32))  # fmt: skip
    sequence = EPGSequence([InversionBlock(TRAIN["inversion_time"]), train])
    atoms = Parameters(torch.ones(len(t1)), torch.tensor(t1), torch.tensor(t2))
    return lambda: sequence(atoms, states=orders)


def atoms() -> tuple[Any, Any]:
    """T1 and T2 in s."""
    rng = np.random.default_rng(0)
    return rng.uniform(0.2, 3, ATOMS), rng.uniform(0.02, 0.3, ATOMS)


def by_graphs(t1: Any, t2: Any, orders: int) -> Any:
    """Our train with a fixed number of orders."""
    rates = np.stack([-1 / t1, -1 / t2, np.ones(len(t1))]).astype(np.float32)
    start = (1 - 2 * np.exp(-TRAIN["inversion_time"] / t1)).astype(np.float32)
    trains = (TRAIN[name].astype(np.float32) for name in ("flip_angle", "repetition_time"))
    out = np.empty((len(t1), FRAMES), np.float32)
    _graphs.train(rates, start, *trains, TRAIN["echo_time"], orders, out)
    return out


def fisp() -> list[dict[str, Any]]:
    rows = []
    t1, t2 = atoms()
    few1, few2 = t1[:1000].astype(np.float32), t2[:1000].astype(np.float32)
    whole = by_graphs(t1[:200], t2[:200], FRAMES)
    for orders, target in TARGETS.items():
        ours = rate(partial(by_graphs, t1, t2, orders), ATOMS)
        numpy = rate(partial(by_numpy, few1, few2, orders), len(few1))
        kept = by_graphs(t1[:200], t2[:200], orders)
        lost = np.linalg.norm(kept - whole, axis=1) / np.linalg.norm(whole, axis=1)
        against = f"NumPy complex64 {numpy:,.0f} ({ours / numpy:.0f} times)"
        peer = by_mrpro(few1, few2, orders)
        if peer is not None:
            theirs = rate(peer, len(few1))
            against += f", mrpro {version('mrpro')} {theirs:,.0f} ({ours / theirs:.0f} times)"
        against += f"; truncation: median {np.median(lost):.1g}, worst {lost.max():.1g} of the fingerprint"
        rows.append(row(f"IR-FISP, {FRAMES} repetitions, {orders} orders", ours, "fingerprints/s a core",
                        target=f">= {target}", baseline=against))  # fmt: skip
    constants: Any = {k: tuple(v.tolist()) if isinstance(v, np.ndarray) else v for k, v in TRAIN.items()}
    one = np.ones(ATOMS)
    bound = rate(lambda: epg.fisp(t1, t2, one, one, error=1e-4, **constants), ATOMS)
    lost = np.abs(epg.fisp(t1[:200], t2[:200], one[:200], one[:200], error=1e-4, **constants).signal - whole).max()
    rows.append(row(f"IR-FISP, {FRAMES} repetitions, error below 1e-4 of M0", bound, "fingerprints/s a core",
                    baseline=f"orders by each sample's bound; worst error of 200: {lost:.1g} of M0"))  # fmt: skip
    return rows


def phases() -> list[dict[str, Any]]:
    t1, t2 = atoms()
    one, orders, n = np.ones(ATOMS), 20, np.arange(FRAMES)
    phase = np.fmod(n * (n - 1) // 2 * np.deg2rad(117), 2 * np.pi)
    tables = [_pathways.schedule(TRAIN["flip_angle"], phase, TRAIN["repetition_time"], _pathways.DEPHASE,
                                 TRAIN["echo_time"], phase, orders, kind) for kind in (np.float32, float)]  # fmt: skip
    rows = np.stack([-1 / t1, -1 / t2, one, 0 * one])
    start = 1 - 2 * np.exp(-TRAIN["inversion_time"] / t1)
    out = [np.empty((ATOMS, FRAMES), kind) for kind in (np.complex64, complex)]

    def single(i: int) -> None:
        kind = tables[i][0].dtype
        _pathways.train(rows.astype(kind), start.astype(kind), *tables[i], orders, out[i])

    pools = np.empty((_pools.ROWS, ATOMS))
    _pools.rows_of(np.stack([1 / t1, 2 / t1]), np.stack([1 / t2, 4 / t2]), np.zeros((2, ATOMS)), 5 * one, 0.2 * one,
                   False, pools)  # fmt: skip
    pools[0], pools[1] = 1, 0
    halves, pools = np.stack([0.8 * one, 0.2 * one]).astype(np.float32), pools.astype(np.float32)
    speeds = [rate(partial(single, i), ATOMS) for i in range(2)]
    two = rate(lambda: _pools.train(False, pools, halves, *tables[0], orders, out[0]), ATOMS)
    single(0)
    apart = np.abs(out[0] - out[1]).max()
    angles = tuple(np.deg2rad([2, 4, 6, 9, 12, 16, 20, 25]))
    steady = rate(lambda: epg.spoiled_steady_state(t1, t2, one, flip_angle=angles, repetition_time=0.01, echo_time=0.0),
                  ATOMS)  # fmt: skip
    what = f"RF-spoiled IR-FISP, {FRAMES} repetitions, {orders} orders"
    unit = "fingerprints/s a core"
    return [
        row(what, speeds[0], unit, target=">= 35000", baseline=f"pulses of any phase; {apart:.1g} of M0 from float64"),
        row(f"{what}, float64", speeds[1], unit, baseline="the same source"),
        row(f"{what}, two pools that exchange", two, unit),
        row("RF-spoiled steady states of 8 flip angles, TR 10 ms, error below 1e-4 of M0", steady, "sets/s a core",
            baseline="continued fraction, float64"),
    ]  # fmt: skip


if __name__ == "__main__":
    bars = {"fisp": fisp, "phases": phases}
    for bar in sys.argv[1:]:
        record("physics", bars[bar]())
