"""Samples out of the files of a finished store.

A sample in a shard file is a run of bytes whose address is arithmetic (`factory.store.layout`).  What a local file
system holds in memory is copied out of memory maps by one loop a batch (measured: 1.5 times as fast as ``pread``).
What it does not hold is read with ``pread``, announced beforehand: a disk works on many samples at once, and its
failure is an exception instead of a signal.  Scalars lie so close together that a map is always best.  Checksums lie
between the samples, so their bytes are not aligned: they are copied, never viewed.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import resource
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from math import prod
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xxhash
from crc32c import crc32c
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from factory.order import Indices
from factory.store import DamagedStore, coordinate_values
from factory.store.commit import commit_path, read_commit
from factory.store.files import descriptor_of
from factory.store.layout import CRC_BYTES, Layout
from factory.stream.guard import guard
from factory.stream.memory import Allocate, fresh
from factory.units import Array

Verify = Literal["once", "always", "never"]
HASHED = 1 << 22  # bytes at a time
NEVER = 2**63
LOOKS = 4  # samples of a batch that are looked for in memory
OPEN_FILES = 4096  # of one pass; fewer where the system allows a process fewer
LOCAL = frozenset({"ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "bcachefs", "tmpfs", "overlay"})


@dataclass(frozen=True)
class Field:
    """Where the samples of one stored array lie, in files of ``per_file`` samples."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    per_file: int
    chunk_samples: int
    stride: int  # bytes from one inner chunk to the next
    chunks: int  # inner chunks of a full file
    pieces: int = 1  # inner chunks that one sample is cut into
    scalar: bool = False

    @cached_property
    def sample_bytes(self) -> int:
        return prod(self.shape) * np.dtype(self.dtype).itemsize

    def chunk_of(self, rows: Any) -> Any:
        """The inner chunk that samples lie in, or the first one of their pieces."""
        return rows // self.chunk_samples * self.pieces

    def offsets(self, rows: Indices) -> Indices:
        """Where samples begin in their file."""
        start: Indices = self.chunk_of(rows) * self.stride
        return start + rows % self.chunk_samples * self.sample_bytes


def fields_of(layout: Layout) -> list[Field]:
    """All arrays with a sample axis; a scalar is stored in a few long plain chunks, each a file of its own."""
    bulk = [Field(b.name, b.dtype, b.shape, b.per_shard, b.chunk_samples, b.stride, b.chunks_per_shard,
                  b.pieces)
            for b in layout.bulk.values()]
    length = layout.scalar_chunk
    scalars = [Field(s.name, s.dtype, (), length, length, length * np.dtype(s.dtype).itemsize + CRC_BYTES, 1,
                     scalar=True) for s in layout.scalars.values()]
    return bulk + scalars


class File:
    """An open file of the expected size: a descriptor, and perhaps a memory map and its address."""

    descriptor: int | None = None
    map: mmap.mmap | None = None
    number: int | None = None  # under which its map is guarded

    def __init__(self, path: Path, size: int, mapped: bool) -> None:
        self.size, self.address, self.path = size, 0, path
        self.descriptor = descriptor_of(path)
        found = os.fstat(self.descriptor)
        self.mark, self.changed = _mark(found), found.st_ctime_ns
        try:
            self.check()
            if mapped:
                self.map = mmap.mmap(self.descriptor, size, prot=mmap.PROT_READ)  # holds a descriptor of its own
                self.address = int(np.frombuffer(self.map, np.uint8).__array_interface__["data"][0])
                self.number = guard().watch(self.address, size)
        except (OSError, ValueError):
            self.close()
            raise

    def check(self) -> None:
        """OSError for a file that was written to since it was opened; asked after each look into it."""
        assert self.descriptor is not None
        found = os.fstat(self.descriptor)
        if found.st_size != self.size:
            raise OSError(f"it has {found.st_size} bytes instead of {self.size}")
        if found.st_mtime_ns != self.mark[-1]:
            raise OSError("it was written to while it was read")
        if self.number is not None and guard().cut(self.number):
            raise OSError("it was cut while it was read")

    def stands(self) -> bool:
        """Whether the same file still lies at its place, untouched."""
        if self.number is not None and guard().cut(self.number):
            return False
        try:
            return _mark(os.stat(self.path, follow_symlinks=False)) == self.mark
        except OSError:
            return False

    def hash(self) -> str:
        """xxh3-128 of all its bytes."""
        assert self.descriptor is not None
        digest = xxhash.xxh3_128()
        for start in range(0, self.size, HASHED):
            digest.update(os.pread(self.descriptor, HASHED, start))
        return digest.hexdigest()

    def read_into(self, buffer: memoryview, offset: int) -> None:
        assert self.descriptor is not None
        read = os.preadv(self.descriptor, [buffer], offset)
        if read != len(buffer):
            raise OSError(f"it ended after {read} of {len(buffer)} bytes at {offset}")

    def bytes_at(self, offset: int, nbytes: int) -> bytes:
        """A copy of some bytes."""
        if self.map is not None:
            return self.map[offset : offset + nbytes]
        assert self.descriptor is not None
        return os.pread(self.descriptor, nbytes, offset)

    def announce(self, offset: int, nbytes: int) -> None:
        """Tell the system what will be read, so that a disk works on many at once (three times as fast cold)."""
        if self.descriptor is not None and hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self.descriptor, offset, nbytes, os.POSIX_FADV_WILLNEED)

    def close(self) -> None:
        if self.descriptor is not None:
            os.close(self.descriptor)
        if self.number is not None:
            guard().release(self.number)
        if self.map is not None:
            self.map.close()
        self.descriptor = self.map = self.number = None

    def __del__(self) -> None:
        self.close()


def _mark(found: os.stat_result) -> tuple[int, ...]:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


class Stored:
    """Samples read from the files of a finished store.

    Parameters
    ----------
    verify : when a sample's checksum is looked at: the first time that its chunk is read, always, or never
    seen : which chunks of each array were found right, a flag each; kept by whoever makes one reader after the other
    held : scalars of all samples that lie in no file, because the store is not finished
    folder : where the files lie, if not in the store
    since : ns since the epoch; a file that changed later is held against its commit
    """

    def __init__(self, layout: Layout, verify: Verify = "once", seen: dict[str, Array] | None = None,
                 held: Mapping[str, Array] | None = None, folder: Path | None = None, since: int = NEVER) -> None:
        self.layout, self.fields, self.verify, self.held = layout, fields_of(layout), verify, held or {}
        self.seen: dict[str, Array] = {} if seen is None else seen
        self.files: OrderedDict[tuple[str, int, bool], File] = OrderedDict()
        self.coordinates = {name: coordinate_values(layout, name) for name in layout.coordinates}
        self.folder, self.since = folder or Path(layout.store), since
        self.local = is_local(self.folder)
        self.most = max(8, min(OPEN_FILES, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4))

    def read(self, indices: Indices, allocate: Allocate = fresh) -> dict[str, Array]:
        if self.local:
            guard().stand()
        arrays = {field.name: self.field(field, indices, allocate) for field in self.fields}
        arrays |= {name: np.array(values) for name, values in self.coordinates.items()}
        return {name: arrays[name] for name in self.layout.order}

    def refresh(self) -> bool:
        """Let go of files that were exchanged or written to; what takes their place is held against its checksums."""
        for (name, number, mapped), file in [*self.files.items()]:
            if not file.stands():
                del self.files[name, number, mapped]
                file.close()
                field = next(one for one in self.fields if one.name == name)
                if name in self.seen:
                    self.seen[name][number * field.chunks : (number + 1) * field.chunks] = False
        return True

    def close(self) -> None:
        for file in self.files.values():  # an error that is being reported may hold on to some
            file.close()
        self.files.clear()

    def field(self, field: Field, indices: Indices, allocate: Allocate) -> Array:
        out = allocate(field.name, (len(indices), *field.shape), field.dtype)
        if field.name in self.held:
            return np.take(self.held[field.name], indices, out=out)
        rows_of_bytes = out.reshape(-1).view(np.uint8).reshape(len(indices), field.sample_bytes)
        numbers, rows = np.divmod(indices, field.per_file)
        offsets = field.offsets(rows)
        mapped = self.local and field.pieces == 1 and (field.scalar or self._in_memory(field, numbers, offsets))
        read = self._gather if mapped else self._pread
        read(field, numbers, offsets, rows_of_bytes)
        if self.verify != "never":
            self._check(field, numbers, rows, rows_of_bytes)
        return out

    def _check(self, field: Field, numbers: Indices, rows: Indices, out: Array) -> None:
        """Hold the chunks of samples that were just read against their checksums; DamagedStore names the first."""
        if field.name not in self.seen:
            self.seen[field.name] = np.zeros(self._files_of(field) * field.chunks, bool)
        seen, chunks = self.seen[field.name], numbers * field.chunks + field.chunk_of(rows)
        fresh = np.flatnonzero(~seen[chunks]) if self.verify == "once" else np.arange(len(chunks))
        if not len(fresh):
            return
        for k in fresh[np.unique(chunks[fresh], return_index=True)[1]].tolist():
            self._check_sample(field, int(numbers[k]), int(rows[k]), out[k])
        seen[chunks[fresh]] = True

    def _check_sample(self, field: Field, number: int, row: int, sample: Array) -> None:
        """The chunk of a small sample, or all pieces of a large one: what was read, and not what lies on the disk."""
        file = self._file(field, number, mapped=(field.name, number, True) in self.files)
        whole, first = field.stride - CRC_BYTES, field.chunk_of(row)
        for piece in range(field.pieces):
            offset = (first + piece) * field.stride
            payload: Any = sample[piece * whole : (piece + 1) * whole].data if field.chunk_samples == 1 else (
                file.bytes_at(offset, whole))
            self.compare(field, number, payload, file.bytes_at(offset + whole, CRC_BYTES))

    def compare(self, field: Field, number: int, payload: Any, checksum: bytes) -> None:
        """DamagedStore where a chunk's bytes are not those that its checksum was made of."""
        if crc32c(payload) != int.from_bytes(checksum, "little"):
            raise self.damaged(field, number, ValueError("a checksum does not hold"))

    def _in_memory(self, field: Field, numbers: Indices, offsets: Indices) -> bool:
        """Whether the system holds the first pages of some of the samples of a batch."""
        some = range(0, len(numbers), max(1, len(numbers) // LOOKS))
        return all(in_memory(self._file(field, int(numbers[k]), mapped=True).address + int(offsets[k])) for k in some)

    def _gather(self, field: Field, numbers: Indices, offsets: Indices, out: Array) -> None:
        """Copy samples out of memory maps, one loop for all of them."""
        touched = np.zeros(self._files_of(field), bool)
        touched[numbers] = True
        distinct = np.flatnonzero(touched).tolist()
        addresses = np.zeros(len(touched), np.int64)
        for first in range(0, len(distinct), self.most):  # more are never open at once
            some = distinct[first : first + self.most]
            files = [self._file(field, number, mapped=True) for number in some]
            addresses[some] = [file.address for file in files]
            gather(addresses, numbers, offsets, out)
            addresses[some] = 0
            self._check_files(field, files, some)

    def _check_files(self, field: Field, files: list[File], numbers: list[int]) -> None:
        """Files are looked at after their bytes were taken: nothing that happened before then is missed."""
        for file, number in zip(files, numbers, strict=True):
            try:
                file.check()
            except OSError as error:
                raise self.damaged(field, number, error) from error

    def _files_of(self, field: Field) -> int:
        return -(-self.layout.samples // field.per_file)

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
                    raise self.damaged(field, number, error) from error
            self._check_files(field, files, [number for _, number, _ in some])

    def _read_sample(self, field: Field, file: File, offset: int, row: memoryview) -> None:
        part = field.sample_bytes // field.pieces
        for piece in range(field.pieces):
            file.read_into(row[piece * part : (piece + 1) * part], offset + piece * field.stride)

    def _file(self, field: Field, number: int, mapped: bool) -> File:
        key = (field.name, number, mapped)
        try:
            if key in self.files:
                self.files.move_to_end(key)
            else:
                self.files[key] = self._opened(field, number, mapped)
                while len(self.files) > self.most:
                    self.files.popitem(last=False)
        except (OSError, ValueError) as error:
            raise self.damaged(field, number, error) from error
        return self.files[key]

    def _opened(self, field: Field, number: int, mapped: bool) -> File:
        """A file; one that came after the store was looked at must be what its commit says: checksums say less."""
        file = File(self.path(field, number), self._size(field, number), mapped)
        if file.changed > self.since and not field.scalar and file.hash() != self._committed(field, number):
            file.close()
            raise ValueError("it was exchanged for another file, which is not what its commit says")
        return file

    def _committed(self, field: Field, number: int) -> str:
        return read_commit(commit_path(self.layout, number)).files[field.name][1]

    def damaged(self, field: Field, number: int, error: Exception) -> DamagedStore:
        return DamagedStore(
            f"{self.layout.store}: split {self.layout.split}, array {field.name}, shard {number} cannot be read: "
            f"{error}; run `factory repair {self.layout.store}`"
        )

    def path(self, field: Field, number: int) -> Path:
        return self.folder / self.layout.split / field.name / self.key(field, number)

    def key(self, field: Field, number: int) -> str:
        return f"c.{number}" if field.scalar else self.layout.bulk[field.name].key(number)

    def forget(self, field: Field, number: int) -> None:
        """Close a file that is about to go."""
        for mapped in (False, True):
            file = self.files.pop((field.name, number, mapped), None)
            if file is not None:
                file.close()

    def _size(self, field: Field, number: int) -> int:
        return field.stride if field.scalar else self.layout.sizes(number)[field.name]


def in_memory(address: int) -> bool:
    """Whether the page of a map that holds an address can be read without waiting for a disk."""
    mincore, found = _mincore(), ctypes.c_ubyte(0)
    start = address - address % mmap.PAGESIZE
    return mincore is not None and mincore(start, mmap.PAGESIZE, ctypes.byref(found)) == 0 and bool(found.value & 1)


@cache
def _mincore() -> Any:
    """The system's call of that name; None where it has none."""
    try:
        call = ctypes.CDLL(None).mincore
    except (OSError, AttributeError, TypeError):
        return None
    call.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)
    return call


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
def gather(addresses: Any, which: Any, offsets: Any, out: Any) -> None:
    """Copy rows out of files that begin at ``addresses``.

    Row i of ``out``, uint8 (n, bytes), lies ``offsets[i]`` into file ``which[i]``; rows of files at 0 stay untouched.
    """
    base, nbytes = out.ctypes.data, out.shape[1]
    for i in range(which.size):
        address = addresses[which[i]]
        if address != 0:
            _copy(base + i * nbytes, address + offsets[i], nbytes)
