"""What a checked recipe is: frozen records, nothing left to find out.

A recipe holds one `Split` for each split, because a split may override draws, constants and files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from typing import Any

import numpy as np

from factory.distributions import Distribution
from factory.step import Port, Step


@dataclass(frozen=True)
class Ref:
    """A distribution's parameter that is an earlier draw."""

    name: str


@dataclass(frozen=True)
class Drawn:
    """One variable that is drawn: a distribution with its parameters in the variable's unit."""

    name: str
    port: Port
    shape: tuple[int, ...]
    distribution: Distribution
    parameters: Mapping[str, Any]
    level: int
    design: str | None = None  # "sobol" or "latin_hypercube"
    dimension: int = 0  # first dimension of the design that this draw uses

    @property
    def refs(self) -> tuple[str, ...]:
        return tuple(p.name for p in self.parameters.values() if isinstance(p, Ref))


@dataclass(frozen=True)
class Link:
    """One step of the chain with everything decided."""

    step: Step
    label: str  # private name space of its random numbers
    wires: Mapping[str, str]  # input -> variable
    constants: Mapping[str, Any]
    outputs: Mapping[str, str]  # output -> variable
    ports: Mapping[str, Port]  # variable -> port with units and dims resolved
    level: int


@dataclass(frozen=True)
class Variable:
    """What a store holds: dims and shape without the leading ``sample`` axis."""

    name: str
    unit: str
    dtype: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    coordinate: bool = False
    level: int = 0

    @property
    def nbytes(self) -> int:
        """Bytes of one sample (of the whole array for a coordinate)."""
        return int(prod(self.shape)) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Split:
    """One sample axis: its size, its levels, its draws and its chain."""

    name: str
    samples: int
    levels: tuple[tuple[str, int], ...]  # outer to inner; the first count is only nominal
    draw: tuple[Drawn, ...]
    chain: tuple[Link, ...]
    variables: Mapping[str, Variable]
    keep: Mapping[str, str] = field(default_factory=dict)  # variable -> stored dtype
    sizes: Mapping[str, int] = field(default_factory=dict)  # of every dimension, kept or not

    @property
    def sample_bytes(self) -> int:
        return sum(v.nbytes for v in self.variables.values() if not v.coordinate)

    @cached_property
    def strides(self) -> tuple[int, ...]:
        """Samples that share one index of each level, outer to inner; the last is 1."""
        counts = [count for _, count in self.levels]
        return tuple(prod(counts[depth + 1 :]) for depth in range(len(counts)))

    @cached_property
    def ports(self) -> dict[str, Port]:
        """Every variable of the split, drawn or made."""
        drawn = {d.name: d.port for d in self.draw}
        return drawn | {name: port for link in self.chain for name, port in link.ports.items()}

    @cached_property
    def level_of(self) -> dict[str, int]:
        drawn = {d.name: d.level for d in self.draw}
        return drawn | {name: link.level for link in self.chain for name in link.outputs.values()}


@dataclass(frozen=True)
class Recipe:
    """A checked recipe.  Cheap to pickle: it travels as its flattened text and is checked once in each process."""

    name: str
    about: str
    seed: int
    text: str  # flattened canonical YAML; feeding it back gives the same recipe
    identity: str  # sha256 of what decides a sample's bytes
    splits: Mapping[str, Split]
    shard: int | None
    sources: tuple[tuple[str, Any], ...] = ()  # files: name -> path(s) on this machine
    digests: Mapping[str, str] = field(default_factory=dict)  # files: name -> sha256

    def __reduce__(self) -> tuple[Any, ...]:
        from factory.recipe import rebuild

        return rebuild, (self.text, self.name, self.sources)

    def __hash__(self) -> int:
        return hash((self.identity, self.text))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Recipe) and (self.text, self.digests) == (other.text, other.digests)

    def split(self, name: str | None = None) -> Split:
        """The split of that name; without a name the only one.  ValueError lists the splits."""
        if name is None and len(self.splits) == 1:
            return next(iter(self.splits.values()))
        if name is None or name not in self.splits:
            given = "no split was given" if name is None else f"there is no split {name!r}"
            raise ValueError(f"recipe {self.name}: {given}; it has {', '.join(self.splits)}")
        return self.splits[name]
