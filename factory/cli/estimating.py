"""The command that measures: estimate."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from factory.cli.app import app
from factory.cli.choices import AsJson
from factory.cli.terminal import as_json, complain, console, say, table, unit
from factory.cli.training import SystemName, card_of, use_threads

if TYPE_CHECKING:
    import xarray as xr

SHOWN = 3  # slices in the picture
OPPOSITE = {"R": "L", "L": "R", "A": "P", "P": "A", "S": "I", "I": "S"}


class Method(StrEnum):
    """How the maps are made."""

    network = "network"
    mle = "mle"
    general = "mle-general"


@app.command(epilog='Example:  factory estimate rim_t1 scan.nii.gz --times "30, 330, 530 ms" -o maps')
def estimate(
    system: SystemName,
    series: Annotated[list[Path], typer.Argument(
        metavar="SERIES...", help="One 4-D NIfTI file with the time last, or one file for each time, in their order.")],
    times: Annotated[str, typer.Option(
        help='Inversion or echo times, such as "30, 330, 530 ms"; or a text or JSON file with them.')],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for the maps.")] = Path("maps"),
    method: Annotated[Method, typer.Option(
        help="A trained network, a maximum likelihood fit, or such a fit for any repetition time.")] = Method.network,
    weights: Annotated[Path | None, typer.Option(help="Of the network; by default those that ship with it.")] = None,
    mask: Annotated[Path | None, typer.Option(help="A NIfTI file; only voxels above 0.5 are estimated.")] = None,
    efficiency: Annotated[float | None, typer.Option(
        "--known-efficiency", help="Inversion efficiency B for --method mle; by default it is fitted.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace maps of an earlier run in --out.")] = False,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of PyTorch; by default all cores.")] = None,
    json: AsJson = False,
) -> None:
    """Make T1 or T2 maps of a measured series: NIfTI files in s with the scan's geometry, a table and a picture."""
    from factory import report
    from factory.series import PICTURE, read_mask, read_series, refuse_occupied, times_of, write_maps
    from models.estimation import coordinate_of, estimator

    card = card_of(system)
    use_threads(threads)
    seconds = times_of(times, coordinate_of(card))
    ready = estimator(card, seconds, weights, method=method.value, efficiency=efficiency)
    if not force:
        refuse_occupied(out)
    data = read_series(series, seconds, ready.coordinate)
    if mask is not None:
        data["mask"] = read_mask(mask, data)
    maps = ready.maps(data, lambda slices: tracked(slices, quiet=json))
    paths = write_maps(maps, out, force=force)
    report.save(picture(maps, f"{system}, {method.value}: {series[0].name}"), out / PICTURE)
    tell(maps, [*paths, out / PICTURE], json)


def tracked(slices: Sequence[int], quiet: bool) -> Iterator[int]:
    """The slices, with a progress bar on standard error where there are several."""
    from rich.progress import track

    yield from track(slices, "slices", console=console(sys.stderr), disable=quiet or len(slices) < 2)


def tell(maps: xr.Dataset, paths: Iterable[Path], json: bool) -> None:
    """What was estimated, what may be wrong with it, and where it lies."""
    from models.estimation import summary

    rows = summary(maps)
    if json:
        keys = ("system", "method", "model", "times", "warnings")
        as_json({key: maps.attrs[key] for key in keys} | {"maps": rows, "files": [str(path) for path in paths]})
        return
    cells = [(row["map"], unit(row["unit"]), *(f"{row[key]:.4g}" for key in ("median", "lower quartile",
             "upper quartile")), f"{row['voxels']:,}") for row in rows]
    head = ("map", "unit", "median", "lower quartile", "upper quartile", "voxels")
    where = "the mask" if maps.attrs["masked"] else "the foreground (no mask was given)"
    table(f"{maps.attrs['system']}, {maps.attrs['method']}: over {where}", head, cells, right=head[2:])
    say(f"model: {maps.attrs['model']}")
    for warning in maps.attrs["warnings"]:
        complain(f"warning: {warning}")
    say(f"wrote {', '.join(str(path) for path in paths)}")


def picture(maps: xr.Dataset, title: str) -> Any:
    """A figure of a few slices, one column for each map; grey is outside of the mask or foreground."""
    import numpy as np
    from matplotlib.figure import Figure
    from nibabel.orientations import aff2axcodes

    from factory.report import SMALL, TINY, label

    filled = np.flatnonzero(maps["inside"].to_numpy().any((1, 2)))
    places = filled[np.unique(np.linspace(0, len(filled) - 1, SHOWN + 2).round().astype(int)[1:-1])]
    affine = np.reshape(maps.attrs["affine"], (4, 4))
    codes = aff2axcodes(affine)  # type: ignore[no-untyped-call]
    right, up, _ = (f"{OPPOSITE[code]} to {code}" for code in codes)
    names = list(maps.data_vars)
    ratio = maps.attrs["zooms"][1] / maps.attrs["zooms"][0]
    tall = 2.9 * min(3.0, max(0.4, ratio * maps.sizes["y"] / maps.sizes["x"]))
    figure = Figure(figsize=(3.4 * len(names), tall * len(places) + 0.7), layout="constrained")
    figure.suptitle(title.replace("$", r"\$"), fontsize=11, fontweight="bold")
    grid = figure.subplots(len(places), len(names), squeeze=False)
    for column, name in enumerate(names):
        shown = maps[name].where(maps["inside"]).to_numpy()
        low, high = np.nanpercentile(shown, [1, 99]) if np.isfinite(shown).any() else (0.0, 1.0)
        for axes, k in zip(grid[:, column], places, strict=True):
            axes.set_facecolor("#bbbbbb")
            image = axes.imshow(shown[k], origin="lower", aspect=ratio, cmap="viridis", interpolation="nearest",
                                vmin=min(0.0, low), vmax=high if high > 0 else 1.0)
            axes.set(xticks=[], yticks=[])
            axes.set_xlabel(right, fontsize=TINY)
            axes.set_ylabel(f"slice {k}\n{up}" if column == 0 else up, fontsize=TINY)
        bar = figure.colorbar(image, ax=list(grid[:, column]), fraction=0.05, pad=0.02)
        bar.set_label(label(name, maps[name].attrs["units"]), fontsize=SMALL)
        bar.ax.tick_params(labelsize=TINY)
    return figure
