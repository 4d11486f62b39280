"""DRONE for EPI and FISP fingerprints: python benchmarks/drone.py (about six minutes)

For each, 60,000 fingerprints are made, the network is trained for 10,000 batches of 500 with fresh noise, and what
10,000 noisy test fingerprints tell is compared with dictionary matching.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from rows import record, row

from factory.recipe import load
from factory.store import materialise
from factory.stream import Stream
from models.cards import systems
from models.classical.dictionary import match
from models.drone import GRIDS, Drone, dictionary
from models.training import evaluate, fit

BARS = {"t1": "<= 3", "t2": "<= 6"}
SLICE = 128 * 128  # voxels


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
    for quantity, errors in found.items():
        others = ", ".join(f"{method} {value:.3g} %" for method, value in errors.items() if method != "DRONE")
        against = f"{others}; trained {seconds:.0f} s on one thread"
        rows.append(row(f"{title}, mean relative error of {quantity.upper()} at 26 dB".replace(",,", ","),
                        errors["DRONE"], "%", target=BARS[quantity] if name == "drone" else "", baseline=against))
        if name == "drone":
            rows.append(row(f"DRONE, {quantity.upper()} error over that of the 187-entry grid",
                            errors["DRONE"] / errors["matching, 187 entries"], "ratio", target="< 1"))  # fmt: skip
    return rows, store


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        rows, store = trained("drone", Path(folder))
        rows += rates(Drone(25).eval(), load("drone_epi"), store)  # how fast it is does not depend on its weights
        rows += trained("drone_fisp", Path(folder))[0]
    record("physics", rows)


if __name__ == "__main__":
    main()
