"""What a stream reads: the samples of a finished store, of an unfinished one as far as it is, or of a recipe."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np

from factory.floor import drawn
from factory.order import Indices
from factory.recipe import Recipe
from factory.store import DamagedStore, StoreError, check, commits, read_layout, read_root, scalar_values
from factory.store.layout import Layout, samples_per_shard
from factory.stream.choice import Where, choose
from factory.stream.live import Live
from factory.stream.memory import Allocate, fresh
from factory.stream.remote import Remote
from factory.stream.stored import Stored, Verify
from factory.units import Array

Weight = float | Callable[[int], float]
CLOCK = 10_000_000  # ns by which a file system's clock may be behind
BLOCK = 1 << 20  # samples whose draws are looked at together


class Source(Protocol):
    """Where an iteration gets its samples from; used by one thread at a time."""

    def read(self, indices: Indices, allocate: Allocate = fresh) -> dict[str, Array]:
        """The samples in the order asked for, (n, ...) each, in memory of ``allocate``, and the coordinates."""

    def refresh(self) -> bool:
        """Whether another pass may use it, after letting go of all files that were exchanged."""

    def close(self) -> None:
        """Let go of all files."""


@dataclass(frozen=True)
class Member:
    """One of several sources that a stream mixes.

    Parameters
    ----------
    source, split, where, limit, partial : as for a stream of one source
    weight : of its samples among all, relative to the other members' weights; a function of the step (number of the
        global batch) for a curriculum.  By default its number of samples
    """

    source: str | os.PathLike[str] | Recipe
    split: str | None = None
    weight: Weight | None = None
    where: Where | None = None
    limit: int | None = None
    partial: bool = False


@dataclass(frozen=True)
class Variable:
    """What readers see of one variable."""

    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    unit: str


class Opened:
    """A member that was looked at: how many samples, what they look like, and how to read them.

    Raises StoreError where a store may not be read, ValueError for a split or a choice that there is not.
    """

    layout: Layout | None = None
    recipe: Recipe | None = None

    def __init__(self, member: Member) -> None:
        self.member, self.weight = member, member.weight
        self.looked = time.time_ns() - CLOCK  # files that are younger are looked at again
        self.missing = 0  # samples of an unfinished store that are still to be made
        if isinstance(member.source, Recipe):
            self._live(member.source, member)
        else:
            self._stored(os.fspath(member.source), member)
        self.samples = self.choice.samples
        self.dataset_id += f" {self.choice.mark}" * bool(self.choice.mark)

    def _live(self, recipe: Recipe, member: Member) -> None:
        if member.partial:
            raise ValueError("partial is for unfinished stores; a recipe makes every sample that is asked for")
        plan = recipe.split(member.split)
        self.recipe, self.split, self.identity = recipe, plan.name, recipe.identity
        self.dataset_id = f"{recipe.identity}/{plan.name}/{plan.samples} live"
        self.variables = {v.name: Variable(v.dims, v.shape, v.dtype, v.unit) for v in plan.variables.values()}
        self.coordinates = frozenset(v.name for v in plan.variables.values() if v.coordinate)
        self.group = samples_per_shard(plan, recipe.shard)
        units = {d.name: d.port.unit for d in plan.draw if not d.port.dims}
        self.choice = choose(plan.samples, partial(_drawn, recipe, plan.name), units, where=member.where,
                             limit=member.limit)

    def _stored(self, store: str, member: Member) -> None:
        layout, made = (_partial(store, member.split) if member.partial else (read_layout(store, member.split), None))
        self.layout, self.split, self.identity = layout, layout.split, layout.identity
        self.group, self.scalars = layout.per_shard, dict[str, Array]()
        scalar: Callable[[str], Array] = partial(scalar_values, layout)
        if made is None:
            check(layout)
            self.dataset_id = f"{layout.id}/{layout.split}"
        else:
            self.scalars, self.missing = made.scalars, int((~made.there).sum())
            self.dataset_id, scalar = f"{layout.identity}/{layout.split} unfinished", self.scalars.__getitem__
        self.variables = {name: _seen(layout, name) for name in layout.order}
        self.coordinates = frozenset(layout.coordinates)
        self.choice = choose(layout.samples, scalar, {s.name: s.unit for s in layout.scalars.values()},
                             where=member.where, limit=member.limit, made=None if made is None else made.there)

    @property
    def seed(self) -> int:
        """The recipe's seed; only mixtures ask for it."""
        if self.recipe is not None:
            return self.recipe.seed
        assert self.layout is not None
        found = re.search(r"^seed: (\d+)$", read_root(self.layout.store).recipe, re.MULTILINE)
        if found is None:
            raise DamagedStore(f"{self.layout.store} does not say its recipe's seed; `factory verify "
                               f"{self.layout.store}` says what is wrong with it")
        return int(found[1])

    @property
    def far(self) -> bool:
        """Whether the samples lie in an object store."""
        return self.layout is not None and "://" in self.layout.store

    def has_changed(self) -> bool:
        """Whether the finished store that was opened is another one by now."""
        if self.layout is None or self.member.partial:
            return False
        return read_layout(self.layout.store, self.split).id != self.layout.id

    def reader(self, verify: Verify, seen: dict[str, Array], cache_bytes: int) -> Source:
        """Whoever reads the samples in one pass."""
        if self.recipe is not None:
            return Live(self.recipe, self.split)
        assert self.layout is not None
        if self.far:
            return Remote(self.layout, verify, seen, cache_bytes)
        return Stored(self.layout, verify, seen, self.scalars, since=self.looked)


@dataclass(frozen=True)
class _Made:
    """What there is of an unfinished store: bool (samples,), and its scalars, zero where there is nothing."""

    there: Array
    scalars: dict[str, Array]


def _partial(store: str, split: str | None) -> tuple[Layout, _Made]:
    if "://" in store:
        raise ValueError(f"{store} is read once it is finished; partial is for folders")
    layout = read_layout(store, split, finished=False)
    made = _Made(np.zeros(layout.samples, bool),
                 {s.name: np.zeros(layout.samples, s.dtype) for s in layout.scalars.values()})
    for commit in commits(layout):
        span = slice(commit.start, commit.stop)
        made.there[span] = True
        for name, values in made.scalars.items():
            values[span] = commit.values(name, layout.scalars[name].dtype)
    if not made.there.any():
        raise StoreError(f"{store} holds no finished shard of split {layout.split} yet; wait until `factory make` "
                         "has made one")
    return layout, made


def _seen(layout: Layout, name: str) -> Variable:
    item: Any = layout.item(name)
    return Variable(getattr(item, "dims", ()), getattr(item, "shape", ()), item.dtype, item.unit)


def _drawn(recipe: Recipe, split: str, name: str) -> Array:
    """A drawn scalar of all samples, in its stored dtype."""
    plan = recipe.splits[split]
    dtype = plan.variables[name].dtype
    return np.concatenate([drawn(recipe, split, start, min(start + BLOCK, plan.samples))[name].astype(dtype)
                           for start in range(0, plan.samples, BLOCK)])


def require_alike(members: list[Opened], paired: bool) -> None:
    """Refuse to mix what does not fit together, or what would repeat the same random numbers.

    Raises ValueError.
    """
    first = members[0]
    for number, other in enumerate(members[1:], 1):
        for name in {**first.variables, **other.variables}:
            one, two = first.variables.get(name), other.variables.get(name)
            if one != two:
                raise ValueError(f"members 0 and {number} do not fit together: {name!r} is {_told(one)} in the one and "
                                 f"{_told(two)} in the other; keep the same variables in both recipes")
    if paired or len(members) == 1:
        return
    places: dict[tuple[int, str], int] = {}
    for number, member in enumerate(members):
        seed = member.seed
        before = places.setdefault((seed, member.split), number)
        if before != number:
            raise ValueError(f"members {before} and {number} have the same seed ({seed}) and split "
                             f"({member.split}), so that their random numbers are the same; give one recipe another "
                             "seed, or say paired=True where that is wanted")


def _told(variable: Variable | None) -> str:
    if variable is None:
        return "missing"
    shape = ", ".join(f"{dim} {size}" for dim, size in zip(variable.dims, variable.shape, strict=True))
    return f"{variable.dtype} ({shape}) [{variable.unit}]"
