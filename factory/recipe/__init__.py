"""Recipes: strict YAML in, frozen and fully checked `Recipe` out.

Everything that can be wrong with a recipe is found here, all of it at once, before any sample is made.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from importlib.resources import files as package_files
from pathlib import Path
from typing import Any

from factory.recipe.checking import check
from factory.recipe.constants import nearest, shown
from factory.recipe.merging import assign, inherit, shrunk
from factory.recipe.model import Link, Recipe, Split, Variable
from factory.recipe.reading import Faults, Node, RecipeError, dump, read, read_value
from factory.recipe.tables import written_out

__all__ = ["Link", "Recipe", "RecipeError", "Split", "Variable", "load", "names", "rebuild"]

Sources = tuple[tuple[str, Any], ...]


def names() -> dict[str, Path]:
    """The recipes that a bare name finds: those of the package, then those in the folder ``FACTORY_RECIPES``."""
    found: dict[str, Path] = {}
    folders = [Path(str(package_files("recipes")))]
    if os.environ.get("FACTORY_RECIPES"):
        folders.append(Path(os.environ["FACTORY_RECIPES"]))
    for folder in folders:
        for path in sorted(folder.glob("*.yaml")):
            found.setdefault(path.stem, path)
    return found


def locate(name: str | Path) -> Path:
    """The file behind a name; a path has a ``/`` or ends in ``.yaml``.  RecipeError names the nearest recipe."""
    text = str(name)
    if "/" in text or text.endswith((".yaml", ".yml")):
        return Path(text)
    known = names()
    if text not in known:
        faults = Faults(text)
        faults.add(
            Node(None),
            "recipe",
            f"there is no recipe {text!r}{nearest(text, known)}; it is one of "
            f"{', '.join(known)}, or a path with a / or .yaml",
        )
        faults.raise_if_any()
    return known[text]


def load(
    name: str | Path,
    *,
    set: Mapping[str, str] | None = None,
    samples: Mapping[str, int] | None = None,
    corner: bool = False,
) -> Recipe:
    """Read and check a recipe.

    Parameters
    ----------
    name : a packaged recipe's name or a path
    set : ``{"chain.epg.cpmg.n_echo": "16"}``, what ``--set`` gives; values are YAML and obey the same checks
    samples : ``{"train": 2000}``, sample counts that replace the recipe's
    corner : take the recipe's cheap corner

    Raises
    ------
    RecipeError
        Every fault of the text, one a line: where, what was given, what is legal, the nearest name.
    """
    path = locate(name)
    faults = Faults(path.name)
    tree = read(path, faults)
    if isinstance(tree.value, dict) and "like" in tree.value:
        tree = _inherited(tree, path, faults)
    sources: dict[str, Any] = {}
    for key, text in (set or {}).items():
        if isinstance(tree.value, dict):
            tree = assign(tree, key, _given_file(key, text, sources, faults), faults)
    for split, count in (samples or {}).items():
        tree = assign(tree, f"splits.{split}.samples", str(count), faults)
    faults.raise_if_any()
    return _finish(tree, path, tuple(sources.items()), corner, faults)


def _inherited(tree: Node, path: Path, faults: Faults) -> Node:
    node = tree.value["like"]
    if not (isinstance(node.value, str) and len(node.value) <= 64 and node.value.replace("-", "_").isidentifier()):
        # no path: a recipe from a stranger may not make us read a file elsewhere
        faults.add(node, "like", f"must be the bare name of a recipe, beside this one or known, not {shown(node)}")
        faults.raise_if_any()
    beside = path.parent / f"{node.value}.yaml"
    parent = read(beside if beside.exists() else locate(node.value))
    if isinstance(parent.value, dict) and "like" in parent.value:
        faults.add(
            node,
            "like",
            f"{node.value!r} itself says like: {shown(parent.value['like'])}; inheritance goes one level only",
        )
        faults.raise_if_any()
    return inherit(parent, tree, faults)


@lru_cache(maxsize=16)
def rebuild(text: str, name: str, sources: Sources = ()) -> Recipe:
    """The recipe of a flattened text, as a worker or a store holds it; ``sources`` says where its files lie."""
    faults = Faults(name)
    return _finish(read(text.encode()), Path(name), sources, False, faults)


def _finish(
    tree: Node,
    path: Path,
    sources: Sources,
    corner: bool,
    faults: Faults,
) -> Recipe:
    if not isinstance(tree.value, dict):
        faults.add(tree, "recipe", f"must be a mapping, not {shown(tree)}")
        faults.raise_if_any()
    small = shrunk(tree, faults)  # always: a fault in the corner is a fault of the recipe
    tree = written_out(small if corner else tree, faults)
    found, contents, digests = _open_files(tree, path.parent, dict(sources), faults)
    recipe = check(tree, path.stem, contents, digests, faults)
    faults.raise_if_any()
    assert recipe is not None
    return replace(recipe, sources=tuple(found.items()))


def _open_files(
    tree: Node,
    folder: Path,
    sources: dict[str, Any],
    faults: Faults,
) -> tuple[dict[str, Any], dict[str, Any], dict[str, str]]:
    found: dict[str, Any] = {}
    contents: dict[str, Any] = {}
    digests: dict[str, str] = {}
    for name, node, place in _named_files(tree, faults):
        if node.value is None and name not in sources:
            contents[name] = None
            continue
        try:
            found[name] = sources.get(name) or _resolved(node, folder, trusted=False)
            contents[name], digests[name] = _content(found[name])
        except (ValueError, OSError) as error:
            faults.add(node, place, str(error))
            contents[name] = None
    return found, contents, digests


def _named_files(tree: Node, faults: Faults) -> list[tuple[str, Node, str]]:
    """(name, node, place) of every entry under files; a split's own entry is called split.name."""
    holders = [("", "files", tree.value.get("files"))]
    splits = tree.value.get("splits")
    for split, node in splits.value.items() if splits is not None and isinstance(splits.value, dict) else ():
        if isinstance(node.value, dict) and "files" in node.value:
            holders.append((f"{split}.", f"splits.{split}.files", node.value["files"]))
    entries = []
    for prefix, place, holder in holders:
        if holder is None or holder.value is None:
            continue
        if not isinstance(holder.value, dict):
            faults.add(holder, place, f"must be a mapping from name to path, not {shown(holder)}")
            continue
        entries += [(prefix + name, node, f"{place}.{name}") for name, node in holder.value.items()]
    return entries


def _given_file(key: str, text: str, sources: dict[str, Any], faults: Faults) -> str:
    """What ``--set files.NAME=PATH`` puts into the recipe: the file's name; where it lies goes to ``sources``."""
    *place, name = key.split(".")
    if place[-1:] != ["files"]:
        return text
    node = read_value(text)
    if node.value is None:
        return text
    entry = name if len(place) == 1 else f"{place[1]}.{name}"
    try:
        sources[entry] = _resolved(node, Path(), trusted=True)
    except (ValueError, OSError) as error:
        faults.add(node, f"--set {key}", str(error))
        return "null"
    named = replace(node, value=_bare_names(node.value))
    return dump(named.plain())


def _bare_names(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: replace(child, value=_bare_names(child.value)) for key, child in value.items()}
    if isinstance(value, list):
        return [replace(child, value=_bare_names(child.value)) for child in value]
    return Path(str(value)).name


def _resolved(node: Node, folder: Path, *, trusted: bool) -> Any:
    """A path, a tuple of paths, or a tuple of (tissue, path)."""
    from factory.recipe.files import resolve

    value = node.value
    if isinstance(value, dict):
        return tuple((key, str(resolve(str(child.value), folder, trusted))) for key, child in value.items())
    if isinstance(value, list):
        return tuple(str(resolve(str(child.value), folder, trusted)) for child in value)
    return str(resolve(str(value), folder, trusted))


def _content(source: Any) -> tuple[Any, str]:
    """What a file holds: label volumes, a histogram (.csv, .txt), or a pulse sequence (.seq); and its sha256."""
    from factory.recipe.files import read_labels, read_numbers, sha256_of
    from factory.sequences import read as read_sequence

    if isinstance(source, str) and source.endswith(".seq"):
        return read_sequence(source), sha256_of(Path(source))

    if isinstance(source, str) and source.endswith((".csv", ".txt")):
        return read_numbers(Path(source)), sha256_of(Path(source))
    maps = isinstance(source, tuple) and isinstance(source[0], tuple)
    volumes = read_labels(dict(source) if maps else source)
    return volumes, volumes.digest
