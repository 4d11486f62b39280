"""What there is to work with: recipes, steps, distributions and systems, as rows of plain data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from factory.cli.story import constant as written
from factory.cli.story import port_text
from factory.cli.terminal import unit

Row = dict[str, Any]


def recipes() -> list[Row]:
    """Every packaged recipe and those in ``FACTORY_RECIPES``: sample counts and what they are about."""
    from factory.recipe import RecipeError, load, names

    rows = []
    for name in names():
        try:
            recipe = load(name)
        except (RecipeError, OSError) as error:
            rows.append({"recipe": name, "splits": "", "about": f"cannot be read ({str(error).splitlines()[0]})"})
            continue
        splits = ", ".join(f"{plan.name} {plan.samples:,}" for plan in recipe.splits.values())
        rows.append({"recipe": name, "splits": splits, "about": recipe.about})
    return rows


def steps() -> list[Row]:
    """Every step with its contract."""
    from factory.step import steps as steps_of
    from factory.step import topics

    return [
        {"step": one.name, "reads": _ports(one.inputs), "makes": _ports(one.outputs),
         "constants": [_constant(name, c) for name, c in one.constants.items()], "what": one.summary}
        for topic in topics() for one in steps_of(topic).values()
    ]


def _ports(ports: Mapping[str, Any]) -> list[str]:
    written = []
    for name, port in ports.items():
        its_unit = "any unit" if port.unit.startswith("?") else unit(port.unit)
        written.append(port_text(name, port.dims, its_unit))
    return written


def _constant(name: str, constant: Any) -> str:
    if constant.required:
        return f"{name}: {constant}"
    default = "" if isinstance(constant.default, Mapping) else f" ({written(constant.default, constant.unit)})"
    return f"{name}: {constant}{default}"


def distributions() -> list[Row]:
    """Every distribution with its parameters and defaults."""
    from factory.distributions import DISTRIBUTIONS, REQUIRED

    rows = []
    for one in DISTRIBUTIONS.values():
        written = []
        for name, parameter in one.parameters.items():
            default = "" if parameter.default is REQUIRED else " (optional)"
            written.append(f"{name}{default}")
        summary = (one.function.__doc__ or "").split("\n\n")[0]
        rows.append({"distribution": one.name, "parameters": ", ".join(written) if len(written) < 6 else
                     "one distribution for each of: " + ", ".join(one.parameters),
                     "short form": f"[{', '.join(one.positional)}]" if one.positional else "",
                     "what": " ".join(summary.split())})
    return rows


def systems() -> list[Row]:
    """Every network that can be trained, with what its paper claims."""
    from models.cards import systems as cards

    return [{"system": card.name, "recipe": card.stages[-1].recipe, "paper": card.paper, "claim": card.claim}
            for card in cards().values()]


def tissues() -> list[Row]:
    """Every table of tissues that a recipe may name, row by row, with where it is from."""
    from factory.recipe.tables import COLUMNS, tissue_tables

    return [
        {"table": name, "tissue": tissue,
         **{key: " +- ".join(filter(None, row.values.get(key, ()))) for key in COLUMNS},
         "tag": row.tag, "source": row.source}
        for name, rows in tissue_tables().items() for tissue, row in rows.items()
    ]
