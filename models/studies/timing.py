"""How long the maps of one slice of 256 x 256 pixels take, every method on one core."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
import xarray as xr

from models.studies import pictures
from models.studies.estimators import estimators, without_controls
from models.studies.noise import Track, named, untracked
from models.studies.slices import one_slice
from models.studies.statistics import Row

PAPER = {"RIM": 3.8, "ResNet": 27.0, "MLE": 575.0}  # s, on an Intel Core i5 of 2.7 GHz


def timing(networks: Sequence[str], *, size: int = 128, snr: float = 10, repeats: int = 3, track: Track = untracked,
           ) -> tuple[list[Row], Any]:  # fmt: skip
    """The shortest of a few runs after one that compiles, on one thread; `size` 128 is tiled to 256."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        data, other = one_slice(size, 1, snr)
        data = tiled(data, 256 // size)
        rows: list[Row] = []
        methods = without_controls(estimators(networks, other))
        for method, estimate in track(methods.items(), "timing"):
            estimate(data)
            seconds = min(timed(estimate, data) for _ in range(repeats))
            facts = {"study": "timing", "name": "one slice", "unit": "s"} | named(method)
            rows.append(facts | {"value": seconds, "paper": PAPER.get(facts["method"])})
    finally:
        torch.set_num_threads(threads)
    return rows, pictures.bars(rows)


def tiled(data: xr.Dataset, times: int) -> xr.Dataset:
    """The slice repeated along both axes."""
    for axis in ("y", "x"):
        data = xr.concat([data] * times, axis, data_vars="minimal", coords="minimal", compat="override")
    return data


def timed(estimate: Any, data: xr.Dataset) -> float:
    start = time.perf_counter()
    estimate(data)
    return time.perf_counter() - start
