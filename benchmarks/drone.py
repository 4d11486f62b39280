"""DRONE for EPI and FISP fingerprints: python benchmarks/drone.py (about seven minutes)

For each, 60,000 fingerprints are made, the network is trained for 10,000 batches of 500 with fresh noise, and what
10,000 noisy test fingerprints tell is compared with dictionary matching and with what noise leaves of the schedule (the
Cramér-Rao bound).  Then a slice by the network against matching, and the bounds of a balanced schedule.  One thread.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from rows import record, row

from factory.floor import drawn
from factory.recipe import load
from factory.store import materialise
from factory.stream import Stream
from models.cards import systems
from models.classical.dictionary import BLOCK, entries, match
from models.classical.fingerprinting import bounds
from models.drone import FISP, GRIDS, Drone, dictionary
from models.training import evaluate, fit

BARS = {"t1": "<= 3", "t2": "<= 6"}
SLICE = 128 * 128  # voxels
VOXELS = 512  # at once through the network: its layers stay in the cache
MEAN = np.sqrt(2 / np.pi)  # of the absolute value of normal errors, over their standard deviation


def rates(task: Any, recipe: Any, store: Path) -> list[dict[str, Any]]:
    """Fingerprints a second into the trainer, and a slice by the network against matching."""
    rows = []
    for what, source in (("stored", store), ("live", recipe)):
        stream = Stream(source, "train", batch=500, seed=1)
        list(stream)
        begun = time.perf_counter()
        count = sum(len(batch["t1"]) for batch in stream)
        rows.append(row(f"DRONE, fingerprints into the trainer, {what}", count / (time.perf_counter() - begun), "1/s"))
    signal = next(iter(Stream(recipe, "train", batch=SLICE)))["signal"]
    _, atoms = dictionary("drone_epi", *GRIDS["drone_epi"][1])
    seconds = {}
    for name, call in (("DRONE", lambda: task.predict({"signal": signal})),
                       ("matching", lambda: match(signal.numpy(), atoms))):  # fmt: skip
        call()
        begun = time.perf_counter()
        call()
        seconds[name] = time.perf_counter() - begun
    against = f"matching of {len(atoms)} entries {1e3 * seconds['matching']:.0f} ms, as many threads"
    rows.append(row(f"DRONE, a slice of {SLICE} voxels", 1e3 * seconds["DRONE"], "ms", baseline=against))
    return rows


def best(call: Callable[[], Any], rounds: int) -> float:
    """Seconds of the fastest of some rounds, after one that warms up."""
    call()
    taken = []
    for _ in range(rounds):
        begun = time.perf_counter()
        call()
        taken.append(time.perf_counter() - begun)
    return min(taken)


def slice_against_matching(name: str, title: str, task: Any) -> dict[str, Any]:
    """How many times faster the network is than the largest dictionary, both in float32, and where the time goes."""
    signal = next(iter(Stream(load(name), "train", batch=SLICE)))["signal"].contiguous()
    atoms = dictionary(name, *GRIDS[name][-1])[1].astype(np.float32)
    fingerprints, few = signal.numpy(), BLOCK // len(atoms)

    def multiply() -> None:
        for n in range(0, SLICE, few):
            fingerprints[n : n + few] @ atoms.T

    def pass_on() -> None:
        for _ in range(SLICE // VOXELS):
            for one, x in layers:
                one(x)

    layers = [(one, torch.ones(VOXELS, one.in_features)) for one in task.net if isinstance(one, torch.nn.Linear)]
    with torch.inference_mode():
        network = best(lambda: [task.predict({"signal": part}) for part in signal.split(VOXELS)], 9)
        linear = best(pass_on, 9)
    matching, products = best(lambda: match(fingerprints, atoms), 9), best(multiply, 9)
    square = torch.ones(2048, 2048)
    limit = 2e-9 * 2048**3 / best(lambda: square @ square, 9)
    work = [2e-9 * SLICE * size for size in (sum(p.numel() for p in task.parameters()), atoms.size)]
    against = (f"network {1e3 * network:.0f} ms, {work[0]:.1f} GFLOP of products take {1e3 * linear:.0f}; matching "
               f"{1e3 * matching:.0f} ms, {work[1]:.0f} GFLOP take {1e3 * products:.0f}; large matrices reach "
               f"{limit:.0f} GFLOP/s; float32, one thread")  # fmt: skip
    return row(f"{title}, a slice of {SLICE} voxels, times faster than matching of {len(atoms)} entries",
               matching / network, "times", target=">= 100", baseline=against)  # fmt: skip


def bounds_of(name: str, unknown: tuple[str, ...], others: dict[str, float] | None = None) -> dict[str, float]:
    """Mean relative errors, in %, of an estimate without bias that uses all that test fingerprints of 26 dB tell.

    The scale is unknown as well, and so are the ``others``, which are moved by so much.
    """
    recipe = load(name)
    values = drawn(recipe, "test", 0, 10_000 if others is None else 2_000)
    scalars = {one: axis for one, axis in values.items() if axis.ndim == 1}
    steps = {one: 0.01 * scalars[one] for one in unknown}
    found = bounds(partial(entries, recipe, "clean"), scalars, steps | (others or {}), 26.0)
    return {one: float(100 * MEAN * np.mean(found[one] / scalars[one])) for one in unknown}


def balanced() -> list[dict[str, Any]]:
    """Bounds of the balanced schedule, where off-resonance and phase are unknown too."""
    both, other = ("t1", "t2"), {"off_resonance": 0.1}
    known, free = (bounds_of("bssfp_mrf", unknown, other) for unknown in (both, (*both, "b1")))
    return [row(f"balanced fingerprints, Cramér-Rao bound of the mean relative error of {one.upper()} at 26 dB",
                known[one], "%", baseline=f"off-resonance, phase and scale unknown; with B1 unknown {free[one]:.3g} %")
            for one in both]  # fmt: skip


def trained(name: str, folder: Path) -> tuple[list[dict[str, Any]], Path]:
    """Rows of one system's errors, and the store that it was trained on."""
    card, rows, store = systems()[name], [], folder / name
    recipe = card.stages[0].recipe
    materialise(load(recipe), store)
    begun = time.perf_counter()
    weights = fit(card, Stream(store, "train", batch=500, seed=1), out=folder / "run" / name, progress=False)
    seconds = time.perf_counter() - begun
    found: dict[str, dict[str, float]] = {}
    for one in evaluate(card, weights, Stream(store, "test", batch=1000, shuffle=False, tail="pad")):
        found.setdefault(str(one["quantity"]), {})[str(one["method"])] = float(one["value"])
    title = "DRONE" if name == "drone" else "DRONE, FISP,"
    least = bounds_of(recipe, tuple(found))
    for quantity, errors in found.items():
        others = ", ".join(f"{method} {value:.3g} %" for method, value in errors.items() if method != "DRONE")
        against = f"{others}; trained {seconds:.0f} s on one thread"
        rows.append(row(f"{title}, mean relative error of {quantity.upper()} at 26 dB".replace(",,", ","),
                        errors["DRONE"], "%", target=BARS[quantity] if name == "drone" else "", baseline=against))
        if name == "drone":
            rows.append(row(f"DRONE, {quantity.upper()} error over that of the 187-entry grid",
                            errors["DRONE"] / errors["matching, 187 entries"], "ratio", target="< 1"))  # fmt: skip
        rows.append(row(f"{title}, Cramér-Rao bound of the mean relative error of {quantity.upper()} at 26 dB"
                        .replace(",,", ","), least[quantity], "%", baseline=compared(errors)))  # fmt: skip
    return rows, store


def compared(errors: dict[str, float]) -> str:
    """The errors that stand beside a bound."""
    finest = [method for method in errors if method.startswith("matching")][-1]
    return (f"DRONE {errors['DRONE']:.3g} %, {finest} {errors[finest]:.3g} %; both know the ranges of what is "
            "drawn, and the bound does not")  # fmt: skip


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        rows, store = trained("drone", Path(folder))
        rows += rates(Drone(25).eval(), load("drone_epi"), store)  # how fast it is does not depend on its weights
        rows += trained("drone_fisp", Path(folder))[0]
    rows.append(slice_against_matching("drone_epi", "DRONE", Drone(25).eval()))
    rows.append(slice_against_matching("drone_fisp", "DRONE, FISP", Drone(600, FISP).eval()))
    record("physics", rows + balanced())


if __name__ == "__main__":
    main()
