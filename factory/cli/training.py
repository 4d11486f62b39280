"""Commands that learn: train and evaluate."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from factory.cli.app import app
from factory.cli.choices import AsJson, Settings, is_store, recipe_of
from factory.cli.making import usable_cores
from factory.cli.terminal import as_json, complain, say, table

if TYPE_CHECKING:
    from factory.recipe import Recipe

LOOKED_AT = 64  # samples from which the picture's control maps are made
VALIDATED = 64  # samples of the validation split that a learning curve looks at
Row = dict[str, Any]
Precision = Literal["32-true", "bf16-mixed"]
SystemName = Annotated[str, typer.Argument(metavar="SYSTEM", help="A network: factory list systems.")]


@app.command(epilog="Example:  factory train rim_t1 rim_t1.zarr --steps 500 --out runs/rim_t1")
def train(
    system: SystemName,
    source: Annotated[str | None, typer.Argument(
        metavar="[STORE|RECIPE]", help="A finished store; with --live a recipe, by default the network's.")] = None,
    live: Annotated[bool, typer.Option("--live", help="Make the samples while training, without a store.")] = False,
    set_: Settings = None,
    split: Annotated[str, typer.Option(help="The split to learn from.")] = "train",
    steps: Annotated[int | None, typer.Option(min=1, help="Batches to learn from; by default as published.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Samples of a batch; by default as published.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the network's start and the samples' order.")] = 0,
    out: Annotated[Path | None, typer.Option("--out", help="Folder of the run; by default runs/SYSTEM.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    precision: Annotated[Precision, typer.Option(
        help="bf16-mixed is faster on hardware with bfloat16 products (tensor cores, AMX).")] = "32-true",
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of PyTorch; by default all cores.")] = None,
    json: AsJson = False,
) -> None:
    """Train a network on a store, or live from a recipe, and keep weights, learning curve and a picture of it."""
    from factory import report

    card = card_of(system)
    data = source_of(card, source, live, set_)
    use_threads(threads)
    folder = out or Path("runs") / system
    size = batch or card.stages[0].batch
    weights = trained(card, data, folder, split=split, batch=size, steps=steps, seed=seed, resume=resume,
                      progress=not json, precision=precision)
    rows = curve_of(folder)
    report.save(learning_curve(rows, system), folder / "curve.png")
    last = [row for row in rows if row.get("split") == "validation" and row["step"] == rows[-1]["step"]]
    if json:
        as_json({"system": system, "weights": str(weights), "curve": str(folder / "curve.jsonl"), "last": last})
        return
    results(last, "at the end of the training, on the validation split")
    say(f"wrote {weights} and {folder / 'curve.png'}")
    say(f"Next:  factory evaluate {system} {weights} {source if source and not live else 'STORE'} -o maps.png")


@app.command(epilog="Example:  factory evaluate rim_t1 runs/rim_t1/weights.safetensors rim_t1.zarr -o maps.png     or, "
                    "the paper's studies:  factory evaluate rim_t1 --study all -o studies")
def evaluate(
    system: SystemName,
    checkpoint: Annotated[str | None, typer.Argument(
        metavar="[CHECKPOINT]", help="weights.safetensors of a run; by default the package's own.")] = None,
    store: Annotated[str | None, typer.Argument(metavar="[STORE]", help="A finished store.")] = None,
    split: Annotated[str, typer.Option(help="The split to judge on.")] = "test",
    study: Annotated[list[str] | None, typer.Option(
        "--study", help="Instead of a store, a study of the paper by name, or all; may be repeated.")] = None,
    beside: Annotated[list[str] | None, typer.Option(
        "--beside", metavar="CHECKPOINT", help="Weights of an opponent, judged in the same studies.")] = None,
    realisations: Annotated[int | None, typer.Option(min=2, help="Of the noise, in a study.")] = None,
    size: Annotated[int | None, typer.Option(min=24, max=192, help="Pixels of a slice's edge, in a study.")] = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="A picture of maps, or a study's folder.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Samples at a time.")] = 32,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of PyTorch; by default all cores.")] = None,
    json: AsJson = False,
) -> None:
    """Judge trained weights: on a split that they have not seen, beside the controls, or by the paper's studies."""
    from factory import report
    from factory.cli.studying import studied
    from models.weights import shipped

    card = card_of(system)
    use_threads(threads)
    weights = checkpoint or str(shipped(system))
    if store is None or study:
        if store is not None or not study:
            raise typer.BadParameter("name a STORE, or a --study without a store", param_hint="STORE")
        sizes = {"count": realisations, "size": size}
        studied(system, study, [weights, *(beside or [])], out or Path("studies") / system,
                {key: value for key, value in sizes.items() if value is not None}, json)
        return
    rows = judged(card, weights, store, split, batch)
    if json:
        as_json(rows)
    else:
        results(rows, f"{system} on split {split} of {store}")
    if out is not None:
        report.save(map_picture(card, weights, store, split), out)
        if not json:
            say(f"wrote {out}")


def card_of(name: str) -> Any:
    """The card of a system.  Wrong usage lists the systems."""
    from models.cards import systems

    cards = systems()
    if name not in cards:
        raise typer.BadParameter(f"there is no system {name!r}; there are {', '.join(cards)}", param_hint="SYSTEM")
    return cards[name]


def source_of(card: Any, source: str | None, live: bool, given: list[str] | None) -> str | Recipe:
    """What to learn from: a store's path, or a recipe with --live."""
    if live:
        return recipe_of(source or card.stages[0].recipe, given)
    if source is None:
        raise typer.BadParameter("name a finished STORE, or add --live to make the samples while training")
    if given:
        raise typer.BadParameter("a store is finished: --set works with --live only", param_hint="--set")
    if not is_store(source):
        raise typer.BadParameter(f"{source!r} is no folder of a store; a recipe needs --live")
    return source


def use_threads(threads: int | None) -> None:
    """Let PyTorch use all cores, unless ``--threads`` or ``OMP_NUM_THREADS`` says otherwise."""
    import torch

    if threads is not None or "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(threads or usable_cores())


class Beginning:
    """The first batches of a stream, again and again: a validation that does not take long."""

    def __init__(self, stream: Any, batches: int) -> None:
        self.stream, self.batches, self.coordinates = stream, batches, stream.coordinates

    def __iter__(self) -> Iterator[Any]:
        return islice(iter(self.stream), self.batches)


def stream_of(source: str | Recipe, split: str, batch: int, seed: int = 0, *, shuffle: bool = True) -> Any:
    """Shuffled batches that drop the tail, for training; or all samples in order, the tail padded."""
    from factory.stream import Stream

    return Stream(source, split, batch=batch, seed=seed, shuffle=shuffle, tail="drop" if shuffle else "pad")


def trained(card: Any, source: str | Recipe, out: Path, *, split: str, batch: int, steps: int | None, seed: int,
            resume: bool, progress: bool, precision: Precision = "32-true") -> Path:
    """Train the first stage of a system; with a validation split in the source, ten looks at it on the way."""
    from models.training import fit

    stream = stream_of(source, split, batch, seed)
    validation = None
    if "validation" in splits_of(source) and split != "validation":
        whole = stream_of(source, "validation", 32, shuffle=False)
        validation = Beginning(whole, VALIDATED // 32)
    return Path(fit(card, stream, out=out, steps=steps, seed=seed, resume=resume, validation=validation,
                    progress=progress, precision=precision))


def splits_of(source: str | Recipe) -> list[str]:
    """Names of the splits of a store or a recipe."""
    from factory.store.metadata import read_root

    return list(read_root(source).splits if isinstance(source, str) else source.splits)


def curve_of(out: Path) -> list[Row]:
    """The learning curve of a run."""
    from models.training import read_curve

    return list(read_curve(out))


def judged(card: Any, checkpoint: str | Path, store: str, split: str, batch: int = 32) -> list[Row]:
    """The result table of a system on a split of a store."""
    from models.training import evaluate as evaluate_rows

    return list(evaluate_rows(card, checkpoint, stream_of(store, split, batch, shuffle=False)))


def results(rows: Sequence[Row], title: str) -> None:
    """Result rows as a table: one line for what is compared, one column for each kind of error."""
    rows = [row for row in rows if row["name"] != "loss"]
    if not rows:
        complain("no rows: the data hold nothing that the table is about")
        return
    keys = [k for k in rows[0] if k not in ("name", "value", "unit", "step", "seconds", "split", "optimizer")]
    lines: dict[tuple[str, ...], dict[str, str]] = {}
    for row in rows:
        unit = f" ({row['unit']})" if row.get("unit", "1") != "1" else ""
        line = tuple(str(row.get(k, "")).replace("_", " ") for k in keys)
        value = 0.0 if isinstance(row["value"], float) and abs(row["value"]) < 1e-12 else row["value"]
        lines.setdefault(line, {})[row["name"] + unit] = f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
    columns = list(dict.fromkeys(name for line in lines.values() for name in line))
    table(title, [*keys, *columns], [[*key, *[line.get(c, "") for c in columns]] for key, line in lines.items()],
          right=columns)


def learning_curve(rows: Sequence[Row], system: str) -> Any:
    """A figure: the first error of the validation table against steps, controls dashed; else the losses.

    What does not change from step to step is a control.
    """
    from factory import report

    seen = [row for row in rows if row.get("split") == "validation" and row["name"] != "loss"]
    first = [row for row in seen if row["name"] == seen[0]["name"]] if seen else []
    panels: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for row in first or rows:
        panel = str(row.get("tissue", row["name"])).replace("_", " ")
        key = str(row.get("method", row.get("split", "")))
        panels.setdefault(panel, {}).setdefault(key, []).append((row["step"], row["value"]))
    lines = {panel: {key: points[0][1] for key, points in series.items() if len(points) > 1 and _constant(points)}
             for panel, series in panels.items()}
    curves = {panel: {k: v for k, v in series.items() if k not in lines[panel]} for panel, series in panels.items()}
    unit = first[0].get("unit", "1") if first else "1"
    quantity = f"{first[0].get('quantity', '')} {first[0]['name']}".strip() if first else "loss"
    return report.curves(curves, lines, "training step", report.label(quantity, unit), f"{system}: learning curve")


def _constant(points: Sequence[tuple[float, float]]) -> bool:
    return all(value == points[0][1] for _, value in points)


def map_picture(card: Any, checkpoint: str | Path, store: str, split: str) -> Any:
    """A figure of truth, estimate and controls for a few samples of the first map that the network learns."""
    import torch

    from factory import report
    from factory.store import read_layout
    from models import weights
    from models.cards import shapes_of

    stream = stream_of(store, split, LOOKED_AT, shuffle=False)
    batch = next(iter(stream))
    batch = {k: v if k in stream.coordinates else v[batch["mask"]] for k, v in batch.items() if k != "mask"}
    with torch.inference_mode():
        estimates = weights.load(card, checkpoint, shapes=shapes_of(batch, stream.coordinates)).predict(batch)
    found = [name for name in card.stages[-1].learns if name in estimates and estimates[name].ndim == 3]
    if not found:
        raise ValueError(f"{card.name} estimates no map that could be drawn")
    name = found[0]
    truth = batch[name].double().numpy()
    tissue = batch["tissue"].numpy() if "tissue" in batch else None
    unit = read_layout(store, split).bulk[name].unit
    title = f"{card.name}: {report.label(name, unit)} on split {split}"
    return report.compared(truth, card.name, estimates[name].double().numpy(), tissue, unit, name, title)
