"""Samples made from a recipe when they are asked for."""

from __future__ import annotations

import numpy as np

from factory.floor import make_at
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
        made = make_at(self.recipe, self.split, distinct)
        arrays = {}
        for v in self.variables:
            values = made.variables[v.name].values
            arrays[v.name] = np.array(values) if v.coordinate else np.take(
                values, place, 0, allocate(v.name, (len(place), *v.shape), v.dtype))
        return arrays

    def refresh(self) -> bool:
        """A recipe does not change."""
        return True

    def close(self) -> None:
        """Nothing is open."""
