"""Commands that care for a store: verify, repair, extend, finalise, diff and watch."""

from __future__ import annotations

import sys
import time
from typing import Annotated, Any

import typer

from factory.cli.app import app
from factory.cli.choices import AsJson, Counts, Settings, counts, is_store, recipe_of
from factory.cli.making import Store, stoppable
from factory.cli.terminal import as_json, complain, console, say


def share(text: str) -> float:
    """5% or 0.05 as a number."""
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = -1.0
    if not 0 < value <= 1:
        raise typer.BadParameter(f"{text!r} is no share; say for example 5%", param_hint="--subset")
    return value


@app.command(epilog="Example:  factory verify rim_t1.zarr --deep")
def verify(
    store: Store,
    deep: Annotated[bool, typer.Option("--deep", help="Read every byte, not only names, sizes and metadata.")] = False,
    subset: Annotated[str | None, typer.Option(help="Read every byte of a share of the shards, such as 5%.")] = None,
    json: AsJson = False,
) -> None:
    """List all damage of a store: 0 sound, 1 damaged, 2 incomplete, 10 no store."""
    from factory.store import damages, status

    part = 1.0 if subset is None else share(subset)
    found = []
    for one in damages(store, deep=deep or subset is not None, part=part):
        found.append(one)
        if not json:
            say(one.sentence)
    whole = None if found else status(store)
    code = 1 if whole is None else whole.code
    if json:
        as_json({"store": store, "code": code, "damage": [
            {"path": d.path, "kind": d.kind, "split": d.split, "array": d.array, "shard": d.shard} for d in found]})
    elif whole is None:
        number = "one damaged file" if len(found) == 1 else f"{len(found)} damaged files"
        complain(f"{store}: {number}\nNext:  factory repair {store}")
    else:
        read = "every byte was read" if deep and part == 1 else (
            f"{100 * part:g} % of the shards were read" if subset else "add --deep to read every byte")
        say(f"{store}: no damage found ({read})")
        if code:
            complain(whole.sentence)
    raise typer.Exit(code)


@app.command(epilog="Example:  factory repair rim_t1.zarr")
def repair(
    store: Store,
    recipe: Annotated[str | None, typer.Argument(
        metavar="[RECIPE]", help="Needed where the recipe reads files; else the store remembers it.")] = None,
    samples: Counts = None,
    set_: Settings = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads; by default one for each core.")] = None,
    json: AsJson = False,
) -> None:
    """Make everything again that is damaged, and nothing else: the store has the bytes that it had."""
    from factory.store import RichProgress
    from factory.store import repair as put_right

    loaded = None if recipe is None else recipe_of(recipe, set_, samples)
    with stoppable(f"factory repair {store}"), RichProgress(console(sys.stderr)) as progress:
        found = put_right(store, loaded, threads=threads, progress=progress)
    if json:
        as_json({"store": store, "repaired": [one.path for one in found]})
    else:
        say(f"{store}: " + (f"{len(found)} files were put right" if found else "nothing was damaged"))


@app.command(epilog="Example:  factory extend rim_t1.zarr --samples train=40000")
def extend(
    store: Store,
    samples: Counts = None,
    recipe: Annotated[str | None, typer.Option(
        "--recipe", help="Needed where the recipe reads files; else the store remembers it.")] = None,
    set_: Settings = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads; by default one for each core.")] = None,
    json: AsJson = False,
) -> None:
    """Give a store more samples; those that it has keep their bytes."""
    from factory.store import RichProgress, status
    from factory.store import extend as enlarge
    from factory.store.extend import with_counts
    from factory.store.metadata import read_root

    if not samples:
        raise typer.BadParameter("say how many samples a split shall have, such as train=40000", param_hint="--samples")
    root = read_root(store)
    if recipe is None:
        loaded = with_counts(root, counts(samples))
    else:
        held = [f"{name}={facts['samples']}" for name, facts in root.splits.items()]
        loaded = recipe_of(recipe, set_, [*held, *samples])
    with stoppable(f"factory extend {store}"), RichProgress(console(sys.stderr)) as progress:
        enlarge(loaded, store, threads=threads, progress=progress)
    found = status(store)
    if json:
        as_json({"store": store, "id": found.id, "samples": {s.name: s.samples for s in found.splits}})
    else:
        say(found.sentence)


@app.command(epilog="Example:  factory finalise rim_t1.zarr")
def finalise(store: Store) -> None:
    """Finish a store whose shards are all made, should the last of its parts have died before it did."""
    from uuid import uuid4

    from factory.store import status
    from factory.store.care import plan_of
    from factory.store.files import place
    from factory.store.finish import finalise as finish
    from factory.store.metadata import read_root

    path = place(store).absolute()
    root = read_root(path)
    finish({name: plan_of(path, root, name) for name in root.splits}, path, uuid4().hex)
    say(status(store).sentence)


@app.command(epilog="Example:  factory diff a.zarr b.zarr")
def diff(
    one: Annotated[str, typer.Argument(metavar="A", help="A recipe or a store.")],
    other: Annotated[str, typer.Argument(metavar="B", help="Another one.")],
    json: AsJson = False,
) -> None:
    """Say why two recipes or two stores are not the same: 0 the same, 1 different."""
    from factory.store import differences

    sides = [name if is_store(name) else recipe_of(name) for name in (one, other)]
    found = []
    for line in differences(*sides):
        found.append(line)
        if not json:
            say(line)
    if json:
        as_json({"same": not found, "differences": found})
    elif not found:
        say(f"{one} and {other} are the same")
    raise typer.Exit(1 if found else 0)


@app.command(epilog="Example:  factory watch rim_t1.zarr")
def watch(
    store: Store,
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks.")] = 5.0,
) -> None:
    """Show how far a store is that others make, until it is finished; stopping to watch stops nothing else."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from factory.store import status

    told = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("left"),
            TimeRemainingColumn())
    with Progress(*told, console=console(sys.stderr)) as bar:
        rows: dict[str, Any] = {}
        while True:
            found = status(store)
            for split in found.splits:
                if split.name not in rows:
                    rows[split.name] = bar.add_task(split.name, total=split.samples)
                bar.update(rows[split.name], total=split.samples, completed=split.committed_samples)
            if found.code != 2:
                break
            time.sleep(every)
    (say if found.code == 0 else complain)(found.sentence)
    raise typer.Exit(found.code)
