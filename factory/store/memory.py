"""How many shards are made at once: as many as there are threads, if memory allows; asked before any work."""

from __future__ import annotations

import os
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from factory.store.errors import StoreError
from factory.store.layout import estimate, layouts

if TYPE_CHECKING:
    from distributed import Client

    from factory.recipe import Recipe

WORKING_COPIES = 5  # of a shard's stored bytes: samples in float64, steps' copies, the encoder
CHAIN_COPIES = 2  # of everything that the chain makes for a shard, kept or not
PROCESS_BYTES = 300_000_000  # of a Dask worker before it makes anything: Python, numpy, numba's code


def fitting(recipe: Recipe, client: Client | None, threads: int | None) -> int:
    """Shards to make at once in this process; 0 where the workers of a client make them.

    Raises
    ------
    StoreError
        Not even one fits, here or in a worker.
    """
    need = shard_memory(recipe)
    if client is not None:
        workers = client.scheduler_info(n_workers=-1)["workers"].values()
        limits = [(w["memory_limit"] - PROCESS_BYTES) / max(1, w["nthreads"]) for w in workers if w.get("memory_limit")]
        _require(need, min(limits, default=float("inf")), "a thread of a worker")
        return 0
    free = available()
    _require(need, free, "this machine")
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if threads is not None:
        _require(need * threads, free, "this machine")
        return max(1, threads)
    return max(1, min(cpus, int(free // max(1, need))))


@lru_cache(maxsize=8)
def shard_memory(recipe: Recipe) -> int:
    """Bytes that making the largest shard takes: the stored ones, or what the chain makes on the way if that is more.

    What outer levels make is shared by many samples.
    """
    need = WORKING_COPIES * estimate(recipe).shard_bytes
    for name, plan in layouts(recipe).items():
        split = recipe.splits[name]
        inner = max(split.level_of.values(), default=0)
        each = sum(np.dtype(split.keep.get(key, port.dtype)).itemsize * prod(split.sizes[dim] for dim in port.dims)
                   for key, port in split.ports.items() if split.level_of[key] == inner and port.dims != (key,))
        need = max(need, CHAIN_COPIES * each * min(plan.per_shard, plan.samples))
    return need


def _require(need: int, free: float, who: str) -> None:
    if need > free:
        raise StoreError(f"making shards needs about {need / 1e9:.1f} GB at once, and {who} has "
                         f"{max(0, free) / 1e9:.1f} GB; use fewer threads, or say `shard: N` in the "
                         "recipe with fewer samples a shard")


def available() -> float:
    """Bytes that this process may still use: the machine's, or what is left of a control group's limit."""
    free = float("inf")
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024.0 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError):
        pass  # not Linux: unknown is unbounded
    try:
        group = Path("/sys/fs/cgroup")
        limit, used = (float((group / name).read_text()) for name in ("memory.max", "memory.current"))
        free = min(free, limit - used)
    except (OSError, ValueError):
        pass  # no limit, or not this kind of control group
    return free
