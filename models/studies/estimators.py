"""Who is judged: networks, maximum-likelihood fits, and controls, all as functions of one data set.

An estimator takes a data set with `signal` (sample, time, y, x), its times in s, and the truth that only controls and
oracles may read; it returns the maps (sample, y, x) of amplitude, efficiency (T1 only) and t1 or t2.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray

from models import weights
from models.cards import systems
from models.classical.relaxometry import fit_inversion_recovery, fit_t2_decay

Maps = dict[str, NDArray[np.float64]]
Estimator = Callable[[xr.Dataset], Maps]
TUNED = (1e1, 1e2, 1e3, np.inf)  # strengths of the prior on B, in units of sigma^-2, among which one is chosen
AT_ONCE = 2**17  # voxels of a batch
CONTROLS = ("constant map", "tissue-mean map")


def time_of(data: xr.Dataset) -> str:
    """The time axis of the signal."""
    return "inversion_time" if "inversion_time" in data.dims else "echo_time"


def network(path: str | os.PathLike[str]) -> Estimator:
    """The network of a weights file, whole slices at a time."""
    facts: Any = weights.read(path)[1]
    shapes = {name: tuple(size) for name, size in facts["shapes"].items()}
    task = weights.load(systems()[facts["system"]], path, shapes=shapes)

    def estimate(data: xr.Dataset) -> Maps:
        time = time_of(data)
        signal = data["signal"].transpose("sample", time, "y", "x").to_numpy()
        count = max(1, AT_ONCE // signal[0, 0].size)
        found: dict[str, list[NDArray[np.float64]]] = {}
        for start in range(0, len(signal), count):
            batch = {
                "signal": torch.from_numpy(np.ascontiguousarray(signal[start : start + count])),
                time: torch.tensor(data[time].to_numpy().copy()),
            }
            with torch.inference_mode():
                for name, value in task.predict(batch).items():
                    found.setdefault(name, []).append(value.double().numpy())
        return {name: np.concatenate(parts) for name, parts in found.items()}

    return estimate


def likelihood(data: xr.Dataset, *, known: bool = False, strength: float = 0.0) -> Maps:
    """Maximum likelihood: B known, free in each voxel (strength 0), or under a smoothness prior."""
    if time_of(data) == "echo_time":
        found = fit_t2_decay(data)
    else:
        prior = strength * float(data["sigma"][0]) ** 2 if strength and np.isfinite(strength) else strength
        found = fit_inversion_recovery(data, efficiency="efficiency" if known else None, smoothness=prior)
    return {str(name): np.nan_to_num(found[name].to_numpy()) for name in found if name != "cost"}


def tuned(validation: xr.Dataset) -> tuple[Estimator, float]:
    """The maximum-likelihood fit whose prior on B has the least error of T1 on a validation slice, and its strength."""
    inside = validation["tissue"].to_numpy() > 0
    truth = validation["t1"].to_numpy()[inside]

    def error(strength: float) -> float:
        return float(np.median(np.abs(likelihood(validation, strength=strength)["t1"][inside] / truth - 1)))

    best = min(TUNED, key=error)
    return lambda data: likelihood(data, strength=best), best


def controls(quantity: str) -> dict[str, Estimator]:
    """Two maps that do not look at the signal: the median of the truth, and the mean of each tissue's truth."""

    def constant(data: xr.Dataset) -> Maps:
        truth, inside = data[quantity].to_numpy(), data["tissue"].to_numpy() > 0
        return {quantity: np.full(truth.shape, np.median(truth[inside]))}

    def mean(data: xr.Dataset) -> Maps:
        truth, tissue = data[quantity].to_numpy().astype(np.float64), data["tissue"].to_numpy()
        out = np.zeros(truth.shape)
        for code in np.unique(tissue[tissue > 0]):
            out[tissue == code] = truth[tissue == code].mean()
        return {quantity: out}

    return dict(zip(CONTROLS, (constant, mean), strict=True))


def without_controls(found: Mapping[str, Estimator]) -> dict[str, Estimator]:
    """The methods that look at the signal."""
    return {name: one for name, one in found.items() if name not in CONTROLS}


def estimators(networks: Sequence[str | os.PathLike[str]], validation: xr.Dataset) -> Mapping[str, Estimator]:
    """Every method of a study, by name; the networks by the names of their kind."""
    found: dict[str, Estimator] = {}
    for path in networks:
        facts: Any = weights.read(path)[1]
        label = "RIM" if facts["system"].startswith("rim") else "ResNet"
        images = facts["shapes"]["signal"][0]
        if label == "RIM" or images == validation.sizes[time_of(validation)]:  # a ResNet takes so many images only
            found[label] = network(path)
    if time_of(validation) == "echo_time":
        return found | {"MLE": likelihood} | controls("t2")
    fit, strength = tuned(validation)
    return found | {
        f"MLE, prior on B {strength:g}": fit,
        "MLE, B known": lambda data: likelihood(data, known=True),
        "MLE, B free": likelihood,
    } | controls("t1")  # fmt: skip
