"""Samples out of an object store: whole shards come into a folder of this machine, and wait there for their samples.

A sample whose shard is not there yet is asked for alone, so that nobody waits for 50 MB.  An order in lanes makes the
shards that are needed at a time few; as many as the folder may hold stay for the next epoch.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from factory.cache import private_folder
from factory.order import LANES, Indices
from factory.store import DamagedStore, StoreError
from factory.store.files import place
from factory.store.layout import CRC_BYTES, Layout
from factory.store.objects import ObjectPath
from factory.stream.memory import Allocate, fresh
from factory.stream.stored import Field, Stored, Verify
from factory.units import Array

CACHE_BYTES = 32 * 2**30
ASKING = 16  # samples that are asked for at the same time
FETCHING = 4  # shards
DONE_READS = 2 * LANES  # batches without a sample of a shard after which its lane has gone on to the next
LONG_AGO = -(10**9)


class Slot:
    """A private folder for the shards of one data set, of this process alone as long as it is open."""

    def __init__(self, layout: Layout) -> None:
        base = private_folder("stores") / f"{layout.id}-{layout.split}"
        for number in range(4096):
            folder = base / str(number)
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(self.lock)
                continue
            self.folder = folder / "files"
            self.folder.mkdir(exist_ok=True, mode=0o700)
            return
        raise StoreError(f"{base} is used by too many processes at once")

    def close(self) -> None:
        """Leave it to whoever comes next, with what it holds."""
        os.close(self.lock)


class Remote:
    """Samples read from a finished store in an object store.

    Parameters
    ----------
    cache_bytes : how much of the store may lie on this machine; 0: every sample is asked for alone
    """

    def __init__(self, layout: Layout, verify: Verify = "once", seen: dict[str, Array] | None = None,
                 cache_bytes: int = CACHE_BYTES) -> None:
        self.layout, self.limit = layout, cache_bytes
        store = place(layout.store)
        assert isinstance(store, ObjectPath)
        self.store, self.slot = store, Slot(layout)
        self.stored = Stored(layout, verify, seen, folder=self.slot.folder)
        self.bulk = [field for field in self.stored.fields if not field.scalar]
        self.asking = ThreadPoolExecutor(ASKING, thread_name_prefix="factory-ask")
        self.fetching = ThreadPoolExecutor(FETCHING, thread_name_prefix="factory-fetch")
        self.coming: dict[int, tuple[Future[None], int]] = {}  # and the read that will need it
        self.reads = 0
        self.here = dict.fromkeys(self._found(), LONG_AGO)  # the read that used, or will use, them last

    def read(self, indices: Indices, allocate: Allocate = fresh) -> dict[str, Array]:
        self._scalars(indices)
        numbers = indices // self.layout.per_shard
        distinct = np.unique(numbers).tolist()
        self._arrived()
        self.reads += 1
        self.here |= {number: max(self.here[number], self.reads) for number in distinct if number in self.here}
        local = np.isin(numbers, [number for number in distinct if number in self.here])
        try:
            made = self.stored.read(indices, allocate) if local.all() else self._both(indices, local, allocate)
        except DamagedStore:  # here, or there as well
            self._clear(distinct, indices)
            made = self._both(indices, np.zeros(len(indices), bool), allocate)
        self.expect(indices)
        return made

    def expect(self, indices: Indices, ahead: int = 0) -> None:
        """Begin to fetch the shards of samples that will be read so many batches later."""
        for number in np.unique(indices // self.layout.per_shard).tolist():
            if number not in self.here and number not in self.coming and self._room(self._weight(number)):
                self.coming[number] = self.fetching.submit(self._fetch, number), self.reads + ahead

    def refresh(self) -> bool:
        """It serves one pass: its folder is left to whoever needs it next."""
        return False

    def close(self) -> None:
        for pool in (self.asking, self.fetching):
            pool.shutdown(wait=True, cancel_futures=True)
        self.stored.close()
        self.slot.close()

    def _both(self, indices: Indices, local: Array, allocate: Allocate) -> dict[str, Array]:
        """What is here from its files, all else by asking for it."""
        out = {field.name: allocate(field.name, (len(indices), *field.shape), field.dtype)
               for field in self.stored.fields}
        asked = [(self.asking.submit(self._sample, field, int(indices[row])), out[field.name], row)
                 for row in np.flatnonzero(~local).tolist() for field in self.bulk]
        rows = np.flatnonzero(local)
        for field in self.stored.fields:
            if field.scalar:
                out[field.name][:] = self.stored.field(field, indices, fresh)
            elif len(rows):
                out[field.name][rows] = self.stored.field(field, indices[rows], fresh)
        for answer, values, row in asked:
            values[row].reshape(-1).view(np.uint8)[:] = answer.result()
        return {name: out[name] if name in out else np.array(self.stored.coordinates[name])
                for name in self.layout.order}

    def _sample(self, field: Field, index: int) -> Array:
        """A sample's bytes, with the checksum of what was sent looked at."""
        number, row = divmod(index, field.per_file)
        first, whole = field.chunk_of(row), field.stride - CRC_BYTES
        path = self._path(field, number)
        try:
            sent = path.read_range(first * field.stride, field.pieces * field.stride)
        except OSError as error:
            raise self.stored.damaged(field, number, error) from error
        chunks = np.frombuffer(sent, np.uint8).reshape(field.pieces, field.stride)
        for chunk in chunks:
            self.stored.compare(field, number, chunk[:whole].data, chunk[whole:].tobytes())
        start = row % field.chunk_samples * field.sample_bytes
        return chunks[:, :whole].reshape(-1)[start : start + field.sample_bytes]

    def _scalars(self, indices: Indices) -> None:
        """Scalars lie in few long files, which are fetched at once."""
        for field in self.stored.fields:
            if field.scalar:
                for number in np.unique(indices // field.per_file).tolist():
                    if not self._local(field, number).exists():
                        self._copy(field, number)

    def _fetch(self, number: int) -> None:
        for field in self.bulk:
            self._copy(field, number)

    def _copy(self, field: Field, number: int) -> None:
        """A file that is there is whole."""
        target = self._local(field, number)
        if target.exists():
            return
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        part = target.with_name(f"{target.name}.part")
        try:
            with open(part, "wb") as file:
                for piece in self._path(field, number).pieces():
                    file.write(piece)
            os.replace(part, target)
        except OSError as error:
            if error.filename == str(self._path(field, number)):
                raise self.stored.damaged(field, number, error) from error
            raise StoreError(f"{self.slot.folder} cannot take more of {self.store}: {error.strerror}; make room, or "
                             "give the stream fewer cache_bytes") from error

    def _arrived(self) -> None:
        """Note what was fetched."""
        for number, (coming, needed) in [*self.coming.items()]:
            if coming.done():
                del self.coming[number]
                coming.result()
                self.here[number] = needed

    def _room(self, nbytes: int) -> bool:
        """Whether there is room for more, if need be by dropping shards that are done, those done longest ago first."""
        held = sum(map(self._weight, [*self.here, *self.coming]))
        done = sorted((last, number) for number, last in self.here.items() if last < self.reads - DONE_READS)
        while held + nbytes > self.limit and done:
            _, number = done.pop(0)
            held -= self._weight(number)
            self._drop(number)
        return held + nbytes <= self.limit

    def _clear(self, shards: list[int], indices: Indices) -> None:
        """Drop everything that a batch was read from."""
        for number in shards:
            if number in self.here:
                self._drop(number)
        for field in self.stored.fields:
            if field.scalar:
                for number in np.unique(indices // field.per_file).tolist():
                    self._remove(field, number)
        self._scalars(indices)

    def _drop(self, number: int) -> None:
        del self.here[number]
        for field in self.bulk:
            self._remove(field, number)

    def _remove(self, field: Field, number: int) -> None:
        self.stored.forget(field, number)
        with suppress(FileNotFoundError):
            self._local(field, number).unlink()

    def _found(self) -> Iterator[int]:
        """Shards that an earlier process left here, whole; what it did not end is removed."""
        for part in self.slot.folder.rglob("*.part"):
            part.unlink()
        for number in range(self.layout.shards):
            if all(self._local(field, number).exists() for field in self.bulk):
                yield number

    def _weight(self, number: int) -> int:
        return sum(self.layout.sizes(number).values())

    def _local(self, field: Field, number: int) -> Path:
        return self.stored.path(field, number)

    def _path(self, field: Field, number: int) -> Any:
        return self.store / self.layout.split / field.name / self.stored.key(field, number)
