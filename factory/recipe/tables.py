"""Tables that come with the package: relaxation of tissues with its source, and what labels of known files mean.

A recipe names one, and reading it writes the numbers out: what is stored, and what a sample's identity hangs on, are
the numbers and not a name.

    draw:  {tissue_t1: {at: patch, per_tissue: {table: 3T, column: t1, fat: {constant: 380 ms}}}}
    chain: [anatomy.labels: {volumes: anatomy, table: freesurfer}]
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from factory.recipe.reading import Faults, Node, nearest, read, shown
from factory.units import TISSUES, convert

COLUMNS = ("t1", "t2", "t2_star", "amplitude")
TAGS = ("paper", "code", "knowledge", "choice")
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
    """Every table by name: 3T, 1.5T, 7T, brainweb."""
    paths = sorted(_FOLDER.glob("tissues_*.yaml"))
    return {path.stem.removeprefix("tissues_"): tissue_table(path) for path in paths}


def tissue_table(path: Path) -> dict[str, Tissue]:
    """Read and check one table: ValueError for a tissue without tag or source, or unless 0 < T2* <= T2 <= T1."""
    plain = read(path).plain()
    found = {}
    for name, row in plain["tissues"].items():
        founded = row.get("tag") in TAGS and row.get("source") and set(COLUMNS) <= set(row)
        if name not in TISSUES[1:] or not founded:
            raise ValueError(
                f"{path.name}: {name} needs {', '.join(COLUMNS)}, a tag ({', '.join(TAGS)}) and a source, and must be "
                f"one of {', '.join(TISSUES[1:])}"
            )
        values = {key: Property(str(row[key][0]), str(row[key][1]) if len(row[key]) > 1 else None) for key in COLUMNS}
        t1, t2, t2_star = (convert(values[key].mean, "s") for key in COLUMNS[:3])
        if not 0 < t2_star <= t2 <= t1:
            times = f"T2* {t2_star} s, T2 {t2} s, T1 {t1} s"
            raise ValueError(f"{path.name}: {name} has {times}; 0 < T2* <= T2 <= T1 is needed")
        found[name] = Tissue(values, row["tag"], row["source"])
    return found


@cache
def label_tables() -> dict[str, dict[str, str]]:
    """Label -> tissue by the name of a kind of file."""
    return {name: {str(k): v for k, v in rows.items()} for name, rows in read(_FOLDER / "labels.yaml").plain().items()}


def written_out(node: Node, faults: Faults, place: str = "") -> Node:
    """The tree with every named table replaced by its numbers."""
    value: Any = node.value
    if isinstance(value, list):
        return replace(node, value=[written_out(child, faults, f"{place}[{k}]") for k, child in enumerate(value)])
    if not isinstance(value, dict):
        return node
    where = f"{place}." if place else ""
    words = {key: written_out(child, faults, f"{where}{key}") for key, child in value.items()}
    if "volumes" in words and "table" in words and isinstance(words["table"].value, str):
        words["table"] = _labels(words["table"], faults, f"{where}table")
    if "per_tissue" in words and isinstance(words["per_tissue"].value, dict) and "table" in words["per_tissue"].value:
        words["per_tissue"] = _tissues(words["per_tissue"], faults, f"{where}per_tissue")
    return replace(node, value=words)


def _labels(node: Node, faults: Faults, place: str) -> Node:
    rows = label_tables().get(str(node.value))
    if rows is None:
        names = list(label_tables())
        text = f"{shown(node)} is no table of labels{nearest(str(node.value), names)} (tables: {', '.join(names)})"
        faults.add(node, place, text)
        return replace(node, value={}, broken=True)
    return replace(node, value={label: replace(node, value=tissue) for label, tissue in rows.items()})


def _tissues(node: Node, faults: Faults, place: str) -> Node:
    """The rows of a table, under those that stand beside its name."""
    own = dict(node.value)
    table, column = own.pop("table"), own.pop("column", None)
    for given, word, legal in ((table, "table", list(tissue_tables())), (column, "column", list(COLUMNS))):
        if given is None or given.value not in legal:
            said = "is missing" if given is None else f"has no {shown(given)}{nearest(str(given.value), legal)}"
            faults.add(given or node, f"{place}.{word}", f"{said}; it is one of {', '.join(legal)}")
            return replace(node, value=own, broken=True)
    assert column is not None
    rows = {name: row.values[str(column.value)] for name, row in tissue_tables()[str(table.value)].items()}
    return replace(node, value={name: _drawn(table, one) for name, one in rows.items()} | own)


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
