"""Speed of the physics, a core: python benchmarks/physics.py BAR ..., where BAR is one of

- fisp     fingerprints of a FISP train of 1,000 repetitions, against NumPy and, where it is installed, mrpro
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import numpy as np
from rows import record, row

from factory.physics import epg

ROUNDS, FRAMES, ATOMS = 7, 1000, 4096
TRAIN = {
    "flip_angle": np.deg2rad(5 + 65 * np.sin(np.linspace(0, 5 * np.pi, FRAMES)) ** 2),
    "repetition_time": np.random.default_rng(1).uniform(0.012, 0.015, FRAMES), "echo_time": 0.003,
    "inversion_time": 0.02,
}  # fmt: skip
TARGETS = {20: 100_000, 60: 45_000}  # orders: fingerprints/s


def rate(call: Callable[[], Any], count: int) -> float:
    """How many a second, the median of some rounds; the first one warms up."""
    seconds = []
    for _ in range(1 + ROUNDS):
        begun = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - begun)
    return count / statistics.median(seconds[1:])


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


def fisp() -> list[dict[str, Any]]:
    rng, rows = np.random.default_rng(0), []
    t1, t2 = rng.uniform(0.2, 3, ATOMS), rng.uniform(0.02, 0.3, ATOMS)
    few1, few2 = t1[:1000].astype(np.float32), t2[:1000].astype(np.float32)
    ones = np.ones(ATOMS)
    constants: Any = {k: tuple(v.tolist()) if isinstance(v, np.ndarray) else v for k, v in TRAIN.items()}
    whole = epg.fisp(t1[:200], t2[:200], ones[:200], ones[:200], n_order=FRAMES, **constants).signal
    for orders, target in TARGETS.items():
        ours = rate(lambda n=orders: epg.fisp(t1, t2, ones, ones, n_order=n, **constants), ATOMS)
        numpy = rate(lambda n=orders: by_numpy(few1, few2, n), len(few1))
        kept = epg.fisp(t1[:200], t2[:200], ones[:200], ones[:200], n_order=orders, **constants).signal
        lost = np.linalg.norm(kept - whole, axis=1) / np.linalg.norm(whole, axis=1)
        against = f"NumPy complex64 {numpy:,.0f} ({ours / numpy:.0f} times)"
        peer = by_mrpro(few1, few2, orders)
        if peer is not None:
            theirs = rate(peer, len(few1))
            against += f", mrpro {version('mrpro')} {theirs:,.0f} ({ours / theirs:.0f} times)"
        against += f"; truncation: median {np.median(lost):.1g}, worst {lost.max():.1g} of the fingerprint"
        rows.append(row(f"IR-FISP, {FRAMES} repetitions, {orders} orders", ours, "fingerprints/s a core",
                        target=f">= {target}", baseline=against))  # fmt: skip
    return rows


if __name__ == "__main__":
    bars = {"fisp": fisp}
    for bar in sys.argv[1:]:
        record("physics", bars[bar]())
