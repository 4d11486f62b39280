"""Figures of the studies, after those of the paper."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from factory.report import PALETTE
from models.studies.statistics import Floats, Row
from models.studies.statistics import value as value_of

COLOURS = {"RIM": "#c0392b", "ResNet": "#27ae60", "MLE": "#2563a8", "MLE, B known": "#7fb3e0", "MLE, B free": "#b0b7c3",
           "constant map": "#d9c47a", "tissue-mean map": "#b8860b", "truth": "#333333"}  # fmt: skip
AXES = {"amplitude": "A", "efficiency": "B", "t1": "T1", "t2": "T2"}


def colour(method: str) -> str:
    return COLOURS.get(method, PALETTE[0])


def legend(axes: Any, methods: Iterable[str]) -> None:
    axes.legend(handles=[Patch(color=colour(m), label=m) for m in methods], frameon=False, fontsize=7)


def boxes(found: Mapping[tuple[str, str, str, float], Row], snrs: Sequence[float]) -> Figure:
    """Bias (upper row) and CV (lower row) of each map against SNR, a box a method; whiskers at 5 and 95 %."""
    methods = list(dict.fromkeys(key[0] for key in found if "map" not in key[0]))
    quantities = [q for q in AXES if any(key[1] == q for key in found)]
    figure = Figure(figsize=(4.2 * len(quantities), 6.2), layout="constrained")
    grid = figure.subplots(2, len(quantities), squeeze=False)
    for row, name in enumerate(("bias", "CV")):
        for axes, quantity in zip(grid[row], quantities, strict=True):
            for k, method in enumerate(methods):
                here = [(n, found[method, quantity, name, snr]) for n, snr in enumerate(snrs)
                        if (method, quantity, name, snr) in found]  # fmt: skip
                if here:
                    axes.bxp([one | {"label": ""} for _, one in here], showfliers=False, patch_artist=True, widths=0.13,
                             positions=[n + 0.16 * (k - len(methods) / 2) for n, _ in here], manage_ticks=False,
                             boxprops={"facecolor": colour(method), "linewidth": 0.6},
                             medianprops={"color": "black"})  # fmt: skip
            axes.set_xticks(range(len(snrs)), [f"{snr:g}" for snr in snrs])
            axes.set_xlabel("SNR")
            axes.set_title(f"{'relative bias' if name == 'bias' else 'CV'} of {AXES[quantity]} (%)", fontsize=9)
            axes.set_ylim(*((-40, 60) if name == "bias" else (0, 60)))
            axes.grid(alpha=0.3, axis="y")
    legend(grid[0, 0], methods)
    return figure


def bars(rows: Sequence[Row]) -> Figure:
    """Relative RMSE of white and grey matter for each protocol and method; or seconds of each method."""
    figure = Figure(figsize=(7, 3.4), layout="constrained")
    if rows and rows[0]["study"] == "timing":
        axes = figure.subplots()
        axes.bar([r["method"] for r in rows], [r["value"] for r in rows], color=[colour(r["method"]) for r in rows])
        axes.set_yscale("log")
        axes.set_ylabel("s a slice of 256 x 256 x 31")
        return figure
    chosen = [r for r in rows if r["name"] == "relative RMSE" and r["method"] != "MLE, B free"]
    for axes, tissue in zip(figure.subplots(1, 2), ("grey_matter", "white_matter"), strict=True):
        here = [r for r in chosen if r["tissue"] == tissue]
        methods = list(dict.fromkeys(r["method"] for r in here))
        protocols = list(dict.fromkeys(r["times"] for r in here))
        for k, method in enumerate(methods):
            mine = [r for r in here if r["method"] == method]
            places = [protocols.index(r["times"]) + 0.13 * (k - len(methods) / 2) for r in mine]
            axes.bar(places, [r["value"] for r in mine], 0.12, color=colour(method))
        axes.set_xticks(range(len(protocols)), [f"{p} times" for p in protocols])
        axes.set_title(f"relative RMSE of T1, {tissue.replace('_', ' ')} (%)", fontsize=9)
    legend(axes, methods)
    return figure


def structures(rows: Sequence[Row], t1: Floats, masks: Mapping[str, Any]) -> Figure:
    """Where the structures lie, and bias and CV in them and around them, without (pale) and with them."""
    figure = Figure(figsize=(13, 6), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1, 2.4))
    axes = left.subplots()
    axes.imshow(t1, cmap="gray", vmin=0, vmax=2.5)
    for name, mask in masks.items():
        axes.contour(mask, levels=[0.5], colors="red", linewidths=1)
        axes.annotate(name, np.argwhere(mask)[0][::-1], color="orange", fontsize=7)
    axes.axis("off")
    grid = right.subplots(2, 2)
    methods = [m for m in dict.fromkeys(r["method"] for r in rows) if m != "MLE, B free"]
    for row, name in zip(grid, ("bias", "CV"), strict=True):
        for axes, region in zip(row, ("structure", "neighbourhood"), strict=True):
            for n, structure in enumerate(masks):
                for k, method in enumerate(methods):
                    for scenario, alpha in (("E1", 0.35), ("E2", 1.0)):
                        value = value_of(rows, scenario=scenario, name=name, method=method, structure=structure,
                                         region=region)  # fmt: skip
                        place = n + 0.2 * (k - len(methods) / 2) + (0.09 if scenario == "E2" else 0)
                        axes.bar(place, value, 0.085, color=colour(method), alpha=alpha)
            axes.set_xticks(range(len(masks)), list(masks), fontsize=7)
            axes.set_title(f"{name} of T1, {region} (%)", fontsize=9)
            axes.axhline(0, color="black", linewidth=0.6)
    legend(grid[0, 0], methods)
    return figure


def ladder(rows: Sequence[Row], within: tuple[float, float]) -> Figure:
    """Bias and CV of each sphere against its nominal value; the range of the times is shaded."""
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    spheres = [r for r in rows if isinstance(r["sphere"], int)]
    for axes, name in zip(figure.subplots(1, 2), ("bias", "CV"), strict=True):
        for method in dict.fromkeys(r["method"] for r in spheres):
            mine = [r for r in spheres if r["method"] == method and r["name"] == name]
            axes.plot([1e3 * r["nominal"] for r in mine], [r["value"] for r in mine], "o-", color=colour(method),
                      label=method, markersize=4)  # fmt: skip
        axes.axvspan(1e3 * within[0], 1e3 * within[1], color="#dddddd", alpha=0.5)
        axes.set_xscale("log")
        axes.set_ylim(*((-60, 60) if name == "bias" else (0, 60)))
        axes.set_xlabel(f"nominal {AXES[rows[0]['quantity']]} (ms)")
        axes.set_title(f"{name} (%)", fontsize=9)
        axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=7)
    return figure


def violins(slopes: Mapping[str, Floats], label: str) -> Figure:
    """The distribution of one number for each method."""
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.subplots()
    drawn = axes.boxplot([v[np.isfinite(v)] for v in slopes.values()], tick_labels=list(slopes), patch_artist=True)
    for patch, method in zip(drawn["boxes"], slopes, strict=True):
        patch.set_facecolor(colour(method))
    axes.set_ylabel(label)
    axes.grid(alpha=0.3, axis="y")
    return figure
