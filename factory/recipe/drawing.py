"""The draws: distributions with their parameters in one unit, dependent draws, designs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from factory.distributions import DISTRIBUTIONS, REQUIRED, Distribution, Parameter, Population
from factory.draws import SOBOL_DIMENSIONS
from factory.recipe.constants import nearest, quantities, quantity, shown, whole
from factory.recipe.linking import Chain
from factory.recipe.model import Drawn, Ref
from factory.recipe.reading import Node
from factory.step import Port
from factory.units import UNITS, unit_in

WORDS = ("at", "dim")
DESIGNS = ("sobol", "latin_hypercube")
Table = Mapping[str, Node]


def read_draws(entries: Table, design: Node | None, state: Chain) -> list[Drawn]:
    """Every draw in the order of the text; each may name earlier ones.  Faults go to ``state.faults``."""
    drawn: list[Drawn] = []
    for name, node in entries.items():
        one = _draw(name, node, state)
        if one is None:
            state.lost.add(name)
            continue
        drawn.append(one)
        state.ports[name] = one.port
        state.level_of[name] = one.level
    return _designed(drawn, design, state) if design is not None else drawn


def _draw(name: str, node: Node, state: Chain) -> Drawn | None:
    place, before = f"draw.{name}", state.faults.noticed
    if not name.isidentifier() or name in ("sample", "draws"):
        state.faults.add(
            node, place, f"{name!r} cannot name a variable; use letters, digits and _ (not 'sample', 'draws')"
        )
    found = _distribution(node, place, state, WORDS)
    if found is None:
        return None
    distribution, given = found
    level = state.level(node.value.get("at"), place)
    unit = _unit(distribution, given, place, state)
    parameters = _parameters(distribution, given, unit, place, state)
    if state.faults.noticed > before:
        return None
    refs = [p.name for p in parameters.values() if isinstance(p, Ref)]
    for ref in refs:
        if state.level_of[ref] > level:
            state.faults.add(
                node,
                place,
                f"is drawn at {state.levels[level]!r} but depends on {ref!r}, which only exists "
                f"at {state.levels[state.level_of[ref]]!r}",
            )
    complaint = None if refs else distribution.complaint(parameters)
    if complaint:
        state.faults.add(node, place, complaint)
        return None
    dims, shape = distribution.dims, distribution.shape(parameters)
    if "dim" in node.value:
        dims = _named_dim(node.value["dim"], dims, place, state)
    for dim, size in zip(dims, shape, strict=False):
        if state.sizes.setdefault(dim, size) != size:
            state.faults.add(node, place, f"has {size} entries along {dim!r}, which is {state.sizes[dim]} long above")
    return Drawn(name, Port(unit, dims, distribution.dtype), shape, distribution, parameters, level)


def _named_dim(node: Node, dims: tuple[str, ...], place: str, state: Chain) -> tuple[str, ...]:
    if not dims:
        state.faults.add(node, f"{place}.dim", "only a vector draw has a dimension to name")
    elif not (isinstance(node.value, str) and node.value.isidentifier() and node.value != "sample"):
        state.faults.add(node, f"{place}.dim", f"must be a plain name, not {shown(node)}")
    return (str(node.value),) if dims else dims


def _distribution(
    node: Node, place: str, state: Chain, words: tuple[str, ...] = ()
) -> tuple[Distribution, Table] | None:
    """The distribution that a node names, and the nodes of its parameters; None after a fault."""
    faults = state.faults
    if not isinstance(node.value, dict):
        faults.add(node, place, f"must be a mapping such as {{uniform: [0, 1]}}, not {shown(node)}")
        return None
    kinds = [key for key in node.value if key not in words]
    if len(kinds) != 1 or kinds[0] not in DISTRIBUTIONS:
        what = f"needs exactly one distribution, not {len(kinds)}"
        for unknown in (k for k in kinds if k not in DISTRIBUTIONS):
            what = f"{unknown!r} is no distribution{nearest(unknown, [*DISTRIBUTIONS, *words])}"
        faults.add(node, place, f"{what} (distributions: {', '.join(DISTRIBUTIONS)})")
        return None
    distribution = DISTRIBUTIONS[kinds[0]]
    entries = _entries(distribution, node.value[kinds[0]], place, state)
    if entries is None:
        return None
    legal = list(distribution.parameters)
    for key, child in entries.items():
        if key not in legal:
            near = nearest(key, [*legal, *(("table", "column") if distribution.name == "per_tissue" else ())])
            sentence = f"{distribution.name} has no parameter {key!r}{near} (it has {', '.join(legal)})"
            faults.add(child, f"{place}.{key}", sentence)
    return distribution, entries


def _entries(distribution: Distribution, given: Node, place: str, state: Chain) -> Table | None:
    """The parameters by name, whichever way they are written; None after a fault."""
    if isinstance(given.value, dict):
        if distribution.name == "empirical" and "file" in given.value:
            return _histogram(given.value, f"{place}.empirical", state)
        return given.value
    order = distribution.positional
    if isinstance(given.value, list) and order:
        if len(given.value) == len(order):
            return dict(zip(order, given.value, strict=True))
        what = f"{distribution.name} takes [{', '.join(order)}], not {len(given.value)} entries"
    elif distribution.name == "constant" and not isinstance(given.value, list):
        return {"value": given}
    else:
        what = f"{distribution.name} needs named parameters: {{{': ..., '.join(distribution.parameters)}: ...}}"
    state.faults.add(given, place, what)
    return None


def _histogram(entries: Table, place: str, state: Chain) -> Table:
    """``{file: NAME, unit: ms}`` as edges and counts."""
    for key, child in entries.items():
        if key not in ("file", "unit"):
            state.faults.add(
                child, f"{place}.{key}", "empirical takes {file: NAME, unit: ...} or {edges: ..., counts: ...}"
            )
    node = entries["file"]
    content = state.files.get(str(node.value))
    if not (isinstance(content, tuple) and len(content) == 2):
        state.faults.add(
            node,
            f"{place}.file",
            f"must name a histogram under files (.csv or .txt), not {shown(node)}{nearest(node.value, state.files)}",
        )
        return {}
    edges, counts = ([replace(node, value=float(x)) for x in column] for column in content)
    unit = entries.get("unit", replace(node, value="1"))
    listed = replace(node, value={"values": replace(node, value=edges), "unit": unit})
    return {"edges": listed, "counts": replace(node, value=counts)}


def _quantity_nodes(distribution: Distribution, given: Table) -> Iterator[Node]:
    """Every node that holds a number in the variable's unit, nested distributions included."""
    for key, node in given.items():
        kind = distribution.parameters[key].kind if key in distribution.parameters else ""
        if kind in ("quantity", "quantities"):
            yield from _leaves(node)
        elif kind in ("distribution", "distributions"):
            for child in node.value if isinstance(node.value, list) else [node]:
                (name, inner), *_ = (
                    child.value.items() if isinstance(child.value, dict) and child.value else [("", child)]
                )
                if name in DISTRIBUTIONS:
                    nested = DISTRIBUTIONS[name]
                    table = (
                        inner.value
                        if isinstance(inner.value, dict)
                        else dict(
                            zip(
                                nested.positional or ("value",),
                                inner.value if isinstance(inner.value, list) else [inner],
                                strict=False,
                            )
                        )
                    )
                    yield from _quantity_nodes(nested, table)


def _leaves(node: Node) -> Iterator[Node]:
    if isinstance(node.value, list):
        yield from node.value
    elif isinstance(node.value, dict) and "unit" in node.value:
        yield replace(node, value=f"1 {node.value['unit'].value}")
    else:
        yield node


def _unit(distribution: Distribution, given: Table, place: str, state: Chain) -> str:
    """The canonical unit that the parameters agree on; "1" when none has a unit."""
    units: dict[str, Node] = {}
    for node in _quantity_nodes(distribution, given):
        if isinstance(node.value, str) and node.value in state.ports:
            units.setdefault(state.ports[node.value].unit, node)
        elif isinstance(node.value, str):
            unit = unit_in(node.value)
            if unit is not None:  # anything else is reported where the number is read
                units.setdefault(UNITS[unit].kind, node)
    if len(units) > 1:
        kinds = ", ".join(f"{node.value!r} in {unit!r}" for unit, node in units.items())
        state.faults.add(next(iter(units.values())), place, f"mixes units of different kinds: {kinds}")
    return next(iter(units), "1")


def _parameters(distribution: Distribution, given: Table, unit: str, place: str, state: Chain) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, parameter in distribution.parameters.items():
        where = f"{place}.{key}"
        if key in given:
            values[key] = _parameter(given[key], parameter, unit, where, state)
        elif parameter.default is REQUIRED:
            state.faults.add(
                next(iter(given.values()), Node(None)),
                place,
                f"{distribution.name} needs {key!r} (parameters: {', '.join(distribution.parameters)})",
            )
        elif parameter.kind not in ("distribution", "distributions"):
            values[key] = parameter.default
    return values


def _parameter(node: Node, parameter: Parameter, unit: str, place: str, state: Chain) -> Any:
    faults, kind = state.faults, parameter.kind
    if kind in ("quantity", "number", "integer") and isinstance(node.value, str):
        wanted = unit if kind == "quantity" else "1"
        if node.value in state.ports:
            port = state.ports[node.value]
            if port.dims or port.unit != wanted:
                faults.add(node, place, f"{node.value!r} is {port}, but a scalar in {wanted!r} is wanted")
            return Ref(node.value)
        if node.value.isidentifier():
            if node.value not in state.lost:
                faults.add(
                    node,
                    place,
                    f"{node.value!r} is neither a number nor an earlier draw"
                    f"{nearest(node.value, state.ports)} (drawn above: {', '.join(state.ports) or 'nothing'})",
                )
            return 0.0
    if kind in ("quantity", "number"):
        return quantity(node, unit if kind == "quantity" else "1", place, faults)
    if kind in ("integer", "count"):
        found = whole(node, place, faults)
        return 1 if found is None and kind == "count" else found
    if kind in ("quantities", "numbers"):
        return quantities(node, unit if kind == "quantities" else "1", place, faults)
    if kind == "matrix":
        rows = node.value if isinstance(node.value, list) else [node]
        return tuple(quantities(row, "1", f"{place}[{k}]", faults) or () for k, row in enumerate(rows))
    if kind == "distribution":
        return _population(node, unit, place, state)
    if not isinstance(node.value, list):
        faults.add(node, place, f"must be a list of distributions, not {shown(node)}")
        return ()
    return tuple(p for k, child in enumerate(node.value) if (p := _population(child, unit, f"{place}[{k}]", state)))


def _population(node: Node, unit: str, place: str, state: Chain) -> Population | None:
    found = _distribution(node, place, state)
    if found is None:
        return None
    parameters = _parameters(*found, unit, place, state)
    if any(isinstance(p, Ref) for p in parameters.values()):
        state.faults.add(node, place, "a nested distribution cannot depend on another draw")
        return None
    return Population(found[0], parameters)


def _designed(drawn: list[Drawn], design: Node, state: Chain) -> list[Drawn]:
    """The draws with their place in a space-filling design."""
    if not isinstance(design.value, dict):
        state.faults.add(design, "design", f"must be a mapping such as {{sobol: [t1, t2]}}, not {shown(design)}")
        return drawn
    table = {one.name: one for one in drawn}
    taken: dict[str, str] = {}
    for kind, members in design.value.items():
        if kind not in DESIGNS:
            state.faults.add(
                members, "design", f"{kind!r} is no design{nearest(kind, DESIGNS)} (designs: {', '.join(DESIGNS)})"
            )
            continue
        dimension = 0
        for node in members.value if isinstance(members.value, list) else [members]:
            one = table.get(str(node.value))
            if one is None:
                if str(node.value) not in state.lost:
                    state.faults.add(
                        node,
                        f"design.{kind}",
                        f"{shown(node)} is not drawn{nearest(node.value, table)} (drawn: {', '.join(table)})",
                    )
                continue
            if one.name in taken:
                state.faults.add(node, f"design.{kind}", f"{one.name!r} already belongs to {taken[one.name]}")
            taken[one.name] = kind
            table[one.name] = replace(one, design=kind, dimension=dimension)
            dimension += one.distribution.uniforms(one.parameters)
        if kind == "sobol" and dimension > SOBOL_DIMENSIONS:
            state.faults.add(members, "design.sobol", f"needs {dimension} dimensions; there are {SOBOL_DIMENSIONS}")
        if len({table[name].level for name, where in taken.items() if where == kind}) > 1:
            state.faults.add(members, f"design.{kind}", "its draws stand at different levels; a design fills one level")
    return list(table.values())
