"""Commands that look: list, check, show, sample, preview, schema."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Annotated, Any

import typer

from factory.cli import story
from factory.cli.app import app
from factory.cli.choices import AsJson, Counts, Settings, is_store, recipe_of, refuse_changes
from factory.cli.terminal import as_json, clean, extent, say, size, table, unit

if TYPE_CHECKING:
    from factory.recipe import Recipe, Split

MANY = 10_000  # samples behind a histogram
LOOKED_AT, MANY_BYTES, SECONDS = 400, 2**26, 2.0  # samples, bytes and time that are looked at for gaps
RecipeName = Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe's name, or a path with a / or .yaml.")]
Source = Annotated[str, typer.Argument(metavar="RECIPE|STORE", help="A recipe's name or path, or a store's folder.")]


@app.command(epilog="Example:  factory check rim_t1 --set splits.train.samples=5000")
def check(recipe: RecipeName, set_: Settings = None, samples: Counts = None, json: AsJson = False) -> None:
    """Find every fault of a recipe before anything is made: exit 0 when it is sound, 1 otherwise."""
    from factory.recipe import RecipeError

    try:
        checked = recipe_of(recipe, set_, samples)
    except RecipeError as error:
        if not json:
            raise
        as_json({"ok": False, "faults": [str(fault) for fault in error.faults]})
        raise typer.Exit(1) from None
    warnings = gaps_of(recipe, set_)
    if json:
        as_json({"ok": True, "warnings": warnings} | story.as_data(checked))
        return
    total = sum(plan.samples * plan.sample_bytes for plan in checked.splits.values())
    say(f"{checked.name}: ok, {len(checked.splits)} splits, {size(total)}")
    table("", story.SPLIT_HEAD, story.split_rows(checked), right=("samples", "a sample", "all"))
    for sentence in warnings:
        say(f"warning: {sentence}")


def gaps_of(name: str, set_: list[str] | None) -> list[str]:
    """A sentence for each kept map or drawn number with an empty range between two modes, from the recipe's corner."""
    import numpy as np

    from factory.cli.choices import settings
    from factory.gaps import gap
    from factory.recipe import load

    try:
        made, plan = _glance(load(name, set=settings(set_), corner=True))
    except ValueError as error:
        return [f"no sample can be made: {error}"]
    sentences = []
    for variable, parts in made.items():
        values = np.concatenate([part.to_numpy() for part in parts])
        skip = values.dtype.kind != "f" or set(parts[0].dims) & set(parts[0].coords)
        found = None if skip else gap(values, -(-len(values) // plan.strides[_outermost(variable, plan)]))
        if found is not None:
            edges = f"{found.low:.3g} and {found.high:.3g} {unit(clean(parts[0].attrs['units']))}".rstrip()
            sentences.append(
                f"{variable} has (almost) no value between {edges}, but {found.below:.0%} of its values below and "
                f"{found.above:.0%} above: a network that learns it cannot tell what lies between; widen a "
                "distribution, or add a tissue, so that the range is covered"
            )
    return sentences


def _glance(recipe: Recipe) -> tuple[dict[str, list[Any]], Split]:
    """Samples of the first split, 50 of each of 8 subjects, or fewer where they take long."""
    from factory import floor

    plan = next(iter(recipe.splits.values()))
    counts = [LOOKED_AT, *([50] if len(plan.levels) > 1 else []), *[1] * (len(plan.levels) - 2)]
    levels = tuple((level, count) for (level, _), count in zip(plan.levels, counts, strict=True))
    plan = replace(plan, levels=levels, samples=max(1, min(LOOKED_AT, MANY_BYTES // max(1, plan.sample_bytes))))
    small = replace(recipe, splits={plan.name: plan}, identity=f"a glance at {recipe.identity}")
    made: dict[str, list[Any]] = {}
    begun = monotonic()
    for start in range(0, plan.samples, 50):
        data = floor.make(small, plan.name, start, min(start + 50, plan.samples))
        for name, values in data.data_vars.items():
            made.setdefault(str(name), []).append(values)
        if monotonic() - begun > SECONDS:
            break
    return made, plan


def _outermost(name: str, plan: Split) -> int:
    """The outermost level of the draws behind a variable: so many of its values are independent."""
    wires = {out: set(link.wires.values()) for link in plan.chain for out in link.outputs.values()}
    drawn = {one.name: one for one in plan.draw}
    todo, seen, levels = [name], set(), [plan.level_of[name]]
    while todo:
        one = todo.pop()
        if one in seen:
            continue
        seen.add(one)
        if one in drawn:
            levels.append(drawn[one].level)
            todo += drawn[one].refs
        todo += wires.get(one, ())
    return min(levels)


@app.command(epilog="Example:  factory show rim_t1     or, for a store:  factory show rim_t1.zarr --json")
def show(source: Source, set_: Settings = None, samples: Counts = None, json: AsJson = False) -> None:
    """Tell a recipe's or a store's data story: splits, draws, chain, and what is kept with units and sizes."""
    if is_store(source):
        refuse_changes(set_ or samples)
        _show_store(source, json)
        return
    recipe = recipe_of(source, set_, samples)
    if json:
        as_json(story.as_data(recipe))
    else:
        _tell(recipe)


def _tell(recipe: Recipe) -> None:
    say(f"{recipe.name}: {recipe.about}")
    say(f"seed {recipe.seed}, identity {recipe.identity[:16]}")
    table("", story.SPLIT_HEAD, story.split_rows(recipe), right=("samples", "a sample", "all"))
    first, *others = recipe.splits.values()
    known = story.sections(first)
    for head, rows in known:
        table("", head, rows)
    for plan in others:
        for (head, rows), (_, usual) in zip(story.sections(plan), known, strict=True):
            changed = [row for row in rows if row not in usual]
            gone = [row[0] for row in usual if row[0] not in [r[0] for r in rows]]
            if changed:
                table(f"split {plan.name}: other than in {first.name}", head, changed)
            if gone:
                say(f"split {plan.name}: without {', '.join(gone)}")


def _show_store(path: str, json: bool) -> None:
    from factory.recipe import RecipeError, rebuild
    from factory.store import status
    from factory.store.metadata import read_root

    found, root = status(path), read_root(path)
    try:
        recipe = rebuild(root.recipe, Path(path).stem)
    except RecipeError:  # it reads files that are not here
        recipe = None
    if json:
        known = {"store": path, "identity": root.identity, "id": found.id, "finished": found.finished,
                 "status": found.sentence, "recipe": root.recipe}
        as_json(known | ({"story": story.as_data(recipe)} if recipe else {}))
        return
    say(found.sentence)
    if recipe is not None:
        _tell(recipe)
        return
    say("It reads files that are not on this machine, so only its recipe can be shown:\n")
    say(root.recipe)


@app.command(epilog="Example:  factory sample rim_t1 train 0 -o sample.png")
def sample(
    recipe: RecipeName,
    split: Annotated[str, typer.Argument(help="A split of the recipe, such as train.")],
    index: Annotated[int, typer.Argument(min=0, help="Which sample, from 0.")],
    set_: Settings = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Draw the sample into this picture (PNG).")] = None,
    json: AsJson = False,
) -> None:
    """Make one sample and show every variable on the way, kept or not."""
    from factory.floor import trace

    loaded = recipe_of(recipe, set_)
    plan = loaded.split(split)
    if index >= plan.samples:
        raise typer.BadParameter(f"split {split} has the samples 0 to {plan.samples - 1}", param_hint="INDEX")
    made = trace(loaded, split, index)
    rows = [_facts(made[name], plan, str(name)) for name in made.variables]
    if json:
        as_json({"recipe": loaded.name, "split": split, "index": index, "variables": rows})
    else:
        say(f"{loaded.name}, split {split}, sample {index} of {plan.samples:,}")
        table("", ("variable", "made by", "dimensions", "type", "unit", "least", "mean", "most", "kept"),
              [_line(row) for row in rows], right=("least", "mean", "most"))
    if out is not None:
        from factory import report

        _saved(report.gallery(made, f"{loaded.name}, split {split}", [index]), out, quiet=json)


def _facts(values: Any, plan: Any, name: str) -> dict[str, Any]:
    """What one variable of a sample is: a row of the table."""
    makers = {out: link.step.name for link in plan.chain for out in link.outputs.values()}
    array = values.to_numpy()
    sampled = values.dims[:1] == ("sample",)
    dims, shape = (values.dims[1:], array.shape[1:]) if sampled else (values.dims, array.shape)
    numbers = abs(array) if array.dtype.kind == "c" else array
    row = {"name": name, "from": makers.get(name, "drawn" if sampled else "list"), "dims": list(dims),
           "shape": list(shape), "dtype": str(array.dtype), "unit": values.attrs.get("units", "1"),
           "min": numbers.min().item(), "mean": numbers.mean().item(), "max": numbers.max().item(),
           "kept": name in plan.variables}
    return row | ({"values": array.reshape(shape).tolist()} if array.size <= 16 else {})


def _line(row: dict[str, Any]) -> tuple[str, ...]:
    numbers = [row["min"], row["mean"], row["max"]] if row["shape"] else ["", row["mean"], ""]
    written = [f"{n:.4g}" if isinstance(n, float) else str(n) for n in numbers]
    return (row["name"], row["from"], extent(row["dims"], row["shape"]), row["dtype"], unit(row["unit"]), *written,
            "kept" if row["kept"] else "")


@app.command(epilog="Example:  factory preview rim_t1 -o rim_t1.png --samples 6")
def preview(
    source: Source,
    out: Annotated[Path, typer.Option("-o", "--out", help="The picture (PNG, PDF or SVG).")],
    split: Annotated[str | None, typer.Option(help="Which split; by default the first.")] = None,
    samples: Annotated[int, typer.Option(min=1, max=12, help="Samples to show.")] = 5,
    set_: Settings = None,
) -> None:
    """Draw a gallery of samples with units and colour bars, and histograms of what is drawn."""
    from factory import report

    if is_store(source):
        refuse_changes(set_)
        shown, drawn, name, which = _from_store(source, split, samples)
    else:
        recipe = recipe_of(source, set_)
        shown, drawn, name, which = _from_recipe(recipe, split, samples)
    _saved(report.preview(shown, drawn, name, which), out)


def spread(total: int, count: int) -> list[int]:
    """Indices far from each other, so that they show different heads where samples share one."""
    return [k * max(1, total // count) for k in range(min(count, total))]


def _from_store(store: str, split: str | None, samples: int) -> tuple[Any, Any, str, list[int]]:
    from factory.store import open_store

    tree = open_store(store)
    if split is None:
        split = next(iter(tree.children))
    if split not in tree.children:
        raise typer.BadParameter(f"{store} has the splits {', '.join(tree.children)}", param_hint="--split")
    whole = tree[split].to_dataset()
    which = spread(whole.sizes["sample"], samples)
    return whole.isel(sample=which), whole.isel(sample=slice(0, MANY)), f"{Path(store).name}, split {split}", which


def _from_recipe(recipe: Recipe, split: str | None, samples: int) -> tuple[Any, Any, str, list[int]]:
    from factory import report
    from factory.virtual import open as open_data

    plan = recipe.split(split or next(iter(recipe.splits)))
    which = spread(plan.samples, samples)
    shown = open_data(recipe, split=plan.name).isel(sample=which).load()
    return shown, report.drawn(recipe, plan.name, MANY), f"{recipe.name}, split {plan.name}", which


def _saved(figure: Any, out: Path, quiet: bool = False) -> None:
    from factory import report

    report.save(figure, out)
    if not quiet:
        say(f"wrote {out}")


@app.command(epilog="Example:  factory schema > recipe.schema.json")
def schema() -> None:
    """Print the JSON schema of recipes, from which an editor completes and checks while you type."""
    from factory.recipe.schema import schema as whole

    as_json(whole())


@app.command("list", epilog="Example:  factory list steps")
def list_(
    what: Annotated[str, typer.Argument(metavar="[recipes|steps|distributions|tissues|systems]")] = "recipes",
    json: AsJson = False,
) -> None:
    """List what there is: recipes, steps, distributions, tissues, or systems (networks that can be trained)."""
    from factory.cli import catalogue

    kinds = {"recipes": catalogue.recipes, "steps": catalogue.steps, "distributions": catalogue.distributions,
             "tissues": catalogue.tissues, "systems": catalogue.systems}
    if what not in kinds:
        raise typer.BadParameter(f"{clean(what)!r} is not one of {', '.join(kinds)}", param_hint="WHAT")
    rows = kinds[what]()
    if json:
        as_json(rows)
        return
    head = list(rows[0]) if rows else []
    table("", head, [[_cell(row[key]) for key in head] for row in rows])


def _cell(value: Any) -> str:
    return "\n".join(map(str, value)) if isinstance(value, list) else str(value)
