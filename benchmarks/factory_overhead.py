"""What the factory costs beside the physics it runs, and how its speeds compare with this machine's memory.

    python benchmarks/factory_overhead.py [RECIPE]

Every figure is a median of seven, taken in turn with what it is compared with, one thread, in this process.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import xarray as xr
from rows import record, row

import factory.floor as floor
from factory.recipe import Recipe, load
from factory.store import materialise, read_layout

REPEATS = 7


def seconds(work: Callable[[], Any], clock: Callable[[], float] = time.perf_counter) -> float:
    start = clock()
    work()
    return clock() - start


def bandwidth() -> float:
    """Bytes a second that one thread copies, payload counted once; arrays far larger than the caches."""
    source = np.random.default_rng(0).random(2**26)  # 512 MB
    target = np.empty_like(source)
    np.copyto(target, source)
    return source.nbytes / min(seconds(lambda: np.copyto(target, source)) for _ in range(REPEATS))


def overhead(recipe: Recipe, samples: int) -> float:
    """Time of `make` over that of the recipe's step functions replayed on recorded inputs."""
    calls: list[tuple[Any, ...]] = []
    real = floor._call

    def spy(link: Any, draws: Any, inputs: Any) -> Any:
        calls.append(
            (
                link.step,
                [x.copy() if x.strides[0] else x for x in inputs],
                {"draws": draws.under(link.label)} if link.step.random else {},
                link.constants,
            )
        )
        return real(link, draws, inputs)

    def forget() -> None:
        floor._remembered.states.clear()
        floor._remembered.held = 0

    def whole() -> None:
        forget()
        floor.make(recipe, "train", 0, samples)

    def replay() -> None:
        for step, inputs, extra, constants in calls:
            step(*inputs, **extra, **constants)

    forget()
    floor._call = spy
    floor.make(recipe, "train", 0, samples)
    floor._call = real
    whole(), replay()
    ratios = [seconds(whole, time.process_time) / seconds(replay, time.process_time) for _ in range(REPEATS)]
    return median(ratios)


def virtual_open(name: str) -> tuple[float, bool]:
    """Milliseconds to open a split of 10^12 samples, and whether sample 123456789 equals the one made in a shard."""
    recipe = load(name, samples={"train": 10**12})
    first = xr.open_dataset(recipe, engine="factory", split="train")
    times = [seconds(lambda: xr.open_dataset(recipe, engine="factory", split="train")) for _ in range(REPEATS)]
    index = 123_456_789
    one = first.isel(sample=index)
    shard = floor.make(recipe, "train", index - 3, index + 4).isel(sample=3)
    same = all(one[v].to_numpy().tobytes() == shard[v].to_numpy().tobytes() for v in shard.variables)
    return median(times) * 1e3, same


def load_time(name: str) -> float:
    """Milliseconds to read and check a recipe."""
    load(name)
    return 1e3 * median(seconds(lambda: load(name)) for _ in range(REPEATS))


def rates(name: str, samples: int) -> dict[str, float]:
    """Bytes a second of making, of writing to disk (making included), and of streaming in random order."""
    from factory.stream import Stream

    recipe = load(name, samples={s: samples if s == "train" else 1 for s in load(name).splits})
    split = recipe.splits["train"]
    size = samples * split.sample_bytes
    floor.make(recipe, "train", 0, 2)
    step = 256
    made = [
        size
        / seconds(lambda: [floor.make(recipe, "train", a, min(a + step, samples)) for a in range(0, samples, step)])
        for _ in range(3)
    ]
    with tempfile.TemporaryDirectory() as folder:
        written = []
        for k in range(3):
            written.append(size / seconds(lambda k=k: materialise(recipe, f"{folder}/{k}.zarr", threads=1)))
        store = Path(folder) / "0.zarr"
        read_layout(store, "train")
        stream = Stream(store, "train", batch=32, seed=1)
        for _ in stream:
            pass
        read = []
        for epoch in range(1, REPEATS + 1):
            stream.set_epoch(epoch)
            count = 0
            start = time.perf_counter()
            for batch in stream:
                count += len(batch["signal"])
            read.append(count * split.sample_bytes / (time.perf_counter() - start))
    return {"making": median(made), "writing": median(written), "streaming": median(read), "bytes": split.sample_bytes}


def main(name: str = "rim_t1") -> None:
    recipe = load(name)
    shard = 256
    copy = bandwidth()
    ratio = overhead(recipe, shard)
    milliseconds, same = virtual_open(name)
    speed = rates(name, 2048)
    against = f"one thread copies {copy / 1e9:.1f} GB/s"
    rows = [
        row("factory overhead at shard size", ratio, "x step time", target="<= 1.3",
            baseline=f"steps of {name} replayed, {shard} samples", seed=recipe.seed),
        row("opening 10^12 samples", milliseconds, "ms", target="<= 5", baseline="xr.open_dataset of a loaded recipe"),
        row("reading and checking the recipe", load_time(name), "ms", baseline=f"{name}, 5 kB of YAML"),
        row("sample 123456789 equals its shard's", float(same), "bool", target=">= 1", baseline="every byte"),
        row("memory bandwidth", copy / 1e9, "GB/s", baseline="np.copyto, 512 MB, payload counted once"),
    ]  # fmt: skip
    for what in ("making", "writing", "streaming"):
        rows.append(row(f"{what} {name}", speed[what] / speed["bytes"], "samples/s", baseline="one thread"))
        rows.append(row(f"{what} {name}, share of memory bandwidth", speed[what] / copy, "ratio", baseline=against))
    record("foundation", rows)


if __name__ == "__main__":
    main(*sys.argv[1:])
