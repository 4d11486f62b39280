"""Batches for PyTorch, from a finished store or live from a recipe: the same samples in the same order, bit for bit.

The order is arithmetic (`factory.order`), so a shuffle costs no memory and any number of ranks and loader workers reads
the same one.

While a batch is used, one thread reads the next; it lives as long as an iteration, and so do all open files.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any, Protocol

import torch
from torch.utils.data import IterableDataset, get_worker_info

from factory.order import Indices, Order, Tail, share, turns
from factory.recipe import Recipe
from factory.store import StoreError, check, read_layout
from factory.store.layout import Layout
from factory.stream.buffers import Allocate, Batch, Ring, fresh, on_device
from factory.stream.live import Live
from factory.stream.stored import Stored, Verify
from factory.units import Array

State = dict[str, Any]
__all__ = ["Batch", "Source", "State", "Stream", "on_device"]
AHEAD = 2  # batches that are read before they are asked for


class Source(Protocol):
    """Where an iteration gets its samples from; used by one thread at a time."""

    def read(self, indices: Indices, allocate: Allocate = fresh) -> dict[str, Array]:
        """The samples in the order asked for, (n, ...) each, in memory of ``allocate``, and the coordinates."""

    def close(self) -> None:
        """Let go of all files."""


class Stream(IterableDataset[Batch]):
    """An iterable over batches; one pass is one epoch.

    Parameters
    ----------
    source : path of a finished store, or a `Recipe`
        A recipe makes its samples live, in the thread that reads ahead.
    split : which split; needed where there is more than one
    batch : samples of a *global* batch; rank r of w gets the r-th of w slices of it
    seed : of the order of the samples
    shuffle : every epoch in a random order of all samples (True), or in their own order
    tail : ``"drop"`` the samples that do not fill the last batch, or ``"pad"`` it with copies and add a ``mask``
    epochs : epochs of one pass
    verify : look at the checksum of what is read of a store ``"once"`` in a process, ``"always"`` or ``"never"``
    pinned : put batches into page-locked buffers that are used again, for copies to a GPU (`on_device`): a batch is
        valid until the next but one is asked for.  By default all memory is fresh
    rank, world : given, else asked from torch.distributed where it is initialised, else 0 of 1

    Yields
    ------
    dict of fresh, contiguous tensors in the stored dtypes: variables (batch, ...), scalars (batch,), coordinates (n,)
    under their own names, and with ``tail="pad"`` a bool ``mask`` (batch,), False for copies.

    Raises
    ------
    factory.store.StoreError
        The store is absent, unfinished, damaged or no longer the one that was opened; the sentence names it and, for a
        file, the split, the array and the shard.

    Notes
    -----
    Under ``DataLoader(stream, batch_size=None, num_workers=k)`` worker j makes batches j, j + k, ... so the order
    stays.  The stream in the main process does not see what workers hand over: call `set_epoch` before each pass, and
    give `state_dict` the number of batches taken.
    """

    def __init__(
        self,
        source: str | os.PathLike[str] | Recipe,
        split: str | None = None,
        *,
        batch: int,
        seed: int = 0,
        shuffle: bool = True,
        tail: Tail = "drop",
        epochs: int = 1,
        verify: Verify = "once",
        pinned: bool = False,
        rank: int | None = None,
        world: int | None = None,
    ) -> None:
        super().__init__()
        self.layout: Layout | None = None
        self.recipe: Recipe | None = None
        if isinstance(source, Recipe):
            plan = source.split(split)
            self.recipe, self.split, samples = source, plan.name, plan.samples
            self.dataset_id = f"{source.identity}/{plan.name}/{samples} live"
            names = [v.name for v in plan.variables.values() if v.coordinate]
        else:
            self.layout = _layout_of(os.fspath(source), split)
            check(self.layout)
            self.split, samples = self.layout.split, self.layout.samples
            self.dataset_id = f"{self.layout.id}/{self.split}"
            names = list(self.layout.coordinates)
        self.coordinates = frozenset(names)  # of a batch's tensors those without a batch axis
        _require(epochs, rank, world)
        self.order = Order(samples, batch, seed, shuffle, tail)
        self.epochs, self.epoch, self.verify, self.pinned = epochs, 0, verify, pinned
        self._ring: Ring | None = None
        self._seen: dict[str, Array] = {}  # chunks that were found right
        self._given = None if rank is None or world is None else (rank, world)
        self._start = 0  # samples of the epoch that a pass leaves out: set by load_state_dict
        self._reached = (0, 0)  # (epoch, samples of it) that were handed over
        share(batch, *self.place)

    @property
    def place(self) -> tuple[int, int]:
        """This process's rank and the number of ranks."""
        if self._given is not None:
            return self._given
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            return torch.distributed.get_rank(), torch.distributed.get_world_size()
        return 0, 1

    def __getstate__(self) -> State:
        # A spawned worker knows of no process group, and has memory of its own
        return self.__dict__ | {"_given": self.place, "_seen": {}, "_ring": None}

    def __len__(self) -> int:
        """Batches of a whole pass."""
        return self.epochs * len(self.order)

    def set_epoch(self, epoch: int) -> None:
        """The epoch of the next pass; a state that was loaded for the same epoch stays."""
        if epoch != self.epoch:
            self.epoch, self._start, self._reached = epoch, 0, (epoch, 0)

    def state_dict(self, batches: int | None = None) -> State:
        """Where the order stands after the last batch that was handed over.

        Parameters
        ----------
        batches : batches taken from this pass; needed with loader workers, whose progress is not seen from here
        """
        if get_worker_info() is not None:
            raise RuntimeError("a loader worker knows only its own batches; in the main process "
                               "state_dict(batches=...) says where the order stands")
        epoch, consumed = self._reached if batches is None else self._after(batches)
        if self.order.batches_from(consumed) == 0:
            epoch, consumed = epoch + 1, 0
        return {"dataset": self.dataset_id, "seed": self.order.seed, "shuffle": self.order.shuffle, "epoch": epoch,
                "consumed": consumed}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on after the samples of a state, with any batch size and any number of ranks and workers.

        Raises ValueError when the state belongs to other data or to another order.
        """
        own = self.state_dict()
        for key in ("dataset", "seed", "shuffle"):
            if state[key] != own[key]:
                raise ValueError(f"the state is of another order: its {key} is {state[key]}, "
                                 f"this stream's is {own[key]}")
        self.order.batches_from(state["consumed"])  # refuses what no epoch has
        self.epoch, self._start = int(state["epoch"]), int(state["consumed"])
        self._reached = (self.epoch, self._start)

    def _where(self, count: int) -> tuple[int, int, int]:
        """(epoch, batch number, samples left out before batch 0) of the batch after ``count`` batches of a pass."""
        first = self.order.batches_from(self._start)
        if count < first:
            return self.epoch, count, self._start
        later, number = divmod(count - first, len(self.order))
        return self.epoch + 1 + later, number, 0

    def _after(self, count: int) -> tuple[int, int]:
        """(epoch, samples consumed) once ``count`` batches of a pass are handed over."""
        if count == 0:
            return self.epoch, self._start
        epoch, number, start = self._where(count - 1)
        return epoch, min(start + (number + 1) * self.order.batch, self.order.samples)

    def __iter__(self) -> Iterator[Batch]:
        info = get_worker_info()
        total = self.order.batches_from(self._start) + (self.epochs - 1) * len(self.order)
        counts = iter(turns(total) if info is None else turns(total, info.id, info.num_workers))
        process, ahead = os.getpid(), deque[tuple[int, Future[Batch]]]()
        self._reached = (self.epoch, self._start)
        source = self._source()
        self._ring = Ring(AHEAD + 2) if self.pinned else None
        reader = ThreadPoolExecutor(1, thread_name_prefix="factory-stream")  # its thread starts with the first job
        try:
            ahead.extend(self._ask(reader, source, counts, AHEAD))
            while ahead:
                if os.getpid() != process:
                    raise RuntimeError("this process was forked while the stream was read, and the thread that reads "
                                       "stayed behind: begin a new pass")
                count, batch = ahead.popleft()
                ahead.extend(self._ask(reader, source, counts, 1))
                made = batch.result()
                self._reached = self._after(count + 1)
                yield made
        finally:
            reader.shutdown(wait=True, cancel_futures=True)
            source.close()
        self.set_epoch(self.epoch + self.epochs)

    def _ask(self, reader: ThreadPoolExecutor, source: Source, counts: Iterator[int], most: int,
             ) -> list[tuple[int, Future[Batch]]]:
        rank, world = self.place
        return [(count, reader.submit(self._batch, source, count, rank, world)) for count in islice(counts, most)]

    def _batch(self, source: Source, count: int, rank: int, world: int) -> Batch:
        epoch, number, start = self._where(count)
        indices, mask = self.order.batch_at(epoch, number, consumed=start, rank=rank, world=world)
        allocate = fresh if self._ring is None else self._ring.turn(count)
        batch = {name: torch.from_numpy(values) for name, values in source.read(indices, allocate).items()}
        if self.order.tail == "pad":
            batch["mask"] = torch.from_numpy(mask)
        return batch

    def _source(self) -> Source:
        if self.recipe is not None:
            return Live(self.recipe, self.split)
        assert self.layout is not None
        if read_layout(self.layout.store, self.split).id != self.layout.id:
            raise StoreError(f"{self.layout.store} is no longer the store that this stream was made for (its "
                             "id changed); make a new Stream")
        return Stored(self.layout, self.verify, self._seen)


def _require(epochs: int, rank: int | None, world: int | None) -> None:
    if epochs < 1:
        raise ValueError(f"a pass has at least one epoch, not {epochs}")
    if (rank is None) != (world is None):
        raise ValueError("give both rank and world, or neither")


def _layout_of(store: str, split: str | None) -> Layout:
    if "://" in store:
        raise StoreError(f"{store} cannot be streamed: a Stream reads folders; copy the store to one, or open it with "
                         "factory.store.open_store")
    return read_layout(store, split)
