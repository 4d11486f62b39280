"""What is looked at before zarr or xarray open a store that may come from a stranger.

Zarr's readers believe metadata: a small file can ask for any amount of memory, a link can point at any file, a pipe
waits for ever.  Here nothing is opened but regular files of bounded size, by names that the store's own root says.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Mapping
from math import prod
from typing import Any

import numpy as np

from factory.store.errors import DamagedStore, StoreError
from factory.store.files import Place, place
from factory.store.layout import CHUNKS_PER_SHARD, DTYPES
from factory.store.metadata import BOOKS, Document, Root, read_document
from factory.store.objects import ObjectPath

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")
CHUNK_BYTES = 1 << 30  # the most that one inner chunk, or one chunk of a plain array, may hold
CODECS = frozenset({"bytes", "crc32c", "sharding_indexed"})


def preflight(store: str | Place, root: Root) -> None:
    """Refuse a store whose metadata would lead a reader astray.

    Raises
    ------
    StoreError
        The first thing that is wrong: which file, what it says, and what a store may say.
    """
    path = place(store)
    _folder(path / BOOKS)
    documents: dict[str, Document] = {}
    for split, facts in root.splits.items():
        for name in (split, *facts["variables"]):
            if not NAME.fullmatch(name):
                raise StoreError(f"{path / 'zarr.json'} names {name!r:.80}; names of splits and variables are letters, "
                                 "digits, - and _")
        _folder(path / split)
        for name in facts["variables"]:
            folder = path / split / name
            _folder(folder)
            documents[f"{split}/{name}"] = document = read_document(folder / "zarr.json")
            _array(folder / "zarr.json", document, facts["samples"])
    _repeated(path, root, documents)


def _folder(path: Place) -> None:
    if isinstance(path, ObjectPath):  # has no links
        return
    try:
        mode = os.lstat(path).st_mode
    except OSError as error:
        raise DamagedStore(f"{path} is missing") from error
    if not stat.S_ISDIR(mode):
        raise StoreError(f"{path} is no folder (links are not followed); copy the store's real files")


def _repeated(store: Place, root: Root, documents: Mapping[str, Document]) -> None:
    """What groups repeat of the metadata below them, which readers take in their place, must be the same."""
    groups = {"": store / "zarr.json"} | {f"{split}/": store / split / "zarr.json" for split in root.splits}
    for prefix, path in groups.items():
        held = read_document(path).get("consolidated_metadata")
        if held is None:
            continue
        members = held.get("metadata") if isinstance(held, dict) else None
        if not isinstance(members, dict):
            raise DamagedStore(f"{path} lacks or garbles its consolidated metadata")
        for key, document in members.items():
            place = f"{prefix}{key}"
            if place not in root.splits and document != documents.get(place):
                raise DamagedStore(f"{path} says of {key!r:.80} what the store itself does not say; run factory repair")


def _array(path: Place, document: Document, samples: int) -> None:
    try:
        for fault in _faults(document, samples):
            raise StoreError(f"{path}: {fault}; this is no store that a reader may open")
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise DamagedStore(f"{path} lacks or garbles {error}") from error


def _faults(document: Mapping[str, Any], samples: int) -> Iterator[str]:
    if (document["zarr_format"], document["node_type"]) != (3, "array"):
        yield f"a Zarr {document['zarr_format']!r:.20} {document['node_type']!r:.20} where a Zarr 3 array should be"
    dtype, shape, dims = document["data_type"], document["shape"], document["dimension_names"]
    if dtype not in DTYPES:
        yield f"the data type {dtype!r:.40}"
    chunk = document["chunk_grid"]["configuration"]["chunk_shape"]
    if not (len(shape) == len(chunk) == len(dims) and all(type(n) is int and n > 0 for n in [*shape, *chunk])):
        yield f"the shape {shape!r:.80} in chunks {chunk!r:.80}"
    if dims[0] == "sample" and shape[0] != samples:
        yield f"{shape[0]} samples, where the root says {samples}"
    if document["chunk_key_encoding"] != {"name": "default", "configuration": {"separator": "."}}:
        yield f"the key encoding {document['chunk_key_encoding']!r:.80}"
    if document.get("storage_transformers"):
        yield "storage transformers"
    yield from _codecs(document["codecs"], chunk, np.dtype(dtype).itemsize)


def _codecs(codecs: Any, chunk: list[int], itemsize: int) -> Iterator[str]:
    for codec in codecs:
        if codec["name"] not in CODECS:
            yield f"the codec {codec['name']!r:.40}, which is none of {', '.join(sorted(CODECS))}"
        if codec["name"] == "sharding_indexed":
            inside = codec["configuration"]
            inner = inside["chunk_shape"]
            pairs = list(zip(inner, chunk, strict=True))
            if any(type(n) is not int or n < 1 or c % n for n, c in pairs):
                yield f"inner chunks {inner!r:.80} in shards {chunk!r:.80}"
                return
            count = prod(c // n for n, c in pairs)
            if count > CHUNKS_PER_SHARD:
                yield f"{count} inner chunks a shard, more than {CHUNKS_PER_SHARD}"
            yield from _codecs([*inside["codecs"], *inside["index_codecs"]], inner, itemsize)
            return
    if prod(chunk) * itemsize > CHUNK_BYTES:
        yield f"chunks of {prod(chunk) * itemsize} bytes, more than {CHUNK_BYTES}"
