"""The chain: each link's wires, units, dimensions and sizes, decided without running a step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from factory.recipe.constants import constant, nearest, shown
from factory.recipe.merging import LINK_WORDS, links
from factory.recipe.model import Link
from factory.recipe.reading import Faults, Node
from factory.step import ANY_DIMS, Port, Step, find


@dataclass
class Chain:
    """What is known while the links are read from top to bottom."""

    levels: list[str]
    all_levels: set[str]
    files: Mapping[str, Any]
    faults: Faults
    ports: dict[str, Port] = field(default_factory=dict)
    level_of: dict[str, int] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    lost: set[str] = field(default_factory=set)  # outputs of faulty links: not reported again
    links: list[Link] = field(default_factory=list)

    def level(self, node: Node | None, place: str) -> int:
        """The level that ``at`` names; the innermost in a split that has no such level."""
        if node is None:
            return len(self.levels) - 1
        if node.value in self.levels:
            return self.levels.index(str(node.value))
        if node.value not in self.all_levels:
            there = ", ".join(sorted(self.all_levels)) or "none: `at` is legal only where a split has levels"
            self.faults.add(
                node,
                f"{place}.at",
                f"{shown(node)} is no level of any split{nearest(node.value, self.all_levels)} (levels: {there})",
            )
        return len(self.levels) - 1


@dataclass(frozen=True)
class Draft:
    """A link whose wires and constants are known and whose ports are not."""

    step: Step
    settings: Node
    place: str
    wires: dict[str, str]
    outputs: dict[str, str]
    constants: dict[str, Any]


def read_chain(node: Node, state: Chain) -> None:
    """Append every link of the chain to ``state``; faults go to ``state.faults``."""
    if not isinstance(node.value, list) or not node.value:
        state.faults.add(node, "chain", f"must be a list of steps that is not empty, not {shown(node)}")
        return
    for item in node.value:
        if isinstance(item.value, str) or (isinstance(item.value, dict) and len(item.value) == 1):
            continue
        state.faults.add(
            item,
            "chain",
            f"each link must be one `step: {{...}}`, not {shown(item)}"
            + (f" with the keys {', '.join(item.value)}" if isinstance(item.value, dict) else ""),
        )
    for name, settings in links(node):
        _read_link(name, settings, state)


def _read_link(name: str, settings: Node, state: Chain) -> None:
    place = f"chain.{name}"
    try:
        step = find(name)
    except LookupError as error:
        state.faults.add(settings, place, str(error))
        state.lost.add("*")
        return
    if not isinstance(settings.value, dict):
        state.faults.add(settings, place, f"must be a mapping of constants and wires, not {shown(settings)}")
        state.lost.update(step.outputs)
        return
    before = state.faults.noticed
    words = settings.value
    level = state.level(words.get("at"), place)
    outputs = _outputs(step, words.get("as"), place, state)
    constants = _constants(step, words, settings, place, state)
    wires = {port: str(words[port].value) if port in words else port for port in step.inputs}
    found = _wired(step, wires, settings, place, level, state)
    if state.faults.noticed > before or not found:
        state.lost.update(outputs.values())
        return
    named = _bind(Draft(step, settings, place, wires, outputs, constants), state)
    if named is None:
        state.lost.update(outputs.values())
        return
    label = "link/" + next(iter(outputs.values()))
    state.links.append(Link(step, label, wires, constants, outputs, named, level))
    state.ports.update(named)
    state.level_of.update(dict.fromkeys(named, level))


def _outputs(step: Step, node: Node | None, place: str, state: Chain) -> dict[str, str]:
    renamed: dict[str, Node] = {}
    if node is not None and isinstance(node.value, dict):
        renamed = node.value
    elif node is not None:
        state.faults.add(node, f"{place}.as", f"must be a mapping from output to new name, not {shown(node)}")
    for key, new in renamed.items():
        if key not in step.outputs:
            state.faults.add(
                new,
                f"{place}.as",
                f"the step has no output {key!r}{nearest(key, step.outputs)} (outputs: {', '.join(step.outputs)})",
            )
        elif not (isinstance(new.value, str) and new.value.isidentifier()):
            state.faults.add(new, f"{place}.as.{key}", f"must be a plain name, not {shown(new)}")
    names = {key: str(renamed[key].value) if key in renamed else key for key in step.outputs}
    for key, new_name in names.items():
        if new_name in state.ports and not _same_coordinate(step, key, new_name, state):
            state.faults.add(
                node or Node(None),
                place,
                f"makes {new_name!r}, which something above makes already; rename it: as: {{{key}: another_name}}",
            )
    return names


def _same_coordinate(step: Step, key: str, name: str, state: Chain) -> bool:
    """Two steps may state the same coordinate; that their values agree is checked when they are made."""
    return step.outputs[key].dims == (key,) == (name,) and state.ports[name].dims == (name,)


def _constants(step: Step, words: Mapping[str, Node], settings: Node, place: str, state: Chain) -> dict[str, Any]:
    legal = [*step.constants, *step.inputs, *LINK_WORDS]
    for key, node in words.items():
        if key not in legal:
            state.faults.add(
                node,
                f"{place}.{key}",
                f"{step.name} has no constant or input {key!r}{nearest(key, legal)} "
                f"(constants: {', '.join(step.constants) or 'none'}; inputs: {', '.join(step.inputs)})",
            )
        elif key in step.inputs and not (isinstance(node.value, str) and node.value.isidentifier()):
            state.faults.add(
                node, f"{place}.{key}", f"is an input: wire it to the name of a variable, not {shown(node)}"
            )
    values = {}
    for key, kind in step.constants.items():
        if key in words:
            values[key] = constant(words[key], kind, f"{place}.{key}", state.files, state.faults)
        elif kind.required:
            state.faults.add(settings, place, f"the constant {key!r} is missing; give {kind}")
        else:
            values[key] = kind.default
    return values


def _wired(step: Step, wires: dict[str, str], settings: Node, place: str, level: int, state: Chain) -> bool:
    """Every input is wired to something made above, at this level or an outer one."""
    complete = True
    for port, name in wires.items():
        if name in state.ports:
            if state.level_of[name] > level:
                state.faults.add(
                    settings,
                    place,
                    f"is computed at {state.levels[level]!r} but its input {name!r} only "
                    f"exists at {state.levels[state.level_of[name]]!r}; move `at` inwards",
                )
            continue
        complete = False
        if name not in state.lost and "*" not in state.lost:
            wired = "" if name == port else f" (for the input {port!r})"
            state.faults.add(
                settings,
                place,
                f"wants {name!r}{wired}, which nothing above makes"
                f"{nearest(name, state.ports)} (known here: {', '.join(state.ports) or 'nothing'})",
            )
    return complete


def _bind(draft: Draft, state: Chain) -> dict[str, Port] | None:
    """The variables a link makes, with unit variables and ``...`` resolved and sizes noted; None after a fault."""
    step, before = draft.step, state.faults.noticed
    units: dict[str, str] = {}
    dims: tuple[str, ...] | None = None
    for name, wanted in step.inputs.items():
        given = state.ports[draft.wires[name]]
        unit = units.setdefault(wanted.unit, given.unit) if wanted.unit.startswith("?") else wanted.unit
        matched = _match(wanted.dims, given.dims, dims)
        if given.unit != unit or matched is None or not _fits(given.dtype, wanted.dtype):
            expected = str(Port(unit, _resolve(wanted.dims, dims), wanted.dtype))
            expected += f" {wanted.dtype}" if given.dtype != wanted.dtype else ""
            what = f"{draft.wires[name]!r} is {given} {given.dtype}, but {step.name} wants {expected}"
            state.faults.add(draft.settings, f"{draft.place}.{name}", what)
        elif ANY_DIMS in wanted.dims:
            dims = matched
    if state.faults.noticed > before:
        return None
    ports = {
        key: Port(units.get(port.unit, port.unit), _resolve(port.dims, dims), port.dtype)
        for key, port in step.outputs.items()
    }
    # A renamed coordinate renames its dimension too.
    moved = {key: draft.outputs[key] for key, port in ports.items() if port.dims == (key,)}
    if not _note_sizes(draft, ports, moved, state):
        return None
    return {
        draft.outputs[key]: Port(port.unit, tuple(moved.get(d, d) for d in port.dims), port.dtype)
        for key, port in ports.items()
    }


def _match(wanted: tuple[str, ...], given: tuple[str, ...], bound: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """The dims that ``...`` stands for, () when there is none, None when the dims do not fit."""
    if ANY_DIMS not in wanted:
        return () if wanted == given else None
    head = wanted.index(ANY_DIMS)
    tail = len(wanted) - head - 1
    middle = given[head : len(given) - tail]
    fits = (
        len(given) >= head + tail and given[:head] == wanted[:head] and given[len(given) - tail :] == wanted[head + 1 :]
    )
    return middle if fits and bound in (None, middle) else None


def _resolve(dims: tuple[str, ...], bound: tuple[str, ...] | None) -> tuple[str, ...]:
    if bound is None:
        return dims
    return tuple(d for dim in dims for d in (bound if dim == ANY_DIMS else (dim,)))


def _fits(given: str, wanted: str) -> bool:
    """A real port takes any real number, a complex one anything, a whole-number one only whole numbers."""
    order = {"b": 0, "u": 1, "i": 1, "f": 2, "c": 3}
    return order[np.dtype(given).kind] <= order[np.dtype(wanted).kind]


def _note_sizes(draft: Draft, ports: dict[str, Port], moved: dict[str, str], state: Chain) -> bool:
    step, constants, complain = draft.step, draft.constants, state.faults.add
    special: dict[str, int] = {}
    if step.sizes:
        try:
            special = step.sizes(**constants)
        except ValueError as error:
            complain(draft.settings, draft.place, str(error))
            return False
    taken = {dim for port in step.inputs.values() for dim in port.dims}
    for dim in dict.fromkeys(d for port in ports.values() for d in port.dims):
        name = moved.get(dim, dim)
        if dim in special:
            size = special[dim]
        elif isinstance(constants.get(dim), tuple):
            size = len(constants[dim])
        elif isinstance(constants.get(f"n_{dim}"), int):
            size = constants[f"n_{dim}"]
        elif dim in taken or name in state.sizes:
            continue
        else:
            what = f"{step.name} does not say how long its dimension {dim!r} is; its author must name an input, "
            complain(draft.settings, draft.place, what + f"a list {dim!r}, an integer 'n_{dim}' or @step(sizes=...)")
            return False
        if state.sizes.setdefault(name, size) != size:
            what = f"makes the dimension {name!r} {size} long, but above it is {state.sizes[name]} long"
            complain(draft.settings, draft.place, what)
            return False
    return True
