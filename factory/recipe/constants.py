"""A recipe's constants: nodes of the text in, checked Python values out."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping
from math import isfinite
from typing import Any

from factory.recipe import reading
from factory.recipe.reading import Faults, Node, visible
from factory.sequences import Sequence, SequenceError, Table
from factory.sequences.building import builders, built
from factory.sequences.intervals import STEP
from factory.step import Constant, constants_of
from factory.units import TISSUES, UnitError, Volumes, convert

_COMPARE: dict[str, Callable[[float, float], bool]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
}


def nearest(word: object, legal: Iterable[object]) -> str:
    """``; did you mean 'x'?`` or nothing."""
    near = reading.nearest(str(word), [str(x) for x in legal])
    return f"; did you mean {near!r}?" if near else ""


def shown(node: Node) -> str:
    """What was given, short enough for a sentence."""
    if isinstance(node.value, dict | list):
        return ("a mapping" if isinstance(node.value, dict) else "a list") if node.value else "nothing"
    return "nothing" if node.value is None else visible(repr(node.value))[:60]


def quantity(node: Node, unit: str, place: str, faults: Faults) -> float | None:
    """One number in ``unit``; None after a fault."""
    if isinstance(node.value, dict | list) or node.value is None:
        faults.add(node, place, f"must be one number{_in(unit)}, not {shown(node)}")
        return None
    try:
        return convert(node.value, unit)
    except UnitError as error:
        faults.add(node, place, str(error))
        return None


def quantities(node: Node, unit: str, place: str, faults: Faults) -> tuple[float, ...] | None:
    """A list of numbers, either ``[139 ms, 166 ms]`` or ``{values: [139, 166], unit: ms}``; None after a fault."""
    items, suffix = node, ""
    if isinstance(node.value, dict):
        if set(node.value) != {"values", "unit"}:
            faults.add(
                node, place, f"must be a list or {{values: [...], unit: ...}}, not the keys {', '.join(node.value)}"
            )
            return None
        items, suffix = node.value["values"], f" {node.value['unit'].value}"
    if not isinstance(items.value, list) or not items.value:
        faults.add(node, place, f"must be a list of numbers{_in(unit)} that is not empty, not {shown(items)}")
        return None
    numbers = []
    for position, item in enumerate(items.value):
        where = f"{place}[{position}]"
        if suffix and (isinstance(item.value, bool) or not isinstance(item.value, int | float)):
            faults.add(item, where, f"must be a bare number, since the list has a unit, not {shown(item)}")
            continue
        try:
            numbers.append(
                convert(f"{item.value}{suffix}" if suffix else item.value, unit)
                if not isinstance(item.value, dict | list | None)
                else _refuse(item)
            )
        except UnitError as error:
            faults.add(item, where, str(error))
    return tuple(numbers) if len(numbers) == len(items.value) else None


def _refuse(node: Node) -> float:
    raise UnitError(f"must be a number, not {shown(node)}")


def _in(unit: str) -> str:
    return "" if unit == "1" else f" in {unit}"


def whole(node: Node, place: str, faults: Faults) -> int | None:
    """A whole number; 3.0 passes, 3.5 and true do not."""
    value = node.value
    if isinstance(value, float) and isfinite(value) and value == int(value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        faults.add(node, place, f"must be a whole number, not {shown(node)}")
        return None
    return value


def constant(node: Node, kind: Constant, place: str, files: Mapping[str, Any], faults: Faults) -> Any:
    """The value of one constant of a step; None after a fault."""
    value: Any = None
    if kind.kind == "quantity":
        value = quantity(node, kind.unit, place, faults)
    elif kind.kind == "quantities":
        value = quantities(node, kind.unit, place, faults)
    elif kind.kind == "int":
        value = whole(node, place, faults)
    elif kind.kind == "table":
        return _table(node, place, faults)
    elif kind.kind == "volumes":
        return _file(node, place, files, Volumes, "label volumes", faults)
    elif kind.kind in ("sequence", "intervals"):
        return _sequence(node, kind.kind, place, files, faults)
    elif kind.kind == "bool":
        value = node.value if isinstance(node.value, bool) else None
    elif kind.kind == "choice":
        value = node.value if node.value in kind.choices else None
    if value is None and kind.kind in ("bool", "choice"):
        faults.add(node, place, f"must be {kind}, not {shown(node)}{nearest(node.value, kind.choices)}")
    for number in value if isinstance(value, tuple) else (value,) if value is not None else ():
        for sign, limit in kind.bounds:
            if not _COMPARE[sign](number, limit):
                faults.add(node, place, f"must be {sign} {limit:g}{_in(kind.unit)}, not {number:g}")
                return None
    return value


def _table(node: Node, place: str, faults: Faults) -> dict[int, str] | None:
    if not isinstance(node.value, dict):
        faults.add(node, place, f"must be a mapping from label value to tissue, not {shown(node)}")
        return None
    table = {}
    for key, entry in node.value.items():
        if not key.lstrip("-").isdigit():
            faults.add(entry, f"{place}.{key}", f"a label value must be a whole number, not {key!r}")
        elif entry.value not in TISSUES:
            faults.add(
                entry,
                f"{place}.{key}",
                f"{shown(entry)} is no tissue{nearest(entry.value, TISSUES)} (tissues: {', '.join(TISSUES)})",
            )
        else:
            table[int(key)] = str(entry.value)
    return table


def _file(node: Node, place: str, files: Mapping[str, Any], kind: type[Any], what: str, faults: Faults) -> Any:
    """What an entry under files holds; None after a fault."""
    value = files.get(node.value) if isinstance(node.value, str) else None
    if isinstance(value, kind):
        return value
    if not (isinstance(node.value, str) and node.value in files):
        faults.add(
            node,
            place,
            f"must name an entry under files, not {shown(node)}{nearest(node.value, files)} "
            f"(files: {', '.join(files) or 'none'})",
        )
    elif value is None:
        faults.add(node, place, f"the file {node.value!r} is not given; say --set files.{node.value}=PATH")
    else:
        faults.add(node, place, f"the file {node.value!r} holds no {what}")
    return None


TABLE = {
    "of": Constant("sequence"),
    "field": Constant("quantity", "T", ((">", 0.0),), default=None),
    "step": Constant("quantity", "s", ((">", 0.0),), default=STEP),
}
"""``{table: {of: scan, field: 3 T, step: 5 us}}``: the field for offsets in ppm, and the longest piece of a pulse."""


def _sequence(node: Node, kind: str, place: str, files: Mapping[str, Any], faults: Faults) -> Sequence | Table | None:
    """A sequence of a file or of a builder, as it stands or as a table; None after a fault."""
    if not isinstance(node.value, dict):
        sequence = _file(node, place, files, Sequence, "pulse sequence (.seq)", faults)
        return _played(lambda: sequence.table() if sequence and kind == "intervals" else sequence, node, place, faults)
    legal = {name: constants_of(builder) for name, builder in builders().items()}
    legal |= {"table": TABLE} if kind == "intervals" else {}
    if len(node.value) != 1 or not {*node.value} <= {*legal}:
        faults.add(node, place, "must be the name of a .seq file under files, or one of "
                   f"{', '.join(legal)} with its settings, not a mapping of {', '.join(node.value) or 'nothing'}"
                   f"{nearest(next(iter(node.value), ''), legal)}")
        return None
    ((name, given),) = node.value.items()
    settings = _settings(given, legal[name], f"{place}.{name}", files, faults)
    if settings is None:
        return None
    if name == "table":
        return _played(lambda: settings.pop("of").table(**settings), node, place, faults)
    return _played(lambda: built(name, settings).table() if kind == "intervals" else built(name, settings),
                   node, place, faults)


def _settings(node: Node, legal: Mapping[str, Constant], place: str, files: Mapping[str, Any],
              faults: Faults) -> dict[str, Any] | None:
    """The settings of a builder, those left out at their defaults; None after a fault."""
    before = faults.noticed
    if not isinstance(node.value, dict):
        faults.add(node, place, f"must be a mapping of settings, not {shown(node)} (settings: {', '.join(legal)})")
        return None
    for key, child in node.value.items():
        if key not in legal:
            faults.add(child, f"{place}.{key}",
                       f"is no setting{nearest(key, legal)} (settings: {', '.join(legal)})")
    for key, what in legal.items():
        if what.required and key not in node.value:
            faults.add(node, place, f"the setting {key!r} is missing; give {what}")
    if faults.noticed > before:
        return None
    values = {key: constant(node.value[key], what, f"{place}.{key}", files, faults) if key in node.value
              else what.default for key, what in legal.items()}
    return values if faults.noticed == before else None


def _played(made: Callable[[], Sequence | Table | None], node: Node, place: str, faults: Faults) \
        -> Sequence | Table | None:
    try:
        return made()
    except SequenceError as error:
        faults.add(node, place, str(error))
        return None
