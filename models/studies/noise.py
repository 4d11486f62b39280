"""Noise robustness (Fig. 2 of the paper) and other inversion times (Fig. 9)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import xarray as xr

from models.classical.relaxometry import bound_inversion_recovery
from models.studies import pictures
from models.studies.estimators import Maps, estimators, time_of
from models.studies.slices import HEADS, TISSUES, at_snr, judged_on
from models.studies.statistics import Floats, Part, Row, box, pooled, rows_of

SNRS = (3, 5, 10, 30, 60, 100)
BRAIN = (1, 2, 3)
VARIATION = (0.05, 0.1)  # of A and of T1 (s) within a tissue, as the recipes draw it
Track = Callable[[Iterable[Any], str], Iterable[Any]]


def untracked(items: Iterable[Any], text: str) -> Iterable[Any]:
    return items


def voxels(data: xr.Dataset, name: str, codes: Sequence[int]) -> tuple[Floats, Any]:
    """The truth of a map in some tissues, (voxel,), and the mask."""
    inside = np.isin(data["tissue"].to_numpy()[0], codes)
    truth = np.broadcast_to(data[name].to_numpy()[0], inside.shape)[inside].astype(np.float64)
    return truth, inside


def parts_of(slices: Sequence[xr.Dataset], found: Sequence[Maps], quantity: str, codes: Sequence[int]) -> list[Part]:
    """Estimates and truth of the voxels of some tissues, slice by slice."""
    places = [voxels(one, quantity, codes) for one in slices]
    return [(maps[quantity][:, inside], truth) for maps, (truth, inside) in zip(found, places, strict=True)]


def judged(slices: Sequence[xr.Dataset], found: Sequence[Maps], facts: Row) -> Iterator[Row]:
    """Rows of one method over all slices."""
    for quantity in found[0]:
        for tissue, codes in {**{name: (code,) for name, code in TISSUES.items()}, "brain": BRAIN}.items():
            parts = parts_of(slices, found, quantity, codes)
            yield from rows_of(parts, facts | {"quantity": quantity, "tissue": tissue})


def bounds(slices: Sequence[xr.Dataset], facts: Row) -> Iterator[Row]:
    """What no unbiased estimator of T1 can beat, and what none can on average that knows the tissue's means."""
    kinds: dict[str, dict[str, Any]] = {
        "bound, B free": {},
        "bound, B known": {"known_efficiency": True},
        "bound, B and the tissue's means known": {"known_efficiency": True, "prior": VARIATION},
    }
    for tissue, code in TISSUES.items():
        for method, options in kinds.items():
            spreads = []
            for one in slices:
                (t1, _), (a, _), (b, _) = (voxels(one, name, (code,)) for name in ("t1", "amplitude", "efficiency"))
                sigma, time = float(one["sigma"][0]), one["inversion_time"].to_numpy()
                spreads.append(bound_inversion_recovery(a, b, t1, time, sigma, **options) / t1)
            here = facts | {"method": method, "tissue": tissue, "quantity": "t1"}
            middle = float(100 * np.median(np.concatenate(spreads)))
            yield here | {"name": "relative RMSE", "value": middle, "unit": "%"}


def noise(networks: Sequence[str], recipe: str = "rim_t1", *, size: int = 64, count: int = 100,
          snrs: Sequence[float] = SNRS, track: Track = untracked, heads: int = HEADS,
          ) -> tuple[list[Row], Any]:  # fmt: skip
    """Slices at several signal-to-noise ratios, `count` realisations each: bias and variation of every method."""
    rows: list[Row] = []
    boxes: dict[tuple[str, str, str, float], Row] = {}
    made, spare = judged_on(recipe, size, count, heads)
    for snr in track(snrs, "noise robustness"):
        slices, other = [at_snr(one, snr) for one in made], at_snr(spare, snr)
        facts = {"study": "noise", "snr": snr}
        for method, estimate in estimators(networks, other).items():
            found = [{name: maps for name, maps in estimate(one).items() if name in one} for one in slices]
            rows += judged(slices, found, facts | named(method))
            for quantity in found[0]:
                per_voxel = pooled(parts_of(slices, found, quantity, BRAIN))
                kind = named(method)["method"]
                boxes[kind, quantity, "bias", snr] = box(100 * per_voxel.mean_bias)
                boxes[kind, quantity, "CV", snr] = box(100 * per_voxel.cv)
        if time_of(other) == "inversion_time":
            rows += bounds(slices, facts)
    return rows, pictures.boxes(boxes, snrs)


def named(method: str) -> Row:
    """The method, and the strength of its prior where it was tuned."""
    kind, found, strength = method.partition(", prior on B ")
    return {"method": kind, "prior on B": float(strength)} if found else {"method": method}


TIMES = {31: "rim_t1", 23: "rim_t1_23", 25: "rim_t1_25"}


def times(networks: Sequence[str], *, size: int = 64, count: int = 20, snr: float = 10, track: Track = untracked,
          heads: int = HEADS) -> tuple[list[Row], Any]:  # fmt: skip
    """Networks trained on 31 inversion times, on those of three protocols; the recipes share their draws."""
    rows: list[Row] = []
    for number, recipe in track(TIMES.items(), "other inversion times"):
        made, spare = judged_on(recipe, size, count, heads)
        slices, other = [at_snr(one, snr) for one in made], at_snr(spare, snr)
        for method, estimate in estimators(networks, other).items():
            found = [{"t1": estimate(one)["t1"]} for one in slices]
            rows += judged(slices, found, {"study": "times", "snr": snr, "times": number} | named(method))
    return rows, pictures.bars(rows)
