"""Where batches are put."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from factory.units import Array


class Allocate(Protocol):
    """Memory for one variable of a batch."""

    def __call__(self, name: str, shape: tuple[int, ...], dtype: str) -> Array:
        """An array of that shape, of any content."""


def fresh(name: str, shape: tuple[int, ...], dtype: str) -> Array:
    """Memory that nobody else has."""
    return np.empty(shape, dtype)
