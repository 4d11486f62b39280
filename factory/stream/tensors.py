"""Batches for PyTorch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import IterableDataset, get_worker_info

from factory.stream.batches import Arrays, Batches, From, State
from factory.stream.buffers import Batch, Ring
from factory.stream.members import Member
from factory.stream.memory import Allocate

BUFFERS = 4  # two batches are read ahead, one is used and one may still be on its way to a GPU


class Stream(Batches, IterableDataset[Batch]):
    """An iterable over batches of tensors; one pass is one epoch.

    Parameters
    ----------
    source, split, batch, seed, shuffle, tail, epochs, where, limit, partial, paired, verify, cache_bytes, transforms,
    on_extend : as for `Batches`
    pinned : put batches into page-locked buffers that are used again, for copies to a GPU (`on_device`): a batch is
        valid until the next but one is asked for.  By default all memory is fresh
    rank, world : given, else asked from torch.distributed where it is initialised, else 0 of 1

    Yields
    ------
    dict of tensors, as `Batches` yields arrays.

    Notes
    -----
    Under ``DataLoader(stream, batch_size=None, num_workers=k)`` worker j makes batches j, j + k, ... so the order
    stays.  The stream in the main process does not see what workers hand over: call `set_epoch` before each pass, and
    give `state_dict` the number of batches taken.
    """

    def __init__(self, source: From | Sequence[Member], split: str | None = None, *, batch: int, pinned: bool = False,
                 **options: Any) -> None:
        self.pinned = pinned
        self._ring: Ring | None = None
        super().__init__(source, split, batch=batch, **options)

    @property
    def place(self) -> tuple[int, int]:
        """This process's rank and the number of ranks."""
        if self._given is None and torch.distributed.is_available() and torch.distributed.is_initialized():
            return torch.distributed.get_rank(), torch.distributed.get_world_size()
        return super().place

    def __getstate__(self) -> State:
        return super().__getstate__() | {"_ring": None}  # a spawned worker knows of no process group, either

    def state_dict(self, batches: int | None = None) -> State:
        """Where the order stands after the last batch that was handed over.

        Parameters
        ----------
        batches : batches taken from this pass; needed with loader workers, whose progress is not seen from here
        """
        if get_worker_info() is not None:  # it knows its own batches only: where the pass began, and its turns since
            return super().state_dict(0) | {"turns": self._turns}
        return super().state_dict(batches)

    def _end(self) -> None:
        if get_worker_info() is None:  # a worker's state stays that of its pass until the next one begins
            super()._end()

    def __iter__(self) -> Iterator[Batch]:
        self._ring = Ring(BUFFERS) if self.pinned else None
        return super().__iter__()

    def _turn(self) -> tuple[int, int]:
        info = get_worker_info()
        return (0, 1) if info is None else (info.id, info.num_workers)

    def _memory(self, count: int) -> Allocate:
        return super()._memory(count) if self._ring is None else self._ring.turn(count)

    def _handed(self, arrays: Arrays) -> Batch:
        return {name: torch.from_numpy(values) for name, values in arrays.items()}
