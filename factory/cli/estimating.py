"""`factory estimate`: maps from a scan."""

from __future__ import annotations

import json as json_text
from pathlib import Path
from typing import Annotated, Any

import typer

from factory.cli.app import app
from factory.cli.choices import AsJson
from factory.cli.terminal import as_json, say, table
from factory.cli.training import use_threads


@app.command(epilog='Example:  factory estimate rim_t1 series.nii.gz --times "139 166 193 ms" -o maps     or:  factory '
                    'estimate rim_t1 ti*.nii --times times.json --method mle-general -o maps')
def estimate(
    system: Annotated[str, typer.Argument(metavar="SYSTEM", help="rim_t1 or rim_t2.")],
    series: Annotated[list[str], typer.Argument(
        metavar="SERIES...", help="One NIfTI file with the times last, or one a time in the order of the times.")],
    times: Annotated[str, typer.Option(help='Such as "30, 330, 530 ms"; or a file with such a text.')],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for the maps.")],
    method: Annotated[str, typer.Option(help="network, mle, or mle-general (for short TR).")] = "network",
    weights: Annotated[str | None, typer.Option(help="Of the network; by default the package's own.")] = None,
    efficiency: Annotated[float | None, typer.Option(
        "--known-efficiency", min=1, max=2, help="Of the inversion, where it is known (mle only).")] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over maps that are there.")] = False,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of PyTorch; by default all cores.")] = None,
    json: AsJson = False,
) -> None:
    """Maps of T1 or T2 from a scan, as NIfTI files that lie where the scan lies."""
    from models import series as scans

    if system not in scans.COORDINATE or method not in scans.METHODS:
        legal = f"SYSTEM is one of {', '.join(scans.COORDINATE)}, --method one of {', '.join(scans.METHODS)}"
        raise typer.BadParameter(legal)
    if (out / "maps.json").exists() and not force:
        raise typer.BadParameter(f"{out} holds maps already; add --force to write over them", param_hint="--out")
    data = scans.read_series(series, seconds(times), scans.COORDINATE[system])
    use_threads(threads)
    maps = scans.estimate(system, data, method=method, weights=weights, efficiency=efficiency)
    written = scans.write_maps(maps, out)
    rows = summary(maps, data, scans.COORDINATE[system])
    _picture(maps, out / "maps.png")
    if json:
        as_json({"maps": [str(path) for path in written], "summary": rows})
        return
    table(f"{system}, {method}, over the foreground", ["map", "unit", "median", "quartiles"],
          [[r["map"], r["unit"], f"{r['median']:.4g}", f"{r['first']:.4g} to {r['third']:.4g}"] for r in rows])
    if system == "rim_t1" and method != "mle-general":
        say("The model is |A (1 - B exp(-TI / T1))|: right where TR is several T1; otherwise --method mle-general.")
    say(f"wrote {', '.join(path.name for path in written)}, maps.json and maps.png into {out}")


def seconds(given: str) -> list[float]:
    """"30, 330 530 ms" or the path of a file with such a text, or with a JSON list of numbers in s."""
    from factory.units import UnitError, convert

    path = Path(given)
    text = path.read_text()[:65536] if path.suffix in (".txt", ".json") and path.is_file() else given
    if text.lstrip().startswith("["):
        return [float(number) for number in json_text.loads(text)]
    words = text.replace(",", " ").split()
    unit = words.pop() if words and not any(letter.isdigit() for letter in words[-1]) else ""
    try:
        return [convert(f"{word} {unit}".strip(), "s") for word in words]
    except UnitError as error:
        raise typer.BadParameter(str(error), param_hint="--times") from None


def summary(maps: Any, data: Any, coordinate: str) -> list[dict[str, Any]]:
    """Median and quartiles of each map where there is signal."""
    import numpy as np

    brightest = data["signal"].max(coordinate).to_numpy()
    inside = brightest > 0.1 * np.percentile(brightest, 99)
    rows = []
    for name, values in maps.data_vars.items():
        first, middle, third = np.nanpercentile(values.to_numpy()[inside], [25, 50, 75]).tolist()
        rows.append({"map": name, "unit": values.attrs["units"], "median": middle, "first": first, "third": third})
    return rows


def _picture(maps: Any, path: Path) -> None:
    """The middle slice of each map."""
    import numpy as np
    from matplotlib.figure import Figure

    from factory import report

    figure = Figure(figsize=(3.4 * len(maps.data_vars), 3.6), layout="constrained")
    for axes, (name, values) in zip(figure.subplots(1, len(maps.data_vars), squeeze=False)[0], maps.data_vars.items(),
                                    strict=True):
        middle = values.to_numpy()[values.sizes["sample"] // 2]
        image = axes.imshow(middle, cmap="viridis", vmin=0, vmax=float(np.nanpercentile(middle, 98)) or 1.0)
        axes.set_title(report.label(str(name), values.attrs["units"]), fontsize=9)
        axes.axis("off")
        figure.colorbar(image, ax=axes, fraction=0.05)
    report.save(figure, path)
