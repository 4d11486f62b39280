"""Blurriness: small structures and their neighbourhood (Fig. 3 of the paper), and the sharpness of the border between
grey and white matter (Fig. 7)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from scipy import ndimage, optimize, stats

from models.studies import pictures
from models.studies.estimators import estimators, without_controls
from models.studies.noise import Track, named, untracked
from models.studies.slices import GREY_MATTER, WHITE_MATTER, clean, one_slice
from models.studies.statistics import Floats, Row, repeated

HYPO, HYPER = 0.4, 1.2  # T1 of the structures, s
LONG = 6  # pixels of a line
# name -> (tissue around it, T1, rows, columns)
STRUCTURES = {
    "hypo point": (GREY_MATTER, HYPO, 1, 1),
    "hyper point": (WHITE_MATTER, HYPER, 1, 1),
    "vertical line": (WHITE_MATTER, HYPER, LONG, 1),
    "horizontal line": (WHITE_MATTER, HYPER, 1, LONG),
}


def placed(tissue: Any) -> dict[str, Any]:
    """Masks of the four structures: each as deep inside its tissue as it can lie, none beside another."""
    found: dict[str, Any] = {}
    free = np.ones(tissue.shape, bool)
    for name, (code, _, height, width) in STRUCTURES.items():
        same = (tissue == code) & free
        depth = ndimage.distance_transform_edt(np.pad(same, 1))[1:-1, 1:-1]
        reach = ndimage.minimum_filter(depth, size=(height, width), mode="constant")
        row, column = np.unravel_index(np.argmax(reach), reach.shape)
        top, left = row - height // 2, column - width // 2
        mask = np.zeros(tissue.shape, bool)
        mask[top : top + height, left : left + width] = True
        found[name] = mask
        free &= ~ndimage.binary_dilation(mask, iterations=4)
    return found


def with_structures(data: xr.Dataset, masks: dict[str, Any]) -> xr.Dataset:
    """The same slice, with the same noise, and the structures in its T1."""
    t1 = data["t1"].to_numpy().copy()
    for name, mask in masks.items():
        t1[:, mask] = STRUCTURES[name][1]
    changed = data.assign(t1=data["t1"].copy(data=t1))
    noise = data["signal"] - clean(data)
    return changed.assign(signal=(clean(changed) + noise).astype(np.float32))


def blur(networks: Sequence[str], *, size: int = 128, count: int = 100, snr: float = 10,
         track: Track = untracked) -> tuple[list[Row], Any]:  # fmt: skip
    """Bias and variation in and around small structures, without (E1) and with them (E2), under equal noise."""
    data, other = one_slice(size, count, snr)
    masks = placed(data["tissue"].to_numpy()[0])
    scenarios = {"E1": data, "E2": with_structures(data, masks)}
    methods = without_controls(estimators(networks, other))
    rows: list[Row] = []
    for method, estimate in track(methods.items(), "blurriness"):
        maps = {scenario: estimate(one)["t1"] for scenario, one in scenarios.items()}
        for structure, mask in masks.items():
            around = ndimage.binary_dilation(mask, np.ones((3, 3))) & ~mask
            for region, where in (("structure", mask), ("neighbourhood", around)):
                facts = {"study": "blur", "structure": structure, "region": region, "quantity": "t1"}
                rows += compared(scenarios, maps, where, facts | named(method))
    picture = pictures.structures(rows, data["t1"].to_numpy()[0], masks)
    return rows, picture


def compared(scenarios: dict[str, xr.Dataset], maps: dict[str, Floats], where: Any, facts: Row) -> list[Row]:
    """Bias and variation of both scenarios in one region, the change of the bias, its standard error and a t-test."""
    rows, errors = [], {}
    for scenario, one in scenarios.items():
        truth = one["t1"].to_numpy()[0][where].astype(np.float64)
        estimates = maps[scenario][:, where]
        found = repeated(estimates, truth)
        errors[scenario] = 100 * (estimates / truth - 1).mean(1)  # of each repetition
        here = facts | {"scenario": scenario, "unit": "%"}
        rows += [
            here | {"name": "bias", "value": 100 * float(np.mean(found.mean_bias))},
            here | {"name": "median bias", "value": float(np.median(errors[scenario]))},
            here | {"name": "CV", "value": 100 * float(np.mean(found.cv))},
        ]
    change = errors["E2"].mean() - errors["E1"].mean()
    spread = np.sqrt(sum(e.var(ddof=1) / len(e) for e in errors.values()))
    p = float(stats.ttest_ind(errors["E1"], errors["E2"], equal_var=False).pvalue)
    return [
        *rows,
        facts | {"name": "change of bias", "value": float(change), "unit": "%"},
        facts | {"name": "change in standard errors", "value": float(change / spread), "unit": "1"},
        facts | {"name": "p of the t-test", "value": p, "unit": "1"},
    ]


LINES, REACH = 20, 4.0  # lines across the border, and pixels to each side of it


def sharpness(networks: Sequence[str], *, size: int = 128, snr: float = 30, track: Track = untracked,
              ) -> tuple[list[Row], Any]:  # fmt: skip
    """Slope of a sigmoid along lines across the border of grey and white matter, in each map and in the truth."""
    data, other = one_slice(size, 1, snr)
    lines = across(data["tissue"].to_numpy()[0])
    methods = without_controls(estimators(networks, other))
    maps = {"truth": data["t1"].to_numpy()[0].astype(np.float64)}
    for method, estimate in track(methods.items(), "sharpness"):
        maps[named(method)["method"]] = estimate(data)["t1"][0]
    slopes = {method: np.array([steepness(one, line) for line in lines]) for method, one in maps.items()}
    rows: list[Row] = []
    for method, found in slopes.items():
        facts = {"study": "sharpness", "method": method, "quantity": "t1"}
        rows.append(facts | {"name": "sigmoid slope", "value": float(np.nanmedian(found)), "unit": "1/pixel"})
        if method != "truth":
            both = np.isfinite(found) & np.isfinite(slopes["truth"])
            p = float(stats.ttest_rel(found[both], slopes["truth"][both]).pvalue)
            rows.append(facts | {"name": "p of the paired t-test against the truth", "value": p, "unit": "1"})
    return rows, pictures.violins(slopes, "sigmoid slope (1/pixel)")


def across(tissue: Any) -> list[tuple[Floats, Floats]]:
    """Lines (rows, columns) that cross the smoothed border of white matter at right angles, spread over the slice."""
    smooth = ndimage.gaussian_filter((tissue == WHITE_MATTER).astype(float), 1.5)
    down, right = np.gradient(smooth)
    steep = np.hypot(down, right)
    good = ndimage.minimum_filter(np.isin(tissue, (GREY_MATTER, WHITE_MATTER)), size=7) & (abs(smooth - 0.5) < 0.15)
    order = np.argwhere(good)[np.argsort(-steep[good], kind="stable")]
    chosen: list[Any] = []
    for place in order:
        if all(np.hypot(*(place - other)) > 5 for other in chosen):
            chosen.append(place)
        if len(chosen) == LINES:
            break
    steps = np.linspace(-REACH, REACH, 33)
    return [(r + steps * down[r, c] / steep[r, c], c + steps * right[r, c] / steep[r, c]) for r, c in chosen]


def steepness(one: Floats, line: tuple[Floats, Floats]) -> float:
    """|nu| of V / (1 + exp(-nu (x - x0))) + b along a line, at most 6."""
    x = np.linspace(-REACH, REACH, len(line[0]))
    y = ndimage.map_coordinates(one, np.array(line), order=1, mode="nearest")

    def sigmoid(p: Any) -> Any:
        return p[0] / (1 + np.exp(-np.clip(p[1] * (x - p[2]), -50, 50))) + p[3] - y

    start = [y[0] - y[-1], -1.5, 0.0, y[-1]]
    fit = optimize.least_squares(sigmoid, start, bounds=([-9, -6, -REACH, -9], [9, 6, REACH, 9]))
    return float(abs(fit.x[1]))
