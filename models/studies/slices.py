"""What is judged on: slices of unseen heads, and many realisations of the noise of each.

Slices come from the recipe itself (levels: everything but the noise is drawn once), at the times of any recipe.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
import xarray as xr

from factory import floor
from factory.recipe import Recipe, load
from models import layers

HEADS = 6  # that are judged on, one slice each with tissue means of its own
SLICES = 8  # patches among which one with much grey and white matter is chosen
REFERENCE = 0.75  # mean amplitude of the brain: SNR = REFERENCE / sigma
GREY_MATTER, WHITE_MATTER = 2, 3
TISSUES = {"grey_matter": GREY_MATTER, "white_matter": WHITE_MATTER}


def judged_on(
    name: str, size: int, count: int, heads: int = HEADS, changes: Mapping[str, str] | None = None
) -> tuple[list[xr.Dataset], xr.Dataset]:
    """Slices of size x size of several heads to judge on, and one of another head to tune on, all at SNR 10.

    Each is a data set of `count` samples: signal (sample, time, y, x), the maps behind it, and sigma (sample,).
    """
    settings = {
        "chain.anatomy.patch.size": str(size),
        "splits.noise_study.levels.subject": str(heads + 1),
        "splits.noise_study.levels.patch": str(SLICES),
        "splits.noise_study.levels.noise": str(max(2, count)),
    }
    recipe = load(name, set=settings | dict(changes or {}))
    *judged, other = (slice_of(recipe, subject, max(2, count)) for subject in range(heads + 1))
    return [one.isel(sample=slice(0, count)) for one in judged], other.isel(sample=slice(0, 2))


def clean(data: xr.Dataset) -> xr.DataArray:
    """The signal that the maps of a data set have without noise."""

    def tensor(name: str) -> torch.Tensor:
        return torch.tensor(data[name].to_numpy().copy(), dtype=torch.float64)

    slow = tensor("t1" if "t1" in data else "t2")
    slow = torch.where(slow > 0, slow, torch.ones_like(slow))  # air has no amplitude either
    if "t1" in data:
        made = layers.inversion_recovery(tensor("amplitude"), tensor("efficiency"), slow, tensor("inversion_time"))
    else:
        made = layers.t2_decay(tensor("amplitude"), slow, tensor("echo_time"))
    return data["signal"].copy(data=made.numpy())


def at_snr(data: xr.Dataset, snr: float) -> xr.Dataset:
    """The same maps and the same realisations of noise, scaled to another SNR."""
    still, sigma = clean(data), REFERENCE / snr
    signal = still + (data["signal"] - still) * (sigma / data["sigma"])
    signal = signal.astype(np.float32).transpose(*data["signal"].dims)
    return data.assign(signal=signal, sigma=data["sigma"] * 0 + sigma)


def one_slice(size: int, count: int, snr: float, name: str = "rim_t1") -> tuple[xr.Dataset, xr.Dataset]:
    """The slice of one head to judge on, and another head's to tune on."""
    (data,), other = judged_on(name, size, count, heads=1)
    return at_snr(data, snr), at_snr(other, snr)


def slice_of(recipe: Recipe, subject: int, count: int) -> xr.Dataset:
    """All realisations of one slice of a head: the one in which the rarer of grey and white matter fills most.

    It is chosen by anatomy, not by errors.
    """
    starts = (number * count for number in range(subject * SLICES, (subject + 1) * SLICES))
    first = max(starts, key=lambda k: mixed(floor.make(recipe, "noise_study", k, k + 1)))
    return flat(floor.make(recipe, "noise_study", first, first + count))


def flat(data: xr.Dataset) -> xr.Dataset:
    """The efficiency of a slice as a map, like the others."""
    if "efficiency" not in data:
        return data
    like = data["t1"]
    return data.assign(efficiency=data["efficiency"].broadcast_like(like).transpose(*like.dims))


def mixed(one: xr.Dataset) -> float:
    tissue = one["tissue"].to_numpy()
    return min(float(np.mean(tissue == code)) for code in TISSUES.values())
