"""Options that several commands share, and what a RECIPE or a STORE on the command line means."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from factory.cli.terminal import tell_of_compiling

if TYPE_CHECKING:
    from factory.recipe import Recipe

Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change one entry of the recipe; may be given several times."),
]
Counts = Annotated[
    list[str] | None,
    typer.Option("--samples", metavar="SPLIT=N", help="Sample count of a split; may be given several times."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]


def settings(given: list[str] | None) -> dict[str, str]:
    """``["chain.epg.cpmg.n_echo=16"]`` as a mapping.  A text without ``=`` is wrong usage."""
    return dict(_pair(text, "--set", "KEY=VALUE") for text in given or [])


def counts(given: list[str] | None) -> dict[str, int]:
    """``["train=2000"]`` as a mapping; ``2_000`` and ``2,000`` count as well."""
    found = {}
    for text in given or []:
        split, number = _pair(text, "--samples", "SPLIT=N")
        digits = number.replace("_", "").replace(",", "")
        if not (digits.isascii() and digits.isdigit() and int(digits) > 0):
            raise typer.BadParameter(f"{text!r}: {number!r} is no positive whole number", param_hint="--samples")
        found[split] = int(digits)
    return found


def _pair(text: str, option: str, form: str) -> tuple[str, str]:
    key, sign, value = text.partition("=")
    if not sign or not key.strip():
        raise typer.BadParameter(f"{text!r} must have the form {form}", param_hint=option)
    return key.strip(), value.strip()


def is_store(source: str) -> bool:
    """Whether a RECIPE|STORE argument means a store: a folder, an address, or a path that no recipe could have."""
    return "://" in source or Path(source).is_dir() or source.rstrip("/").endswith(".zarr")


def recipe_of(name: str, given: list[str] | None = None, samples: list[str] | None = None) -> Recipe:
    """The recipe of that name or path.  RecipeError lists every fault; a store is refused with a hint."""
    from factory.recipe import load

    changes, sizes = settings(given), counts(samples)
    if is_store(name):
        raise typer.BadParameter(f"{name} is a store, but this command needs a recipe (try: factory list recipes)")
    tell_of_compiling()
    return load(name, set=changes, samples=sizes)


def refuse_changes(given: list[str] | None) -> None:
    """A finished store cannot be changed by ``--set``."""
    if given:
        raise typer.BadParameter("a store is finished: --set works on recipes only", param_hint="--set")
