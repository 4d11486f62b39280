"""Numbers to the bytes of Zarr chunks and shards, and their sums.

What is written is byte for byte what zarr-python writes for our metadata (tested), many times as fast: payloads, each
with the four bytes of its crc32c, and a shard's index at its end.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, cast

import numpy as np
from crc32c import crc32c as checksum

from factory.numerics import totals
from factory.store.layout import CRC_BYTES, Bulk
from factory.units import Array

BLOCK = 1 << 15  # numbers that are looked at together: they stay in the cache
NOWHERE = 2**64 - 1  # offset and size of an inner chunk that a shard does not hold


def fill_value(dtype: np.dtype[Any]) -> Any:
    """NaN where a dtype has one: what is missing should never look like a measurement."""
    return {"f": np.nan, "c": complex(np.nan, np.nan)}.get(dtype.kind, 0)


def encode_shard(bulk: Bulk, values: Array) -> Iterator[memoryview | bytes]:
    """The file of one shard, piece by piece; numbers are passed on where they lie, not copied.

    Parameters
    ----------
    values : (samples, *bulk.shape), at most ``bulk.per_shard`` samples, of the dtype ``bulk.dtype``
        The last inner chunk is filled up with NaN (or zero); those behind it are left out.
    """
    samples = len(values)
    count, size = bulk.chunks(samples), bulk.chunk_bytes
    flat = _bytes(values)
    for start in range(0, count * size, size):
        payload = flat[start : start + size]
        if len(payload) < size:
            payload = _filled(payload, size, values.dtype)
        yield payload.data
        yield _mark(payload)
    index = np.full((bulk.chunks_per_shard, 2), NOWHERE, "<u8")
    index[:count, 0] = np.arange(count) * bulk.stride
    index[:count, 1] = bulk.stride
    yield index.data.cast("B")
    yield _mark(index)


def encode_chunk(values: Array, length: int | None = None) -> bytes:
    """The file of one chunk of a plain array, filled up to ``length`` along its first axis."""
    size = (len(values) if length is None else length) * values[:1].nbytes
    payload = _filled(_bytes(values), size, values.dtype)
    return payload.tobytes() + _mark(payload)


def _bytes(values: Array) -> Array:
    """Little-endian bytes, shape (bytes,)."""
    return np.ascontiguousarray(values, values.dtype.newbyteorder("<")).reshape(-1).view(np.uint8)


def _filled(payload: Array, size: int, dtype: np.dtype[Any]) -> Array:
    """Bytes of numbers, with as many of what stands for nothing behind them as make ``size`` bytes."""
    filling = np.full((size - len(payload)) // dtype.itemsize, fill_value(dtype), dtype.newbyteorder("<"))
    return np.concatenate([payload, filling.view(np.uint8)])


def _mark(data: Array) -> bytes:
    return checksum(data.data).to_bytes(CRC_BYTES, "little")


def decode(document: Mapping[str, Any], key: str, data: bytes) -> Array:
    """The array of a one-chunk document from its bytes; ValueError when the checksum does not match."""
    import zarr
    from zarr.abc.store import Store
    from zarr.core.buffer import default_buffer_prototype
    from zarr.storage import MemoryStore

    def buffer(content: bytes) -> Any:
        return default_buffer_prototype().buffer.from_bytes(content)

    held: dict[str, Any] = {"zarr.json": buffer(json.dumps(document).encode()), key: buffer(data)}
    store = cast(Store, MemoryStore(held))
    return np.asarray(zarr.open_array(store, mode="r", zarr_format=3)[...])


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

    Added in an order of our own, so that the same numbers give the same bytes on every machine.
    """
    flat = np.ascontiguousarray(values).reshape(-1)
    if flat.dtype.kind == "c":
        flat = flat.view(flat.real.dtype)
    if flat.dtype not in (np.float32, np.float64):
        flat = flat.astype(np.float64)
    even, odd, squares = totals(flat)
    return ([even, odd] if values.dtype.kind == "c" else [even + odd]), squares
