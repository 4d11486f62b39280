"""A recipe in words: its splits, draws, chain and what it keeps, as rows of text for tables and as plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isinf
from typing import TYPE_CHECKING, Any

from factory.cli.terminal import extent, size, unit

if TYPE_CHECKING:
    from factory.distributions import Population
    from factory.recipe import Recipe
    from factory.recipe.model import Drawn, Link, Split, Variable

Row = tuple[str, ...]
SHOWN = 4  # entries of a list that are written out
KEPT_HEAD = ("kept", "dimensions", "type", "unit", "a sample")
DRAW_HEAD = ("drawn", "unit", "from", "once per")
CHAIN_HEAD = ("step", "reads", "with", "makes", "once per")


def number(value: Any) -> str:
    """A number as short as it can be told apart: ``0.3``, ``2000``."""
    if isinstance(value, bool | str):
        return str(value).lower() if isinstance(value, bool) else value
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def constant(value: Any, its_unit: str = "1") -> str:
    """A constant of a step or a parameter of a draw, lists shortened."""
    tail = f" {unit(its_unit)}" if unit(its_unit) else ""
    if hasattr(value, "distribution"):
        return population(value, its_unit)
    if hasattr(value, "sample_times"):
        return (f"of {value.duration.sum():.4g} s: {len(value.pulses):,} pulses, {len(value.sample_times):,} samples "
                "(`factory sequence` shows it)")
    if hasattr(value, "digest"):
        return f"{len(value.names)} volume(s): " + ", ".join(f"{n} {a.shape}" for n, a in
                                                             zip(value.names[:SHOWN], value.arrays, strict=False))
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{k}: {constant(v)}" for k, v in value.items()) + "}"
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list | tuple):
        if len(value) > SHOWN and all(isinstance(v, int | float) for v in value):
            return f"{number(value[0])}, {number(value[1])} ... {number(value[-1])}{tail} ({len(value)} values)"
        return "[" + ", ".join(constant(v, its_unit) for v in value) + "]"
    if type(value).__name__ == "Ref":
        return str(value.name)
    return number(value) + (tail if isinstance(value, int | float) and not isinstance(value, bool) else "")


def population(one: Population, its_unit: str) -> str:
    """A distribution with its parameters: ``normal(mean 1.4 s, sd 0.3 s)``."""
    return _called(one.distribution, one.parameters, its_unit)


def _called(distribution: Any, parameters: Mapping[str, Any], its_unit: str) -> str:
    kinds = distribution.parameters
    written = []
    for name, value in parameters.items():
        if value is None or (isinstance(value, float) and isinf(value)):
            continue
        dimensioned = name not in kinds or kinds[name].kind.startswith(("quantit", "distribution"))
        written.append(f"{name} {constant(value, its_unit if dimensioned else '1')}")
    nested = any(hasattr(value, "distribution") for value in parameters.values())
    return f"{distribution.name}:\n" + "\n".join(written) if nested else f"{distribution.name}({', '.join(written)})"


def port_text(name: str, dims: Sequence[str], its_unit: str) -> str:
    """A variable with its dimensions and unit: ``t1 (y, x) in s``."""
    return name + (f" ({', '.join(dims)})" if dims else "") + (f" in {its_unit}" if its_unit else "")


def drawn_row(one: Drawn, plan: Split) -> Row:
    """One line of the table of draws."""
    text = _called(one.distribution, one.parameters, one.port.unit)
    design = f" on a {one.design.replace('_', ' ')} design" if one.design else ""
    return one.name, unit(one.port.unit), text + design, plan.levels[one.level][0]


def link_row(link: Link, plan: Split) -> Row:
    """One line of the chain: what it reads, its constants, what it makes with units and dimensions."""
    units = {name: c.unit for name, c in link.step.constants.items()}
    reads = [v if k == v else f"{k} = {v}" for k, v in link.wires.items()]
    made = []
    for output in link.outputs.values():
        port = link.ports[output]
        made.append(port_text(output, port.dims, unit(port.unit)))
    with_ = [f"{k} {constant(v, units[k])}" for k, v in link.constants.items()]
    return link.step.name, ", ".join(reads), "\n".join(with_), "\n".join(made), plan.levels[link.level][0]


def kept_row(v: Variable) -> Row:
    """One line of what a store holds."""
    each = f"{size(v.nbytes)} in all" if v.coordinate else size(v.nbytes)
    return v.name, extent(v.dims, v.shape), v.dtype, unit(v.unit), each


def split_row(plan: Split, per_shard: int) -> Row:
    """One line of the table of splits."""
    levels = " x ".join(f"{count} {name}" for name, count in plan.levels) if len(plan.levels) > 1 else ""
    shards = -(-plan.samples // per_shard)
    return (plan.name, f"{plan.samples:,}", levels, size(plan.sample_bytes), size(plan.samples * plan.sample_bytes),
            f"{shards:,} x {min(per_shard, plan.samples):,} samples")


SPLIT_HEAD = ("split", "samples", "levels", "a sample", "all", "shards")


def split_rows(recipe: Recipe) -> list[Row]:
    """The table of splits."""
    from factory.store.layout import samples_per_shard

    return [split_row(plan, samples_per_shard(plan, recipe.shard)) for plan in recipe.splits.values()]


def sections(plan: Split) -> list[tuple[Sequence[str], list[Row]]]:
    """Draws, chain and kept variables of one split: (head, rows) each."""
    return [
        (DRAW_HEAD, [drawn_row(one, plan) for one in plan.draw]),
        (CHAIN_HEAD, [link_row(link, plan) for link in plan.chain]),
        (KEPT_HEAD, [kept_row(v) for v in plan.variables.values()]),
    ]


def as_data(recipe: Recipe) -> dict[str, Any]:
    """The story for scripts."""
    from factory.store.layout import samples_per_shard

    return {
        "name": recipe.name, "about": recipe.about, "seed": recipe.seed, "identity": recipe.identity,
        "splits": {
            plan.name: {
                "samples": plan.samples, "levels": dict(plan.levels), "sample_bytes": plan.sample_bytes,
                "bytes": plan.samples * plan.sample_bytes, "samples_per_shard": samples_per_shard(plan, recipe.shard),
                "draws": [dict(zip(("name", "unit", "from", "level"), drawn_row(d, plan), strict=True))
                          for d in plan.draw],
                "chain": [{"step": link.step.name, "reads": dict(link.wires), "makes": dict(link.outputs)}
                          for link in plan.chain],
                "variables": [variable(v) for v in plan.variables.values()],
            } for plan in recipe.splits.values()
        },
    }


def variable(v: Variable) -> dict[str, Any]:
    """A kept variable for scripts."""
    return {"name": v.name, "unit": v.unit, "dtype": v.dtype, "dims": list(v.dims), "shape": list(v.shape),
            "bytes": v.nbytes, "coordinate": v.coordinate}
