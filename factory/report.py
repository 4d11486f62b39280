"""Pictures of samples and results: figures with units on every axis and colours that colour-blind readers tell apart.

Every function returns a matplotlib figure; `save` writes it.  None of them opens a window.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure, SubFigure

from factory.units import TISSUES, Array

if TYPE_CHECKING:
    from factory.recipe import Recipe

PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#7f7f7f")  # Okabe and Ito
CODES = ("#000000", "#332288", "#88ccee", "#bbbbbb", "#ddcc77", "#aa4499", "#cc6677", "#117733", "#882255", "#44aa99",
         "#999933", "#661100")  # Tol's muted scheme for things that have a name
ALONG = 3  # positions along a stack of maps (inversion times, slices) that a gallery shows
CASES = 3  # samples in a picture of maps
CELL = 1.75  # inches of one map
SMALL, TINY = 8, 7  # points
FORMATS = (".png", ".pdf", ".svg")
Holder = Figure | SubFigure


def save(figure: Figure, path: str | Path) -> None:
    """Write a figure; the suffix (.png, .pdf, .svg) is the format.  ValueError for another one."""
    target = Path(path)
    if target.suffix.lower() not in FORMATS:
        raise ValueError(f"{target} must end in {', '.join(FORMATS)}: the suffix says which kind of picture to write")
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, dpi=150, facecolor="white")


def label(name: object, unit: str = "1") -> str:
    """A variable's name for an axis: ``inversion time (s)``."""
    words = str(name).replace("_", " ").replace("$", r"\$")
    return words if unit == "1" else f"{words} ({unit})"


def _unit(values: xr.DataArray) -> str:
    return str(values.attrs.get("units", "1"))


# ----------------------------------------------------------------------------------------------------------------------
# samples


def gallery(dataset: xr.Dataset, title: str = "", numbers: Sequence[int] | None = None) -> Figure:
    """Every variable of a few samples: maps with colour bars, one column a sample, and signals as curves.

    Parameters
    ----------
    dataset : dims ("sample", ...), ``units`` in the attributes, as `factory.make` returns it; at most a dozen samples
    numbers : which samples these are, for their titles; by default from 0
    """
    panels = _panels(dataset)
    figure = Figure(figsize=(_width(dataset), _height(panels) + 0.4), layout="constrained")
    _draw_panels(figure, panels, numbers or range(dataset.sizes["sample"]), title)
    return figure


def preview(dataset: xr.Dataset, draws: xr.Dataset, title: str = "", numbers: Sequence[int] | None = None) -> Figure:
    """`gallery` of one data set above `distributions` of another, in one picture."""
    panels, names = _panels(dataset), _countable(draws)
    width, upper = _width(dataset), _height(panels) + 0.4
    columns = min(max(3, int(width // 1.8)), _cells(draws, names))
    lower = 1.9 * -(-_cells(draws, names) // max(1, columns)) + 0.4
    figure = Figure(figsize=(width, upper + lower), layout="constrained")
    if not names:
        _draw_panels(figure, panels, numbers or range(dataset.sizes["sample"]), title)
        return figure
    top, bottom = np.atleast_1d(np.asarray(figure.subfigures(2, 1, height_ratios=[upper, lower])))
    _draw_panels(top, panels, numbers or range(dataset.sizes["sample"]), title)
    _draw_histograms(bottom, draws, names, columns, f"What is drawn, over {draws.sizes['sample']:,} samples")
    return figure


def _width(dataset: xr.Dataset) -> float:
    return max(8.0, CELL * dataset.sizes["sample"] + 2.2)


def _panels(dataset: xr.Dataset) -> list[tuple[str, xr.DataArray]]:
    """(kind, values) of every row: "maps" (sample, y, x) or "curves" (sample, coordinate)."""
    found: list[tuple[str, xr.DataArray]] = []
    for name, values in dataset.data_vars.items():
        numbers = values.astype(np.uint8) if values.dtype.kind == "b" else values
        for part in _real(numbers.rename(label(name))):
            if part.ndim < 2 or (part.ndim == 2 and part.dims[-1] == "tissue"):
                continue
            curves = part.ndim == 2 or part.dims[-1] in part.coords
            if not curves and "flag_meanings" not in part.attrs:
                part.attrs["style"] = _style(part.values, stacked=part.ndim > 3)  # one range for all rows of a variable
            found += [("curves" if curves else "maps", piece) for piece in _pieces(part, 2 if curves else 3)]
    return found


def _real(values: xr.DataArray) -> list[xr.DataArray]:
    """Complex numbers as magnitude and phase."""
    if values.dtype.kind != "c":
        return [values]
    phase = xr.apply_ufunc(np.angle, values).assign_attrs(units="rad")
    return [xr.apply_ufunc(np.abs, values).assign_attrs(values.attrs).rename(f"{values.name}, magnitude"),
            phase.rename(f"{values.name}, phase")]


def _pieces(values: xr.DataArray, axes: int) -> list[xr.DataArray]:
    """Cut away leading dimensions until ``axes`` are left: a few positions of the first, the middle of the others."""
    if values.ndim <= axes:
        return [values]
    dim = str(values.dims[1])
    n = values.sizes[dim]
    places = sorted({0, n // 2, n - 1}) if values.ndim == axes + 1 else [n // 2]
    cut = []
    for place in places[:ALONG]:
        where = f"{dim.replace('_', ' ')} {place}"
        if dim in values.coords:
            coordinate = values.coords[dim]
            its_unit = _unit(coordinate).removesuffix("1")
            where = f"{dim.replace('_', ' ')} {coordinate.values[place]:.4g} {its_unit}".strip()
        cut += _pieces(values.isel({dim: place}, drop=True).rename(f"{values.name}\n{where}"), axes)
    return cut


def _height(panels: Sequence[tuple[str, xr.DataArray]]) -> float:
    return sum(1.8 if kind == "curves" else CELL for kind, _ in panels) or 0.5


def _draw_panels(holder: Holder, panels: Sequence[tuple[str, xr.DataArray]], numbers: Sequence[int],
                 title: str) -> None:
    holder.suptitle(title.replace("$", r"\$"), fontsize=11, fontweight="bold")
    if not panels:
        return
    count = len(numbers)
    grid = holder.add_gridspec(len(panels), count, height_ratios=[_height([p]) for p in panels])
    for row, (kind, values) in enumerate(panels):
        if kind == "curves":
            _curves(holder.add_subplot(grid[row, :]), values, numbers)
        else:
            axes = [holder.add_subplot(grid[row, column]) for column in range(count)]
            first = row == 0 or panels[row - 1][0] == "curves"
            _row_of_maps(holder, axes, values, numbers if first else ())


def _curves(axes: Any, values: xr.DataArray, numbers: Sequence[int]) -> None:
    dim = str(values.dims[-1])
    coordinate = values.coords.get(dim)
    at = np.arange(values.sizes[dim]) if coordinate is None else coordinate.values
    for place, line in enumerate(values.values):
        colour = PALETTE[place % len(PALETTE)]
        axes.plot(at, line, ".-", color=colour, linewidth=1, markersize=3, label=f"sample {numbers[place]:,}")
    axes.set_xlabel(label(dim, "1" if coordinate is None else _unit(coordinate)), fontsize=SMALL)
    axes.set_ylabel(label(values.name, _unit(values)), fontsize=SMALL)
    axes.tick_params(labelsize=TINY)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=TINY, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))


def _row_of_maps(holder: Holder, axes: Sequence[Any], values: xr.DataArray, titles: Sequence[int]) -> None:
    named = str(values.attrs.get("flag_meanings", "")).split()
    style = _named_style(named) if named else values.attrs["style"]
    image: Any = None
    for place, panel in enumerate(axes):
        image = panel.imshow(values.values[place], **style, interpolation="nearest")
        panel.set_xticks([])
        panel.set_yticks([])
        if titles:
            panel.set_title(f"sample {titles[place]:,}", fontsize=SMALL)
    axes[0].set_ylabel(str(values.name), fontsize=SMALL)
    bar = holder.colorbar(image, ax=list(axes), fraction=0.06, pad=0.01, aspect=15)
    bar.ax.tick_params(labelsize=TINY)
    if named:
        bar.set_ticks([float(n) for n in range(len(named))], labels=[n.replace("_", " ") for n in named], fontsize=5.5)
    elif _unit(values) != "1":
        bar.ax.set_title(_unit(values), fontsize=SMALL)


def _named_style(names: Sequence[str]) -> dict[str, Any]:
    colours = [CODES[n % len(CODES)] for n in range(len(names))]
    return {"cmap": ListedColormap(colours), "norm": BoundaryNorm(np.arange(len(names) + 1) - 0.5, len(names))}


def _style(numbers: Array, stacked: bool) -> dict[str, Any]:
    """A range without outliers: grey for stacks of images, around zero for values of both signs."""
    finite = numbers[np.isfinite(numbers)]
    if not finite.size:
        return {"cmap": "viridis"}
    low, high = (float(p) for p in np.percentile(finite, [0.5, 99.5]))
    if low < -0.5 * high:
        reach = max(-low, high)
        return {"cmap": "RdBu_r", "vmin": -reach, "vmax": reach}
    return {"cmap": "gray" if stacked else "viridis", "vmin": min(0.0, low), "vmax": high if high > low else low + 1.0}


# ----------------------------------------------------------------------------------------------------------------------
# distributions


def drawn(recipe: Recipe, split: str, most: int = 10_000) -> xr.Dataset:
    """What a recipe draws for the first samples of a split, without running its chain: vectors included."""
    from factory.floor import make
    from factory.recipe.model import Variable

    plan = recipe.splits[split]
    variables = {
        one.name: Variable(one.name, one.port.unit, one.port.dtype, one.port.dims, one.shape, False, one.level)
        for one in plan.draw
    }
    only = replace(plan, chain=(), keep={}, variables=variables)
    # another identity, because what outer levels remember is filed under it
    bare = replace(recipe, splits={split: only}, identity=f"draws of {recipe.identity}")
    return make(bare, split, 0, min(most, plan.samples))


def distributions(dataset: xr.Dataset, title: str = "") -> Figure:
    """A histogram of every number that a sample has; of vectors by tissue, one curve for each entry."""
    names = _countable(dataset)
    cells = max(1, _cells(dataset, names))
    columns = min(5, cells)
    figure = Figure(figsize=(2.2 * columns + 0.5, 1.9 * -(-cells // columns) + 0.4), layout="constrained")
    _draw_histograms(figure, dataset, names, columns, title)
    return figure


def _countable(dataset: xr.Dataset) -> list[str]:
    """Variables with one number a sample, or a short vector without a physical axis."""
    found = []
    for name, v in dataset.data_vars.items():
        vector = v.ndim == 2 and v.sizes[v.dims[1]] <= len(CODES) and (_meanings(v) or v.dims[1] not in v.coords)
        if v.dtype.kind != "c" and (v.dims == ("sample",) or vector):
            found.append(str(name))
    return found


def _meanings(values: xr.DataArray) -> list[str]:
    """Names of a vector's entries, where it has some."""
    coordinate = values.coords.get(values.dims[-1])
    return [] if coordinate is None else str(coordinate.attrs.get("flag_meanings", "")).split()


def _cells(dataset: xr.Dataset, names: Sequence[str]) -> int:
    """Panels that histograms need: one each, and one for the legend of vectors."""
    return len(names) + any(dataset[name].ndim == 2 for name in names)


def _draw_histograms(holder: Holder, dataset: xr.Dataset, names: Sequence[str], columns: int, title: str) -> None:
    holder.suptitle(title, fontsize=11, fontweight="bold")
    rows = -(-_cells(dataset, names) // max(1, columns))
    lines: dict[str, Any] = {}
    for place, name in enumerate(names):
        axes = holder.add_subplot(rows, columns, place + 1)
        lines |= _histogram(axes, dataset[name])
        axes.set_xlabel(label(name, _unit(dataset[name])), fontsize=SMALL)
        axes.tick_params(labelsize=TINY)
        axes.set_yticks([])
        axes.spines[["left", "right", "top"]].set_visible(False)
    if lines:
        axes = holder.add_subplot(rows, columns, len(names) + 1)
        axes.axis("off")
        axes.legend(lines.values(), lines.keys(), fontsize=TINY, frameon=False, loc="center left", handlelength=1.2)


def _histogram(axes: Any, values: xr.DataArray) -> dict[str, Any]:
    """Bars of a number; outlines of a vector's entries, each up to its own peak.  Returns what a legend needs."""
    numbers = np.asarray(values.values, dtype=np.float64)
    if numbers.ndim == 1:
        logarithmic = numbers.min() > 0 and numbers.max() / numbers.min() > 30
        axes.hist(numbers, bins=_bins(numbers, logarithmic), color=PALETTE[0])
        axes.set_xscale("log" if logarithmic else "linear")
        return {}
    meanings, lines = _meanings(values), {}
    shown = [k for k in range(numbers.shape[1]) if np.ptp(numbers[:, k]) > 0]
    for k in shown:
        counts, edges = np.histogram(numbers[:, k], _bins(numbers[:, k], False))
        name = meanings[k].replace("_", " ") if meanings else f"entry {k}"
        colour = CODES[(k if meanings else k + 1) % len(CODES)]
        lines[name] = axes.stairs(counts / counts.max(), edges, color=colour, linewidth=1.3)
    return lines


def _bins(numbers: Array, logarithmic: bool) -> Any:
    finite = numbers[np.isfinite(numbers)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    if high <= low:
        return np.array([low - 0.5, low + 0.5])
    return np.geomspace(low, high, 41) if logarithmic else np.linspace(low, high, 41)


# ----------------------------------------------------------------------------------------------------------------------
# results


def maps(truth: Array, estimates: Mapping[str, Array], unit: str = "1", name: str = "", title: str = "") -> Figure:
    """Maps of the truth and of each estimate, and below each estimate its error, case by case.

    Parameters
    ----------
    truth : (case, y, x); NaN outside of what counts
    estimates : name -> (case, y, x), the first one being the network's
    """
    shown = truth[np.isfinite(truth)]
    high = float(np.percentile(shown, 99)) if shown.size else 1.0
    wrong = {key: np.where(np.isfinite(truth), values - truth, np.nan) for key, values in estimates.items()}
    first = np.abs(next(iter(wrong.values())))
    reach = 2.0 * float(np.percentile(first[np.isfinite(first)], 90)) if np.isfinite(first).any() else 1.0
    figure = Figure(figsize=(2.0 * (1 + len(estimates)) + 1.2, 3.9 * len(truth) + 0.5), layout="constrained")
    figure.suptitle(title, fontsize=11, fontweight="bold")
    grid = figure.subplots(2 * len(truth), 1 + len(estimates), squeeze=False)
    for case, right in enumerate(truth):
        upper, lower = grid[2 * case], grid[2 * case + 1]
        image = _map(upper[0], right, "viridis", 0.0, high, "truth")
        lower[0].axis("off")
        for place, (key, values) in enumerate(estimates.items(), start=1):
            _map(upper[place], np.where(np.isfinite(right), values[case], np.nan), "viridis", 0.0, high, key)
            size = float(np.sqrt(np.nanmean(wrong[key][case] ** 2)))
            error = _map(lower[place], wrong[key][case], "RdBu_r", -reach, reach,
                         f"its error, rms {size:.2g} {unit.removesuffix('1')}".rstrip())
        for image_of, axes, text in ((image, upper, label(name, unit)), (error, lower, label("error", unit))):
            bar = figure.colorbar(image_of, ax=list(axes), fraction=0.05, pad=0.01)
            bar.set_label(text, fontsize=SMALL)
            bar.ax.tick_params(labelsize=TINY)
    return figure


def compared(truth: Array, network: str, estimate: Array, tissue: Array | None, unit: str, name: str,
             title: str) -> Figure:
    """`maps` of a few cases for a network's estimate and two controls that do not look at the signal.

    Parameters
    ----------
    truth, estimate : (case, y, x)
    tissue : (case, y, x), codes; 0 is not shown.  The controls are each tissue's mean truth and the median of all.

    Shown are the cases with most grey and white matter side by side: they are chosen by anatomy, not by their errors.
    """
    codes = np.ones(truth.shape, np.uint8) if tissue is None else tissue
    right = np.where(codes > 0, truth, np.nan)
    means = np.zeros(truth.shape)
    for code in np.unique(codes[codes > 0]):
        means[codes == code] = np.nanmean(right[codes == code])
    shown = {network: estimate, "tissue-mean map": means, "constant map": np.full(truth.shape, np.nanmedian(right))}
    chosen = _mixed(codes)[:CASES]
    return maps(right[chosen], {key: values[chosen] for key, values in shown.items()}, unit, name, title)


def _mixed(codes: Array) -> Array:
    """Numbers of the cases, those first in which the rarer of grey and white matter fills most."""
    shares = [(codes == TISSUES.index(name)).mean(axis=(1, 2)) for name in ("grey_matter", "white_matter")]
    return np.argsort(-np.minimum(*shares), kind="stable")


def _map(axes: Any, values: Array, colours: str, low: float, high: float, title: str) -> Any:
    axes.set_facecolor("#bbbbbb")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(title, fontsize=9)
    return axes.imshow(values, cmap=colours, vmin=low, vmax=high, interpolation="nearest")


def curves(panels: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]],
           lines: Mapping[str, Mapping[str, float]] | None = None, x: str = "step", quantity: str = "",
           title: str = "") -> Figure:
    """Numbers against training steps, one panel each, with dashed lines for what to compare them with.

    Parameters
    ----------
    panels : title of a panel -> name of a series -> its points
    lines : title of a panel -> name of a line -> its height
    x, quantity : text on the axes, with units
    """
    figure = Figure(figsize=(max(6.0, 4.4 * len(panels)), 3.6), layout="constrained")
    figure.suptitle(title, fontsize=11, fontweight="bold")
    for axes, (name, series) in zip(figure.subplots(1, max(1, len(panels)), squeeze=False)[0], panels.items(),
                                    strict=False):
        for colour, (key, points) in zip(PALETTE, series.items(), strict=False):
            axes.plot([p[0] for p in points], [p[1] for p in points], "o-", color=colour, label=key, markersize=4)
        level = (lines or {}).get(name, {})
        for colour, (key, height) in zip(PALETTE[len(series) :], level.items(), strict=False):
            axes.axhline(height, linestyle="--", color=colour, label=key)
        axes.set_xlabel(label(x))
        axes.set_ylabel(quantity)
        axes.set_ylim(bottom=0)
        axes.set_title(label(name), fontsize=9)
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, fontsize=SMALL)
    return figure
