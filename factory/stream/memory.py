"""Where batches are put."""

from __future__ import annotations

from collections import deque
from math import prod
from typing import Protocol

import numpy as np

from factory.units import Array

LARGE = 1 << 16  # bytes: what is smaller is quickly had from the system


class Allocate(Protocol):
    """Memory for one variable of a batch."""

    def __call__(self, name: str, shape: tuple[int, ...], dtype: str) -> Array:
        """An array of that shape, of any content."""


def fresh(name: str, shape: tuple[int, ...], dtype: str) -> Array:
    """Memory that nobody else has."""
    return np.empty(shape, dtype)


class Pool:
    """`fresh` memory out of a few blocks, each lent again once its array and everything made from it are gone.

    The system clears every page that it hands out, which costs as much as filling it.
    """

    def __init__(self, blocks: int) -> None:
        self.blocks = blocks
        self.free: dict[str, deque[Array]] = {}

    def __call__(self, name: str, shape: tuple[int, ...], dtype: str) -> Array:
        nbytes = prod(shape) * np.dtype(dtype).itemsize
        if nbytes < LARGE:
            return np.empty(shape, dtype)
        free = self.free.setdefault(name, deque(maxlen=self.blocks))
        try:
            block = free.pop()
        except IndexError:
            block = np.empty(nbytes, np.uint8)
        if len(block) < nbytes:
            block = np.empty(nbytes, np.uint8)
        return np.asarray(_Lease(block, nbytes, free)).view(dtype).reshape(shape)


class _Lease:
    """What an array of the pool is a view of; the last view that goes gives the block back."""

    def __init__(self, block: Array, nbytes: int, free: deque[Array]) -> None:
        self.block, self.free = block, free
        place = block.__array_interface__["data"][0]
        self.__array_interface__ = {"data": (place, False), "shape": (nbytes,), "typestr": "|u1", "version": 3}

    def __del__(self) -> None:
        self.free.append(self.block)
