"""Numbers to the bytes of one Zarr chunk or shard, in memory.

One function, `encode`, is the whole seam: today zarr-python does the work through a store that is a dictionary.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, cast

import numpy as np
import zarr
from zarr.abc.store import Store
from zarr.storage import MemoryStore

from factory.units import Array

BLOCK = 1 << 15  # numbers that are squared at once: stays in the cache, and fixes the order of additions


def encode(document: Mapping[str, Any], values: Array) -> memoryview:
    """The bytes of the only chunk (or shard) of an array.

    Parameters
    ----------
    document : the array's ``zarr.json`` whose shape is that of ``values`` and fits into one chunk
    values : any dtype that a store holds, C order
    """
    held: dict[str, Any] = {}
    store = MemoryStore(held)
    held["zarr.json"] = _buffer(json.dumps(document).encode())
    # Empty chunks are written: a chunk that is not there must always mean a shard that is not there.
    array = zarr.open_array(cast(Store, store), mode="r+", zarr_format=3, config={"write_empty_chunks": True})
    array[...] = values
    (key,) = [key for key in held if key != "zarr.json"]
    return memoryview(held[key].as_numpy_array()).cast("B")


def _buffer(data: bytes) -> Any:
    from zarr.core.buffer import default_buffer_prototype

    return default_buffer_prototype().buffer.from_bytes(data)


def decode(document: Mapping[str, Any], key: str, data: bytes) -> Array:
    """The array of a one-chunk document from its bytes; ValueError when the checksum does not match."""
    held = {"zarr.json": _buffer(json.dumps(document).encode()), key: _buffer(data)}
    return np.asarray(zarr.open_array(cast(Store, MemoryStore(held)), mode="r", zarr_format=3)[...])


def first_not_finite(values: Array) -> int | None:
    """Position along the first axis of the first entry with a NaN or an infinity; None when all are finite."""
    if values.dtype.kind not in "fc":
        return None
    flat = values.reshape(len(values), -1)
    step = max(1, BLOCK // max(1, flat.shape[1]))
    for start in range(0, len(flat), step):
        good = np.isfinite(flat[start : start + step]).all(axis=1)
        if not good.all():
            return start + int(np.argmin(good))
    return None


def sums(values: Array) -> tuple[list[float], float]:
    """Sum (real and imaginary part for complex numbers) and sum of squared magnitudes, in float64.

    Added in blocks of fixed size, so that the same numbers give the same bytes.
    """
    parts = 2 if values.dtype.kind == "c" else 1
    total, squares = [0.0] * parts, 0.0
    for block in _blocks(values):
        for k in range(parts):
            total[k] += float(np.add.reduce(np.ascontiguousarray(block[k::parts])))
        squares += float(np.add.reduce(np.square(block)))
    return total, squares


def _blocks(values: Array) -> Iterator[Array]:
    flat = np.ascontiguousarray(values).reshape(-1)
    if flat.dtype.kind == "c":
        flat = flat.view(flat.real.dtype)
    for start in range(0, flat.size, BLOCK):
        yield flat[start : start + BLOCK].astype(np.float64)
