"""Batches for PyTorch, from a finished store or live from a recipe: the same samples in the same order, bit for bit.

The order is arithmetic (`factory.order`), so a shuffle costs no memory and any number of ranks and loader workers reads
the same one.  A sample in a shard file is a run of bytes whose address is arithmetic as well (`factory.store.layout`):
large samples are read into the batch with ``pread``, small ones on a local disk are copied out of a memory map by one
loop per batch.  Checksums lie between the samples, so their bytes are not aligned: they are copied, never viewed.

While a batch is used, one thread reads the next; it lives as long as an iteration, and so do all open files.
"""

from __future__ import annotations

import mmap
import os
import resource
from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import islice, pairwise
from math import prod
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic
from torch.utils.data import IterableDataset, get_worker_info

from factory.floor import make
from factory.order import Indices, Order, Tail, share, turns
from factory.recipe import Recipe
from factory.store import DamagedStore, StoreError, check, coordinate_values, read_layout
from factory.store.files import descriptor_of
from factory.store.layout import CRC_BYTES, Layout
from factory.units import Array

Batch = dict[str, torch.Tensor]
State = dict[str, Any]
AHEAD = 2  # batches that are read before they are asked for
SMALL_BYTES = 32_768  # below this a system call for each sample costs more than the copy
OPEN_FILES = 4096  # of one pass; fewer where the system allows a process fewer
LOCAL = frozenset({"ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "bcachefs", "tmpfs", "overlay"})


class Source(Protocol):
    """Where an iteration gets its samples from; used by one thread at a time."""

    def read(self, indices: Indices) -> dict[str, Array]:
        """The samples in the order asked for, (n, ...) each, and the coordinates; all freshly allocated."""

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
        if epochs < 1:
            raise ValueError(f"a pass has at least one epoch, not {epochs}")
        if (rank is None) != (world is None):
            raise ValueError("give both rank and world, or neither")
        self.order = Order(samples, batch, seed, shuffle, tail)
        self.epochs, self.epoch = epochs, 0
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
        return self.__dict__ | {"_given": self.place}  # a spawned worker knows of no process group

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
        return [(count, reader.submit(self._batch, source, self._where(count), rank, world))
                for count in islice(counts, most)]

    def _batch(self, source: Source, where: tuple[int, int, int], rank: int, world: int) -> Batch:
        epoch, number, start = where
        indices, mask = self.order.batch_at(epoch, number, consumed=start, rank=rank, world=world)
        batch = {name: torch.from_numpy(values) for name, values in source.read(indices).items()}
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
        return Stored(self.layout)


def _layout_of(store: str, split: str | None) -> Layout:
    if "://" in store:
        raise StoreError(f"{store} cannot be streamed: a Stream reads folders; copy the store to one, or open it with "
                         "factory.store.open_store")
    return read_layout(store, split)


class Live:
    """Samples made from a recipe when they are asked for."""

    def __init__(self, recipe: Recipe, split: str) -> None:
        self.recipe, self.split = recipe, split
        self.variables = tuple(recipe.splits[split].variables.values())

    def read(self, indices: Indices) -> dict[str, Array]:
        distinct, place = np.unique(indices, return_inverse=True)
        arrays = {v.name: np.empty((len(distinct), *v.shape), v.dtype) for v in self.variables if not v.coordinate}
        edges = [0, *(np.flatnonzero(np.diff(distinct) != 1) + 1).tolist(), len(distinct)]
        for first, last in pairwise(edges):
            made = make(self.recipe, self.split, int(distinct[first]), int(distinct[last - 1]) + 1)
            for name, array in arrays.items():
                array[first:last] = made.variables[name].values
        if not np.array_equal(indices, distinct):
            arrays = {name: array[place] for name, array in arrays.items()}
        coordinates = {v.name: np.array(made.variables[v.name].values) for v in self.variables if v.coordinate}
        return {v.name: (arrays | coordinates)[v.name] for v in self.variables}

    def close(self) -> None:
        """Nothing is open."""


@dataclass(frozen=True)
class Field:
    """Where the samples of one stored array lie, in files of ``per_file`` samples."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    per_file: int
    chunk_samples: int
    stride: int  # bytes from one inner chunk to the next
    pieces: int = 1  # inner chunks that one sample is cut into
    scalar: bool = False

    @cached_property
    def sample_bytes(self) -> int:
        return prod(self.shape) * np.dtype(self.dtype).itemsize

    def offsets(self, rows: Indices) -> Indices:
        """Where samples begin in their file."""
        return rows // self.chunk_samples * self.pieces * self.stride + rows % self.chunk_samples * self.sample_bytes


def fields_of(layout: Layout) -> list[Field]:
    """All arrays with a sample axis; a scalar is stored in a few long plain chunks, each a file of its own."""
    bulk = [Field(b.name, b.dtype, b.shape, b.per_shard, b.chunk_samples, b.stride, b.pieces)
            for b in layout.bulk.values()]
    length = layout.scalar_chunk
    scalars = [Field(s.name, s.dtype, (), length, length, length * np.dtype(s.dtype).itemsize + CRC_BYTES, scalar=True)
               for s in layout.scalars.values()]
    return bulk + scalars


class File:
    """An open file of the expected size: a descriptor, or a memory map and its address."""

    descriptor: int | None = None
    map: mmap.mmap | None = None

    def __init__(self, path: Path, size: int, mapped: bool) -> None:
        self.size, self.address = size, 0
        self.descriptor = descriptor_of(path)
        try:
            self.check()
            if mapped:
                self.map = mmap.mmap(self.descriptor, size, prot=mmap.PROT_READ)  # holds a descriptor of its own
                self.address = int(np.frombuffer(self.map, np.uint8).__array_interface__["data"][0])
        except (OSError, ValueError):
            self.close()
            raise
        if mapped:
            os.close(self.descriptor)
            self.descriptor = None

    def check(self) -> None:
        """OSError for a file that is not as long as it must be: reading a map beyond its end would kill the process."""
        if self.map is not None:
            found = self.map.size()
        else:
            assert self.descriptor is not None
            found = os.fstat(self.descriptor).st_size
        if found != self.size:
            raise OSError(f"it has {found} bytes instead of {self.size}")

    def read_into(self, buffer: memoryview, offset: int) -> None:
        assert self.descriptor is not None
        read = os.preadv(self.descriptor, [buffer], offset)
        if read != len(buffer):
            raise OSError(f"it ended after {read} of {len(buffer)} bytes at {offset}")

    def announce(self, offset: int, nbytes: int) -> None:
        """Tell the system what will be read, so that a disk works on many at once (three times as fast cold)."""
        if self.descriptor is not None and hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self.descriptor, offset, nbytes, os.POSIX_FADV_WILLNEED)

    def close(self) -> None:
        if self.descriptor is not None:
            os.close(self.descriptor)
        if self.map is not None:
            self.map.close()
        self.descriptor = self.map = None

    def __del__(self) -> None:
        self.close()


class Stored:
    """Samples read from the files of a finished store."""

    def __init__(self, layout: Layout) -> None:
        self.layout, self.fields = layout, fields_of(layout)
        self.files: OrderedDict[tuple[str, int], File] = OrderedDict()
        self.coordinates = {name: coordinate_values(layout, name) for name in layout.coordinates}
        self.local = is_local(Path(layout.store))
        self.most = max(8, min(OPEN_FILES, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4))

    def read(self, indices: Indices) -> dict[str, Array]:
        arrays = {field.name: self._field(field, indices) for field in self.fields}
        arrays |= {name: np.array(values) for name, values in self.coordinates.items()}
        return {name: arrays[name] for name in self.layout.order}

    def close(self) -> None:
        for file in self.files.values():  # an error that is being reported may hold on to some
            file.close()
        self.files.clear()

    def _field(self, field: Field, indices: Indices) -> Array:
        out = np.empty((len(indices), *field.shape), field.dtype)
        rows_of_bytes = out.reshape(-1).view(np.uint8).reshape(len(indices), field.sample_bytes)
        numbers, rows = np.divmod(indices, field.per_file)
        small = field.pieces == 1 and field.sample_bytes < SMALL_BYTES
        read = self._gather if small and self.local else self._pread
        read(field, numbers, field.offsets(rows), rows_of_bytes)
        return out

    def _gather(self, field: Field, numbers: Indices, offsets: Indices, out: Array) -> None:
        """Copy small samples out of memory maps, one loop for all of them."""
        distinct = np.unique(numbers)
        which = np.searchsorted(distinct, numbers)
        for first in range(0, len(distinct), self.most):  # more are never open at once
            files = [self._file(field, number, mapped=True) for number in distinct[first : first + self.most].tolist()]
            gather(np.array([file.address for file in files]), first, which, offsets, out)

    def _pread(self, field: Field, numbers: Indices, offsets: Indices, out: Array) -> None:
        """Read large samples where they belong, in the order in which they lie on the disk."""
        order = np.lexsort((offsets, numbers))
        places = list(zip(order.tolist(), numbers[order].tolist(), offsets[order].tolist(), strict=True))
        for first in range(0, len(places), self.most):  # more files are never open at once
            some = places[first : first + self.most]
            files = [self._file(field, number, mapped=False) for _, number, _ in some]
            for file, (_, _, offset) in zip(files, some, strict=True):
                file.announce(offset, field.pieces * field.stride)
            for file, (row, number, offset) in zip(files, some, strict=True):
                try:
                    self._read_sample(field, file, offset, out[row].data)
                except OSError as error:
                    raise self._damaged(field, number, error) from error

    def _read_sample(self, field: Field, file: File, offset: int, row: memoryview) -> None:
        part = field.sample_bytes // field.pieces
        for piece in range(field.pieces):
            file.read_into(row[piece * part : (piece + 1) * part], offset + piece * field.stride)

    def _file(self, field: Field, number: int, mapped: bool) -> File:
        key = (field.name, number)
        try:
            if key in self.files:
                self.files.move_to_end(key)
                if mapped:
                    self.files[key].check()
            else:
                self.files[key] = File(self._path(field, number), self._size(field, number), mapped)
                while len(self.files) > self.most:
                    self.files.popitem(last=False)
        except (OSError, ValueError) as error:
            raise self._damaged(field, number, error) from error
        return self.files[key]

    def _damaged(self, field: Field, number: int, error: Exception) -> DamagedStore:
        return DamagedStore(
            f"{self.layout.store}: split {self.layout.split}, array {field.name}, shard {number} cannot be read: "
            f"{error}; run the same `factory make` again"
        )

    def _path(self, field: Field, number: int) -> Path:
        return Path(self.layout.store, self.layout.split, field.name,
                    f"c.{number}" if field.scalar else self.layout.bulk[field.name].key(number))

    def _size(self, field: Field, number: int) -> int:
        return field.stride if field.scalar else self.layout.sizes(number)[field.name]


def is_local(path: Path) -> bool:
    """Whether a path lies on a file system of this machine, so that a memory map cannot fail with a signal.

    What is not known to be local (network and user-space file systems, systems without /proc) is taken as remote.
    """
    device = os.stat(path).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    try:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return False
    kinds = {line.split()[2]: line.partition(" - ")[2].split()[0] for line in lines}
    return kinds.get(wanted) in LOCAL


def _memcpy(_typing: Any, _target: Any, _source: Any, _nbytes: Any) -> Any:
    """memcpy between addresses, as numba's compiler wants it described."""

    def code(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        target, source, nbytes = arguments
        pointer = cgutils.voidptr_t
        cgutils.raw_memcpy(  # type: ignore[no-untyped-call]
            builder, builder.inttoptr(target, pointer), builder.inttoptr(source, pointer), nbytes, 1)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), code


_copy: Any = intrinsic(_memcpy)


@njit(nogil=True, cache=True)
def gather(addresses: Any, first: int, which: Any, offsets: Any, out: Any) -> None:
    """Copy rows from the files number ``first`` and on, which begin at ``addresses``.

    Row i of ``out``, uint8 (n, bytes), lies ``offsets[i]`` into file ``which[i]``; rows of other files stay untouched.
    """
    base, nbytes = out.ctypes.data, out.shape[1]
    for i in range(which.size):
        file = which[i] - first
        if 0 <= file < addresses.size:
            _copy(base + i * nbytes, addresses[file] + offsets[i], nbytes)
