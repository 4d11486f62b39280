"""Tables that come with the package: relaxation of tissues with its source, and what labels of known files mean.

A recipe names one, and reading it writes the numbers out: what is stored, and what a sample's identity hangs on, are
the numbers and not a name.

    draw:  {tissue_t1: {at: patch, per_tissue: {table: 3T, column: t1, fat: {constant: 380 ms}}}}
    chain: [anatomy.labels: {volumes: anatomy, table: freesurfer}]

Rows that stand beside ``table`` win over those of the table, also of labels (``{table: freesurfer, 99: lesion}``); null
takes a tissue out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from factory.recipe.constants import nearest, shown
from factory.recipe.merging import addresses, links
from factory.recipe.reading import Faults, Node, read
from factory.step import find
from factory.units import TISSUES, convert

COLUMNS = ("t1", "t2", "t2_star", "amplitude")
TAGS = ("paper", "code", "knowledge", "derived", "choice")
_FOLDER = Path(__file__).parent / "data"


class Property(NamedTuple):
    """Mean and standard deviation between subjects, as written."""

    mean: str
    spread: str | None


class Tissue(NamedTuple):
    """One row of a table."""

    values: dict[str, Property]
    tag: str
    source: str


@cache
def tissue_tables() -> dict[str, dict[str, Tissue]]:
    """Every table by name: 3T, 1.5T, 7T, brainweb, sabidussi."""
    paths = sorted(_FOLDER.glob("tissues_*.yaml"))
    return {path.stem.removeprefix("tissues_"): tissue_table(path) for path in paths}


def tissue_table(path: Path) -> dict[str, Tissue]:
    """Read and check one table: ValueError for a tissue without tag or source, or unless 0 < T2* <= T2 <= T1."""
    plain = read(path).plain()
    found = {}
    for name, row in plain["tissues"].items():
        founded = row.get("tag") in TAGS and row.get("source") and {*COLUMNS} - {"t2_star"} <= set(row)
        if name not in TISSUES[1:] or not founded:
            raise ValueError(
                f"{path.name}: {name} needs {', '.join(COLUMNS)}, a tag ({', '.join(TAGS)}) and a source, and must be "
                f"one of {', '.join(TISSUES[1:])}"
            )
        values = {key: Property(str(row[key][0]), str(row[key][1]) if len(row[key]) > 1 else None)
                  for key in COLUMNS if key in row}
        t1, t2 = (convert(values[key].mean, "s") for key in COLUMNS[:2])
        t2_star = convert(values["t2_star"].mean, "s") if "t2_star" in values else t2  # some papers have none
        if not 0 < t2_star <= t2 <= t1:
            times = f"T2* {t2_star} s, T2 {t2} s, T1 {t1} s"
            raise ValueError(f"{path.name}: {name} has {times}; 0 < T2* <= T2 <= T1 is needed")
        found[name] = Tissue(values, row["tag"], row["source"])
    return found


@cache
def label_tables() -> dict[str, dict[str, str]]:
    """Label -> tissue by the name of a kind of file."""
    return {name: {str(k): v for k, v in rows.items()} for name, rows in read(_FOLDER / "labels.yaml").plain().items()}


def written_out(tree: Node, faults: Faults) -> Node:
    """The recipe's tree with every named table replaced by its numbers."""
    words = _holder(tree.value, tree.value.get("chain"), "", faults)
    splits = words.get("splits")
    if splits is not None and isinstance(splits.value, dict):
        made = {
            name: replace(one, value=_holder(one.value, words.get("chain"), f"splits.{name}.", faults))
            if isinstance(one.value, dict) else one
            for name, one in splits.value.items()
        }
        words["splits"] = replace(splits, value=made)
    return replace(tree, value=words)


def _holder(given: Mapping[str, Node], chain: Node | None, place: str, faults: Faults) -> dict[str, Node]:
    """Draws and chain of the recipe, or of one split, whose chain is a mapping of changes."""
    words = dict(given)
    draw, own = words.get("draw"), words.get("chain")
    if draw is not None and isinstance(draw.value, dict):
        rows = {name: _draw(node, f"{place}draw.{name}", faults) for name, node in draw.value.items()}
        words["draw"] = replace(draw, value=rows)
    if own is not None and isinstance(own.value, list):
        words["chain"] = replace(own, value=[_link(item, f"{place}chain", faults) for item in own.value])
    elif own is not None and isinstance(own.value, dict) and chain is not None:
        table, steps = addresses(chain), [name for name, _ in links(chain)]
        changes = {
            address: _settings(node, steps[table[address][0]], f"{place}chain.{address}", faults)
            if address in table else node
            for address, node in own.value.items()
        }
        words["chain"] = replace(own, value=changes)
    return words


def _draw(node: Node, place: str, faults: Faults) -> Node:
    rows = node.value.get("per_tissue") if isinstance(node.value, dict) else None
    if rows is None or not isinstance(rows.value, dict) or not {"table", "column"} & set(rows.value):
        return node
    table = _named(rows, f"{place}.per_tissue", faults)
    if table is None:  # broken, so that nothing else is said about it
        known = {k: replace(v, broken=True) if k in ("table", "column") else v for k, v in rows.value.items()}
        return replace(node, value=node.value | {"per_tissue": replace(rows, value=known)})
    made = {name: child for name, child in (table | _beside(rows)).items() if child.value is not None}
    return replace(node, value=node.value | {"per_tissue": replace(rows, value=made)})


def _beside(rows: Node) -> dict[str, Node]:
    return {key: child for key, child in rows.value.items() if key not in ("table", "column")}


def _named(rows: Node, place: str, faults: Faults) -> dict[str, Node] | None:
    """The rows of ``{table: NAME, column: COLUMN}``; None after a fault."""
    tables, legal = tissue_tables(), list(tissue_tables())
    for word in ("table", "column"):
        given = rows.value.get(word)
        if given is None:
            faults.add(next(iter(rows.value.values())), f"{place}.{word}", "is missing: {table: 3T, column: t1}")
        elif not _among(given, legal):
            near = nearest(given.value, legal)
            what = f"{shown(given)} is no {word} of tissues{near}; it is one of {', '.join(legal)}"
            faults.add(given, f"{place}.{word}", what)
        else:
            legal = _columns(tables.get(given.value, {}))
            continue
        return None
    name, column = rows.value["table"], rows.value["column"].value
    table = tables[name.value]
    return {tissue: _drawn(name, row.values[column]) for tissue, row in table.items() if column in row.values}


def _columns(table: Mapping[str, Tissue]) -> list[str]:
    return [key for key in COLUMNS if any(key in row.values for row in table.values())]


def _among(node: Node, names: Iterable[str]) -> bool:
    return isinstance(node.value, str) and node.value in names


def _link(item: Node, place: str, faults: Faults) -> Node:
    if not isinstance(item.value, dict) or len(item.value) != 1:
        return item
    ((name, settings),) = item.value.items()
    return replace(item, value={name: _settings(settings, name, f"{place}.{name}", faults)})


def _settings(settings: Node, step: str, place: str, faults: Faults) -> Node:
    """The constants of one link, tables of labels in full."""
    if not isinstance(settings.value, dict):
        return settings
    try:
        kinds = {key: constant.kind for key, constant in find(step).constants.items()}
    except LookupError:
        return settings  # the checker says so, with the nearest name
    made = {
        key: _labels(node, f"{place}.{key}", faults) if kinds.get(key) == "table" else node
        for key, node in settings.value.items()
    }
    return replace(settings, value=made)


def _labels(node: Node, place: str, faults: Faults) -> Node:
    """``freesurfer`` or ``{table: freesurfer, 99: lesion}`` as a mapping from labels to tissues."""
    rows = node.value if isinstance(node.value, dict) else {"table": node}
    name = rows.get("table")
    if name is None or isinstance(node.value, list) or node.value is None:
        return node
    tables = label_tables()
    if not _among(name, tables):
        near = nearest(name.value, tables)
        faults.add(name, place, f"{shown(name)} is no table of labels{near} (tables: {', '.join(tables)}; "
                                "or write a mapping from label to tissue)")
        return replace(node, value=None, broken=True)
    own = _beside(node) if isinstance(node.value, dict) else {}
    return replace(node, value={label: replace(name, value=one) for label, one in tables[name.value].items()} | own)


def _drawn(node: Node, one: Property) -> Node:
    """{normal: [mean, spread]}, or {constant: mean}."""
    words: Any = [_number(node, text) for text in one if text is not None]
    return replace(node, value={"normal": replace(node, value=words)} if len(words) > 1 else {"constant": words[0]})


def _number(node: Node, text: str) -> Node:
    """A quantity is text in a recipe, a plain number is a number."""
    try:
        return replace(node, value=float(text))
    except ValueError:
        return replace(node, value=text)
