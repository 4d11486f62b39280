"""Bars of production: python benchmarks/production.py BAR ..., where BAR is one of

- encoder   shards encoded, against zarr-python in the same process
- shard     fixed cost of a shard, and how often it is synchronised
- disk      `make` to disk against making alone
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import zarr
from rows import record, row
from zarr.core.buffer import default_buffer_prototype
from zarr.storage import MemoryStore

from factory import floor
from factory.recipe import load
from factory.store import commit, materialise
from factory.store.encode import encode_shard
from factory.store.layout import Bulk, Layout, inner_chunk, layouts
from factory.store.metadata import array_document, create

KINDS = {  # of samples: dtype, shape, samples a shard
    "2 kB": ("complex64", (256,), 16384),
    "218 kB": ("float32", (40, 40, 34), 256),
    "2.1 MB": ("float32", (64, 64, 128), 16),
}
STORES, ROUNDS = 25, 5
SMALL = {
    "splits.train.levels": "{subject: 2, patch: 4000}", "splits.validation.levels": "{subject: 1, patch: 1}",
    "splits.test.levels": "{subject: 1, patch: 1}", "splits.noise_study.levels": "{subject: 1, patch: 1, noise: 1}",
}  # fmt: skip


def cpu_seconds(call: Callable[[], object], repeats: int = 5) -> float:
    """The median; the first call warms up."""
    call()
    seconds = []
    for _ in range(repeats):
        begun = time.process_time()
        call()
        seconds.append(time.process_time() - begun)
    return statistics.median(seconds)


def by_us(bulk: Bulk, values: Any) -> bytes:
    return b"".join(encode_shard(bulk, values))


def by_zarr(document: dict[str, Any], values: Any) -> None:
    held: dict[str, Any] = {"zarr.json": default_buffer_prototype().buffer.from_bytes(json.dumps(document).encode())}
    array = zarr.open_array(MemoryStore(held), mode="r+", zarr_format=3, config={"write_empty_chunks": True})
    array[...] = values


def encoder() -> list[dict[str, Any]]:
    found = []
    for name, (dtype, shape, per_shard) in KINDS.items():
        chunk = inner_chunk(dtype, shape, per_shard)
        bulk = Bulk("a", "1", dtype, tuple("zyx")[-len(shape) :], shape, per_shard, chunk)
        document = array_document(bulk, Layout("train", per_shard, per_shard, {"a": bulk}, {}, {}, ("a",)), {})
        values = np.random.default_rng(0).normal(size=(per_shard, *shape)).astype(dtype)
        ours, theirs = cpu_seconds(partial(by_us, bulk, values)), cpu_seconds(partial(by_zarr, document, values))
        speed = values.nbytes / theirs / 1e9
        against = f"zarr-python {zarr.__version__} {speed:.2g} GB per CPU-second, {theirs / ours:.1f} times as long"
        found.append(row(f"encoder, samples of {name}", values.nbytes / ours / 1e9, "GB per CPU-second",
                         target=">= 0.8", baseline=against))  # fmt: skip
    return found


def shard() -> list[dict[str, Any]]:
    """Many shards of one small sample that costs nothing to make."""
    recipe = load("rim_t1", corner=True, set={"shard": "1"})
    plan = next(iter(layouts(recipe).values()))
    block = floor.make(recipe, plan.split, 0, 1)
    return [_shard(recipe, plan, block, durable) for durable in ("process", "power")]


def _shard(recipe: Any, plan: Layout, block: Any, durable: commit.Durable) -> dict[str, Any]:
    synchronised: list[int] = []
    real = commit.os.fsync

    def counted(handle: int) -> None:
        synchronised.append(handle)
        real(handle)

    seconds = []
    for _ in range(STORES + 1):  # the first warms up
        with (tempfile.TemporaryDirectory(dir=".") as folder, patch.object(floor, "make", lambda *_: block),
              patch.object(commit.os, "fsync", counted)):  # fmt: skip
            store = Path(folder, "store")
            create(recipe, store)
            synchronised.clear()
            begun = time.perf_counter()
            for number in range(plan.shards):
                commit.write(recipe, store, plan.split, number, "bench", durable)
            seconds.append((time.perf_counter() - begun) / plan.shards)
    against = (f"{len(synchronised) / plan.shards:.3g} fsyncs and {len(plan.bulk) + 1} files a shard, "
               f"{plan.shards} shards, median of {STORES} stores")  # fmt: skip
    return row(f"fixed cost of a shard, --durable={durable}", 1e3 * statistics.median(seconds[1:]), "ms",
               target="<= 2" if durable == "process" else "", baseline=against)  # fmt: skip


def disk() -> list[dict[str, Any]]:
    """Wall time of `make` over that of making the same samples and throwing them away, one thread.

    Beside it the same bytes are written by a bare loop, as fast as this machine takes them.
    """
    recipe = load("rim_t1", set=SMALL)
    plan = layouts(recipe)["train"]
    ratios, bare = [], []
    for _ in range(1 + ROUNDS):
        begun = time.perf_counter()
        for number in range(plan.shards):
            block = floor.make(recipe, "train", *plan.span(number))
        alone = time.perf_counter() - begun
        with tempfile.TemporaryDirectory(dir=".") as folder:
            begun = time.perf_counter()
            for number in range(plan.shards):
                for name in plan.bulk:
                    with Path(folder, f"{name}.{number}").open("wb") as file:
                        file.write(block[name].to_numpy().data)
                        commit.os.fsync(file.fileno())
            bare.append((time.perf_counter() - begun) / alone)
        with tempfile.TemporaryDirectory(dir=".") as folder:
            begun = time.perf_counter()
            materialise(recipe, Path(folder, "store"), threads=1)
            ratios.append((time.perf_counter() - begun) / alone)
    ratios, share = ratios[1:], statistics.median(bare[1:])  # the first warms up: code, and memory of a virtual machine
    against = (f"{plan.nbytes / 1e6:.0f} MB; {', '.join(f'{r:.2f}' for r in ratios)}; writing and synchronising as "
               f"many bytes by a bare loop takes {share:.2f} of the time of making them")  # fmt: skip
    ratio = statistics.median(ratios)
    return [row("make to disk over making alone", ratio, "ratio", target="<= 1.15", baseline=against)]


if __name__ == "__main__":
    bars = {"encoder": encoder, "shard": shard, "disk": disk}
    for bar in sys.argv[1:]:
        record("production", bars[bar]())
