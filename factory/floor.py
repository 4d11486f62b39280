"""The factory floor: samples ``start..stop`` of one split as a labelled data set.

`make` is pure: the same arguments give the same bytes, whatever else was made before, by whom, and in which pieces.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from threading import Lock
from typing import Any

import numpy as np
import xarray as xr

from factory.draws import Draws, latin_hypercube, sobol
from factory.recipe import Recipe
from factory.recipe.checking import CATEGORIES
from factory.recipe.model import Drawn, Link, Ref, Split
from factory.units import Array

State = dict[str, Array]
LARGE = 16_384  # bytes: an outer variable above this is never copied for each inner sample, but seen through stride 0
KEPT_BYTES = 256 * 2**20  # what outer levels may hold in memory, for all recipes of one process


def make(recipe: Recipe, split: str | None, start: int, stop: int) -> xr.Dataset:
    """Samples ``start`` (included) to ``stop`` (not included) of a split.

    Returns
    -------
    xr.Dataset
        One variable for each kept one and each drawn scalar, dims ``("sample", ...)``, ``units`` in its attributes,
        coordinates named like their dimension.  ``sample`` has no coordinate.

    Raises
    ------
    ValueError
        No such split, or a range outside it.
    """
    if not start < stop:
        raise _missing(recipe, recipe.split(split).name, f"{start} to {stop}", recipe.split(split).samples)
    return make_at(recipe, split, np.arange(start, stop))


def make_at(recipe: Recipe, split: str | None, index: Array) -> xr.Dataset:
    """Any samples of a split, by their indices in ascending order, each once; otherwise as `make`."""
    plan = recipe.split(split)
    state = _run(recipe, plan, len(plan.levels) - 1, index, frozenset(plan.variables))
    wanted = {v.name: state[v.name] for v in plan.variables.values() if v.name in state}
    return label(recipe, plan, wanted)


def drawn(recipe: Recipe, split: str | None, start: int, stop: int) -> State:
    """What is drawn for samples, without running the chain: name -> (sample, *dims), not yet in stored dtypes."""
    plan = recipe.split(split)
    state: State = {}
    before = 0
    for depth, stride in enumerate(plan.strides):
        first, last = start // stride, (stop - 1) // stride + 1
        if depth:
            outer = np.arange(first, last) // (plan.strides[depth - 1] // stride) - before
            state = {name: values[outer] for name, values in state.items()}
        draws, before = Draws(recipe.seed, plan.name, first, last), first
        for one in plan.draw:
            if one.level == depth:
                state[one.name] = draw_values(recipe, plan, one, draws, state)
    return state


def trace(recipe: Recipe, split: str | None, index: int) -> xr.Dataset:
    """One sample with every variable that the chain makes, kept or not: dims ``("sample", ...)``, size 1."""
    plan = recipe.split(split)
    names = frozenset(plan.ports)
    state: State = {}
    for depth, stride in enumerate(plan.strides):
        state |= _run(recipe, plan, depth, np.array([index // stride]), names)
    return label(recipe, plan, {name: state[name] for name in plan.ports})


def label(recipe: Recipe, plan: Split, arrays: Mapping[str, Array]) -> xr.Dataset:
    """Arrays of one split as a data set: dims, units, stored dtypes, names of tissues."""
    data, coords = {}, {}
    for name, values in arrays.items():
        port = plan.ports[name]
        attrs: dict[str, Any] = {"units": port.unit}
        if port.dims == (name,):
            coords[name] = xr.Variable(port.dims, values, attrs)
            continue
        if name in CATEGORIES:
            attrs |= _flags(name)
        dtype = plan.keep.get(name, port.dtype)
        data[name] = xr.Variable(("sample", *port.dims), values.astype(dtype, copy=False), attrs)
    for dim in {d: None for v in data.values() for d in v.dims if d in CATEGORIES}:
        if dim not in data:
            codes = np.arange(len(CATEGORIES[dim]), dtype="int64")
            coords[dim] = xr.Variable((dim,), codes, {"units": "1"} | _flags(dim))
    return xr.Dataset(data, coords, {"recipe": recipe.name, "identity": recipe.identity, "split": plan.name})


def _flags(name: str) -> dict[str, Any]:
    """CF attributes that say which tissue a code means."""
    return {"flag_values": list(range(len(CATEGORIES[name]))), "flag_meanings": " ".join(CATEGORIES[name])}


def _run(recipe: Recipe, plan: Split, depth: int, index: Array, keep: frozenset[str]) -> State:
    """Everything of one level, and whatever of the outer ones is in ``keep``, for ascending indices of that level."""
    total = -(-plan.samples // plan.strides[depth])
    if not 0 <= index[0] <= index[-1] < total:
        raise _missing(recipe, plan.name, f"{index[0]} to {index[-1] + 1}", total)
    outer = _outer(recipe, plan, depth, index) if depth else None
    draws = Draws.at(recipe.seed, plan.name, index)
    state: State = {}
    for one in plan.draw:
        if one.level == depth:
            state[one.name] = draw_values(recipe, plan, one, draws, state, outer)
    mine = [link for link in plan.chain if link.level == depth]
    last = {name: link for link in mine for name in link.wires.values()}
    inner = depth < len(plan.levels) - 1  # later levels may read anything made here
    for link in mine:
        _merge(state, run_link(link, draws, state, outer), plan)
        for name in {n for n in link.wires.values() if last[n] is link and n in state}:
            if name not in keep and not inner:
                del state[name]
    if outer is not None:
        state |= {name: outer.take(name) for name in outer.names() if name in keep and name not in state}
    return state


def _missing(recipe: Recipe, split: str, asked: str, total: int) -> ValueError:
    return ValueError(f"recipe {recipe.name}, split {split}: there are no samples {asked}; it has 0 to {total}")


def _merge(state: State, made: State, plan: Split) -> None:
    for name, values in made.items():
        if name in state and not np.array_equal(state[name], values):
            raise ValueError(f"two steps of split {plan.name} give different values for the coordinate {name!r}")
        state[name] = values


def draw_values(
    recipe: Recipe, plan: Split, one: Drawn, draws: Draws, state: Mapping[str, Array], outer: Outer | None = None
) -> Array:
    """The values of one drawn variable, shape (sample, *dims)."""
    parameters: dict[str, Any] = {
        key: _look_up(value.name, state, outer) if isinstance(value, Ref) else value
        for key, value in one.parameters.items()
    }
    if one.refs and (complaint := one.distribution.complaint(parameters)):
        raise ValueError(
            f"recipe {recipe.name}, split {plan.name}, {draws.named()}: "
            f"draw.{one.name}: {complaint}"
        )
    count = one.distribution.uniforms(one.parameters)
    own = draws.under("draw")
    if one.design is None or not count:
        u = own.uniform(one.name, (count,))
    else:
        u = np.stack([_designed(recipe, plan, one, k, own) for k in range(count)], axis=1)
    return one.distribution.function(u, **parameters)  # type: ignore[no-any-return]


def _look_up(name: str, state: Mapping[str, Array], outer: Outer | None) -> Array:
    return state[name] if name in state or outer is None else outer.take(name)


def _designed(recipe: Recipe, plan: Split, one: Drawn, k: int, draws: Draws) -> Array:
    """The k-th uniform of a draw that belongs to a space-filling design."""
    total, index = -(-plan.samples // plan.strides[one.level]), draws.index.astype(np.int64)
    edges = [0, *(np.flatnonzero(np.diff(index) != 1) + 1).tolist(), len(index)]
    runs = [(int(index[first]), int(index[last - 1]) + 1) for first, last in itertools.pairwise(edges)]
    if one.design == "sobol":
        return np.concatenate([sobol(draws.key("sobol"), one.dimension + k, *run) for run in runs])
    return np.concatenate([latin_hypercube(draws.key(f"{one.name}[{k}]"), total, *run) for run in runs])


def run_link(link: Link, draws: Draws, state: Mapping[str, Array], outer: Outer | None = None) -> State:
    """Run one link for the samples of ``draws``; its outputs under their final names."""
    large = outer is not None and any(outer.bytes(n) > LARGE for n in link.wires.values() if n not in state)
    if not large or outer is None:
        inputs = [_look_up(n, state, outer) for n in link.wires.values()]
        return _call(link, draws, inputs)
    pieces = []
    for first, last, index in outer.runs():
        inputs = [
            state[n][first:last] if n in state else outer.broadcast(n, index, last - first) for n in link.wires.values()
        ]
        pieces.append(_call(link, draws.part(first, last), inputs))
    if len(pieces) == 1:
        return pieces[0]
    return {
        name: pieces[0][name] if link.ports[name].dims == (name,) else np.concatenate([p[name] for p in pieces])
        for name in pieces[0]
    }


def _call(link: Link, draws: Draws, inputs: list[Array]) -> State:
    seen = []
    for values in inputs:  # a step may not write into what another step will read
        view = values.view()
        view.flags.writeable = False
        seen.append(view)
    extra = {"draws": draws.under(link.label)} if link.step.random else {}
    try:
        result = link.step(*seen, **extra, **link.constants)._asdict()
    except Exception as error:
        given = ", ".join(map(_shown, link.wires.values(), inputs))
        error.add_note(f"step {link.step.name} with {given or 'no inputs'}")
        raise
    made = {}
    for key, name in link.outputs.items():
        values, port = result[key], link.ports[name]
        axes = len(port.dims) if port.dims == (name,) else 1 + len(port.dims)
        if values.dtype != port.dtype or values.ndim != axes:
            raise TypeError(
                f"step {link.step.name} promised {key!r} as {port.dtype} with {axes} axes, "
                f"but returned {values.dtype} with shape {values.shape}"
            )
        made[name] = values
    return made


def _shown(name: str, values: Array) -> str:
    """A variable in a sentence: its number, or where its numbers lie."""
    if values.size == 1:
        return f"{name} = {values.item():.6g}"
    ends = f" from {np.abs(values).min():.6g} to {np.abs(values).max():.6g}" if values.size else ""
    return f"{name} {values.shape}{ends}"


class Outer:
    """What outer levels made, seen from the samples start..stop of an inner level."""

    def __init__(self, plan: Split, states: list[State], which: Array, above: Outer | None):
        self.plan, self.states, self.which, self.above = plan, states, which, above

    def names(self) -> list[str]:
        return [*self.states[0], *(self.above.names() if self.above else ())]

    def bytes(self, name: str) -> int:
        return self._holder(name).states[0][name].nbytes

    def _holder(self, name: str) -> Outer:
        return self if name in self.states[0] or self.above is None else self.above

    def take(self, name: str) -> Array:
        """A copy for each inner sample."""
        held = self._holder(name)
        if held.plan.ports[name].dims == (name,):
            return held.states[0][name]  # a coordinate has no sample axis
        return np.concatenate([s[name] for s in held.states])[held.which]

    def seen_from(self, which: Array) -> Outer:
        """The same values seen from samples one level further in."""
        above = None if self.above is None else self.above.seen_from(which)
        return Outer(self.plan, self.states, self.which[which], above)

    def runs(self) -> Iterator[tuple[int, int, int]]:
        """(first, last, position) of inner samples that share one index of the level just outside."""
        edges = np.flatnonzero(np.diff(self.which)) + 1
        bounds = [0, *edges.tolist(), len(self.which)]
        for first, last in itertools.pairwise(bounds):
            yield first, last, first

    def broadcast(self, name: str, position: int, count: int) -> Array:
        """One outer value for ``count`` samples, without copies."""
        held = self._holder(name)
        one = held.states[held.which[position]][name]
        return np.broadcast_to(one, (count, *one.shape[1:]))


class _Remembered:
    """Outer levels that were computed lately: one entry for each index, bounded in bytes, safe under threads."""

    def __init__(self, limit: int):
        self.limit, self.held = limit, 0
        self.states: OrderedDict[tuple[Any, ...], State] = OrderedDict()
        self.lock = Lock()
        self.making: dict[tuple[Any, ...], Lock] = {}

    def state(self, recipe: Recipe, plan: Split, depth: int, index: int) -> State:
        """Threads that want the same state wait for the first of them: a head takes seconds."""
        key = (recipe.identity, plan.name, depth, index)
        with self.lock:
            if key in self.states:
                self.states.move_to_end(key)
                return self.states[key]
            turn = self.making.setdefault(key, Lock())
        with turn:
            with self.lock:
                if key in self.states:
                    return self.states[key]
            made = _run(recipe, plan, depth, np.array([index]), frozenset())
            with self.lock:
                self.making.pop(key, None)
                self.states[key] = made
                self.held += _nbytes(made)
                while self.held > self.limit and len(self.states) > 1:
                    self.held -= _nbytes(self.states.popitem(last=False)[1])
        return made


def _nbytes(state: State) -> int:
    return sum(values.nbytes for values in state.values())


_remembered = _Remembered(KEPT_BYTES)


def _outer(recipe: Recipe, plan: Split, depth: int, index: Array) -> Outer:
    outer, which = np.unique(index // (plan.strides[depth - 1] // plan.strides[depth]), return_inverse=True)
    states = [_remembered.state(recipe, plan, depth - 1, one) for one in outer.tolist()]
    above = _outer(recipe, plan, depth - 1, outer).seen_from(which) if depth > 1 else None
    return Outer(plan, states, which, above)
