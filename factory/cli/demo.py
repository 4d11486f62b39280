"""The demo: from a recipe to estimated T1 maps in one command, saying what it does."""

from __future__ import annotations

import json as json_text
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from factory.cli import training
from factory.cli.app import app
from factory.cli.choices import Settings, settings
from factory.cli.look import spread
from factory.cli.making import materialised, usable_cores
from factory.cli.terminal import say, size, span

if TYPE_CHECKING:
    from factory.recipe import Recipe

RECIPE = SYSTEM = "rim_t1"
SIZES = {"splits.train.levels.patch": "120", "splits.validation.levels.patch": "50", "splits.test.levels.patch": "50"}
SHOWN = 5  # samples in the gallery
BATCH = 8
TIMED = 6  # batches whose time decides how many fit into the minutes
LEAST, MOST = 20, 3000  # training steps
SPARE = 1.2  # validation and checkpoints take time as well
BEST = "the network beats both controls"
Row = dict[str, Any]


@app.command(epilog="Example:  factory demo --out demo     or, on real anatomy:  factory demo --out real "
                    "--set files.anatomy=brain2D.mat")
def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder for everything that the demo makes.")] = Path("demo"),
    set_: Settings = None,
    minutes: Annotated[float, typer.Option(min=0.01, help="How long to train.")] = 7.0,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads; by default one for each core.")] = None,
) -> None:
    """Walk from a recipe to trained T1 maps: store, streamed training, table and pictures.  Run again to go on."""
    began = time.perf_counter()
    out.mkdir(parents=True, exist_ok=True)
    store = str(out / f"{RECIPE}.zarr")
    recipe = _chosen(set_)
    _store(recipe, store, threads)
    _gallery(store, out)
    _shipped(store, out)
    weights = _train(store, out, minutes, threads or usable_cores())
    rows = _judge(weights, store, out)
    _closing(rows, out, time.perf_counter() - began)


def _stage(number: int, text: str) -> None:
    say(f"\n[{number}/6] {text}")


def _chosen(given: list[str] | None) -> Recipe:
    from factory.recipe import load

    _stage(1, f"The recipe {RECIPE} says, in one text file, what the samples are. It is read and checked as a whole.")
    recipe = load(RECIPE, set=SIZES | settings(given))
    heads = "label volumes from your file" if recipe.sources else "procedural heads, each from a number alone"
    counts = ", ".join(f"{name} {plan.samples:,}" for name, plan in recipe.splits.items())
    say(f"  {recipe.about}")
    say(f"  Anatomy: {heads}. Samples: {counts}. Training and test never share a head or slice.")
    say(f"  See it with:  factory show {RECIPE}")
    return recipe


def _store(recipe: Recipe, store: str, threads: int | None) -> None:
    from factory.store import estimate

    _stage(2, f"The samples are made into the store {store}: plain Zarr, with units and named dimensions.")
    began = time.perf_counter()
    made = materialised(recipe, store, threads=threads)
    cost = estimate(recipe)
    say(f"  {cost.samples:,} samples, {size(cost.nbytes)}; " +
        (f"{made:,} made now in {span(time.perf_counter() - began)} (the first run also compiles)." if made
         else "all were there already."))


def _gallery(store: str, out: Path) -> None:
    from factory import report
    from factory.store import open_store

    _stage(3, "A few of them are drawn, with the distributions behind all of them.")
    whole = open_store(store)["train"].to_dataset()
    which = spread(whole.sizes["sample"], SHOWN)
    figure = report.preview(whole.isel(sample=which), whole, f"{RECIPE}, split train", which)
    report.save(figure, out / "gallery.png")
    say(f"  wrote {out / 'gallery.png'}")


def _shipped(store: str, out: Path) -> None:
    """Maps at once, by weights that were trained for an hour."""
    from factory import report
    from models.weights import shipped

    _stage(4, "Weights that come with the package make T1 maps of the test split at once, on anatomy they never saw.")
    card, weights = training.card_of(SYSTEM), shipped(SYSTEM)
    for sentence in verdict(training.judged(card, weights, store, "test")):
        say(f"  {sentence}")
    report.save(training.map_picture(card, weights, store, "test"), out / "maps_shipped.png")
    say(f"  wrote {out / 'maps_shipped.png'}")


def _train(store: str, out: Path, minutes: float, cores: int) -> Path:
    import torch

    from factory import report

    _stage(5, "Now a network of your own: a recurrent inference machine learns from batches streamed from the store.")
    card = training.card_of(SYSTEM)
    threads, steps = _pace(card, store, out, minutes, cores)
    torch.set_num_threads(threads)
    say(f"  {steps} batches of {BATCH} patches, about {minutes:g} minutes. Stopped? The same command goes on.")
    weights = training.trained(card, store, out / "run", split="train", batch=BATCH, steps=steps, seed=0, resume=True,
                               progress=True)
    report.save(training.learning_curve(training.curve_of(out / "run"), SYSTEM), out / "curve.png")
    say(f"  wrote {weights} and {out / 'curve.png'}")
    return weights


def _pace(card: Any, store: str, out: Path, minutes: float, cores: int) -> tuple[int, int]:
    """(threads, batches): what is fastest here, and as many as fit; what an earlier call decided, stays.

    On a busy machine one thread may be several times faster than all cores, because threads wait for each other.
    """
    note = out / "demo.json"
    if note.exists():
        known = json_text.loads(note.read_text())
        return min(int(known["threads"]), cores), int(known["steps"])
    times = {threads: _seconds_a_batch(card, store, out / "trial", threads) for threads in {1, cores}}
    fastest = min(times, key=times.__getitem__)
    steps = max(LEAST, min(MOST, int(60 * minutes / (SPARE * times[fastest]))))
    note.write_text(json_text.dumps({"steps": steps, "threads": fastest, "seconds_a_batch": times}) + "\n")
    return fastest, steps


def _seconds_a_batch(card: Any, store: str, trial: Path, threads: int) -> float:
    """Timed on a training that is thrown away; its first two batches only warm up."""
    import torch

    from models.training import fit

    torch.set_num_threads(threads)
    shutil.rmtree(trial, ignore_errors=True)  # of a demo that was stopped here
    fit(card, training.stream_of(store, "train", BATCH), out=trial, steps=TIMED, progress=False, log_every=1)
    rows = training.curve_of(trial)
    shutil.rmtree(trial)
    return float(max(1e-3, (rows[-1]["seconds"] - rows[1]["seconds"]) / (rows[-1]["step"] - rows[1]["step"])))


def _judge(weights: Path, store: str, out: Path) -> list[Row]:
    from factory import report

    _stage(6, "It is judged on the test split, on anatomy that it has never seen, beside two controls: one "
              "constant,\n      and the true mean of each tissue. Neither control looks at the signal.")
    card = training.card_of(SYSTEM)
    rows = training.judged(card, weights, store, "test")
    (out / "results.json").write_text(json_text.dumps(rows, indent=1) + "\n")
    training.results(rows, "T1 on the test split")
    report.save(training.map_picture(card, weights, store, "test"), out / "maps.png")
    say(f"  wrote {out / 'results.json'} and {out / 'maps.png'}")
    return rows


def verdict(rows: list[Row]) -> list[str]:
    """One sentence a tissue: the network's error beside the controls'."""
    sentences = []
    for tissue in dict.fromkeys(row["tissue"] for row in rows):
        error = {row["method"]: row["value"] for row in rows if row["tissue"] == tissue and row["name"] == "rmse"}
        own, *controls = error
        listed = ", ".join(f"{name} {error[name]:.0f} ms" for name in controls)
        better = all(error[own] < error[name] for name in controls)
        sentences.append(f"{tissue.replace('_', ' ')}: T1 error {own} {error[own]:.0f} ms, {listed}: " +
                         (f"{BEST}." if better else "not yet better than both controls; train longer."))
    return sentences


def _closing(rows: list[Row], out: Path, seconds: float) -> None:
    say("")
    for sentence in verdict(rows):
        say(sentence)
    say(f"\nDone in {span(seconds)}. Look at {out / 'gallery.png'}, {out / 'curve.png'} and {out / 'maps.png'}.")
    say(f"Next:  factory train {SYSTEM} --live --steps 3000   or your own recipe:  factory check mine.yaml")
