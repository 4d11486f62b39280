"""Numbers to the bytes of Zarr chunks and shards, and their sums.

What is written is byte for byte what zarr-python writes for our metadata (tested), many times as fast: payloads, each
with the four bytes of its crc32c, and a shard's index at its end.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
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


def encode_shard(bulk: Bulk, values: Array) -> memoryview:
    """The file of one shard.

    Parameters
    ----------
    values : (samples, *bulk.shape), at most ``bulk.per_shard`` samples, of the dtype ``bulk.dtype``
        The last inner chunk is filled up with NaN (or zero); those behind it are left out.
    """
    samples = len(values)
    count, size = bulk.chunks(samples), bulk.chunk_bytes
    out = np.empty(bulk.size(samples), np.uint8)
    framed = out[: count * bulk.stride].reshape(count, bulk.stride)
    _copy(framed[:, :size], values)
    marks = np.array([_crc(payload[:size]) for payload in framed], "<u4")
    framed[:, size:] = marks.view(np.uint8).reshape(count, CRC_BYTES)
    index = np.full((bulk.chunks_per_shard, 2), NOWHERE, "<u8")
    index[:count, 0] = np.arange(count) * bulk.stride
    index[:count, 1] = bulk.stride
    _copy(out[count * bulk.stride : -CRC_BYTES].reshape(1, -1), index)
    out[-CRC_BYTES:] = _mark(index)
    return out.data


def encode_chunk(values: Array, length: int | None = None) -> memoryview:
    """The file of one chunk of a plain array, filled up to ``length`` along its first axis."""
    wanted = (len(values) if length is None else length) * values[:1].nbytes
    out = np.empty(wanted + CRC_BYTES, np.uint8)
    _copy(out[:wanted].reshape(1, -1), values)
    out[wanted:] = _mark(out[:wanted])
    return out.data


def _copy(rows: Array, values: Array) -> None:
    """Little-endian bytes of ``values`` into ``rows`` (chunk, bytes), one after the other; what is left is filled."""
    flat = np.ascontiguousarray(values, values.dtype.newbyteorder("<")).reshape(-1).view(np.uint8)
    whole, rest = divmod(flat.size, rows.shape[1])
    rows[:whole] = flat[: whole * rows.shape[1]].reshape(whole, rows.shape[1])
    if rest:
        rows[whole, :rest] = flat[whole * rows.shape[1] :]
        missing = (rows.shape[1] - rest) // values.itemsize
        filled = np.full(missing, fill_value(values.dtype), values.dtype.newbyteorder("<"))
        rows[whole, rest:] = filled.view(np.uint8)


def _crc(data: Array) -> int:
    return checksum(data.data)


def _mark(data: Array) -> Array:
    return np.array([_crc(data)], "<u4").view(np.uint8)


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
