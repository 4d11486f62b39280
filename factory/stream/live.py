"""Samples made from a recipe when they are asked for."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from factory.floor import make
from factory.order import Indices
from factory.recipe import Recipe
from factory.stream.memory import Allocate, fresh
from factory.units import Array


class Live:
    """Samples made from a recipe when they are asked for."""

    def __init__(self, recipe: Recipe, split: str) -> None:
        self.recipe, self.split = recipe, split
        self.variables = tuple(recipe.splits[split].variables.values())

    def read(self, indices: Indices, allocate: Allocate = fresh) -> dict[str, Array]:
        distinct, place = np.unique(indices, return_inverse=True)
        arrays = {v.name: allocate(v.name, (len(distinct), *v.shape), v.dtype)
                  for v in self.variables if not v.coordinate}
        edges = [0, *(np.flatnonzero(np.diff(distinct) != 1) + 1).tolist(), len(distinct)]
        for first, last in pairwise(edges):
            made = make(self.recipe, self.split, int(distinct[first]), int(distinct[last - 1]) + 1)
            for name, array in arrays.items():
                array[first:last] = made.variables[name].values
        if not np.array_equal(indices, distinct):
            arrays = {v.name: np.take(arrays[v.name], place, 0, allocate(f"{v.name} in order", (len(place), *v.shape),
                                                                         v.dtype))
                      for v in self.variables if not v.coordinate}
        coordinates = {v.name: np.array(made.variables[v.name].values) for v in self.variables if v.coordinate}
        return {v.name: (arrays | coordinates)[v.name] for v in self.variables}

    def refresh(self) -> bool:
        """A recipe does not change."""
        return True

    def close(self) -> None:
        """Nothing is open."""
