"""Finishing a store whose shards are all committed: scalars, manifest, consolidated metadata, the data set's id.

The id is the root of a Merkle tree over the commits, so it is the same whatever made the shards, in which order, on how
many machines and after how many kills.  It detects damage and mix-ups, not forgery.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from factory.store.commit import commit_path, standing
from factory.store.drop import drop_into
from factory.store.encode import encode_chunk
from factory.store.errors import DamagedStore, IncompleteStore
from factory.store.files import Place, each, key_of, open_regular, place, remove
from factory.store.layout import Layout
from factory.store.metadata import (
    BOOKS,
    COPY,
    FORMAT,
    Document,
    array_document,
    dumps,
    group_document,
    item_key,
    read_document,
)
from factory.units import Array

MANIFEST = "manifest.json"  # written last: a store with it is finished
MANIFEST_COPY = "manifest.copy.json"  # should it be lost
SHARDS = "shards.jsonl"  # the line of every commit, in order

Put = Callable[[Place, bytes], None]


@dataclass(frozen=True)
class Manifest:
    """What a finished store says of itself: its id, and each split's."""

    id: str
    splits: Mapping[str, str]


class Merkle:
    """The root of a hash tree over leaves that come one by one; holds one digest for each power of two."""

    def __init__(self) -> None:
        self.peaks: list[tuple[int, bytes]] = []  # (leaves below, digest), largest first

    def add(self, leaf: bytes) -> None:
        """Append a leaf."""
        peak = (1, blake2b(b"\0" + leaf, digest_size=16).digest())
        while self.peaks and self.peaks[-1][0] == peak[0]:
            count, left = self.peaks.pop()
            peak = (2 * count, _joined(left, peak[1]))
        self.peaks.append(peak)

    def root(self) -> str:
        """32 hexadecimal digits; the hash of nothing for no leaves."""
        digests = [digest for _, digest in self.peaks] or [blake2b(digest_size=16).digest()]
        while len(digests) > 1:
            right = digests.pop()
            digests[-1] = _joined(digests[-1], right)
        return digests[0].hex()


def _joined(left: bytes, right: bytes) -> bytes:
    return blake2b(b"\1" + left + right, digest_size=16).digest()


def read_manifest(store: str | Place) -> Manifest | None:
    """The manifest of a finished store; None when it is not finished.  DamagedStore when it cannot be read."""
    path = place(store) / BOOKS / MANIFEST
    if not path.exists():
        return None
    document = read_document(path)
    try:
        return Manifest(str(document["id"]), {name: str(s["id"]) for name, s in document["splits"].items()})
    except (KeyError, TypeError, AttributeError) as error:
        raise DamagedStore(f"{path} lacks or garbles {error}") from error


def finalise(plans: Mapping[str, Layout], store: Place, run: str) -> Manifest:
    """Write what a finished store has beyond its shards.  Safe to run again after a kill: it writes the same bytes.

    Files that are right already stay untouched.

    Raises
    ------
    IncompleteStore
        A shard is not committed.
    """
    drop, roots = drop_into(store, run), {name: Merkle() for name in plans}
    marks: dict[str, str] = {}

    def put(path: Place, data: bytes) -> None:
        marks[key_of(path, store)] = xxhash.xxh3_128_hexdigest(data)
        drop.add(path, data)

    try:
        drop.add(store / BOOKS / SHARDS, _gathered(store, plans, put, roots))
        documents = documents_of(plans, store)
        whole = whole_of(plans, store, {name: root.root() for name, root in roots.items()})
        marks |= {key: metadata_mark(document) for key, document in documents.items()}
        made = made_of(whole)
        documents["zarr.json"]["attributes"] = {"id": made, **documents["zarr.json"]["attributes"]}
        for key, document in documents.items():
            drop.add(store / key, dumps(document))
        drop.add(store / BOOKS / COPY, dumps(group_document(_attributes(store / "zarr.json", without="id"))))
        manifest = dumps(sealed({"id": made, **whole, "marks": marks}))
        drop.add(store / BOOKS / MANIFEST_COPY, manifest)
        drop.place()
        drop.add(store / BOOKS / MANIFEST, manifest)
        drop.place()
    finally:
        drop.clear()
        drop.close()
    clear_partial(store)
    return Manifest(made, {name: root.root() for name, root in roots.items()})


def unfinish(store: Place) -> None:
    """Take the manifest away: until the store is finished again, nobody shall read it."""
    for name in (MANIFEST, MANIFEST_COPY):
        remove(store / BOOKS / name)


def whole_of(plans: Mapping[str, Layout], store: Place, roots: Mapping[str, str]) -> Document:
    """What makes the id: counts, the roots of the hash trees, marks of coordinates."""
    facts = {
        name: {"samples": plan.samples, "per_shard": plan.per_shard, "id": roots[name],
               "coordinates": {key: _file_mark(store / name / key / item_key(item))
                               for key, item in plan.coordinates.items()}}
        for name, plan in plans.items()
    }
    return {"manifest": FORMAT, "identity": next(iter(plans.values())).identity, "splits": facts}


def made_of(whole: Mapping[str, Any]) -> str:
    """The id of a data set."""
    return blake2b(dumps(whole), digest_size=16).hexdigest()


def sealed(manifest: Mapping[str, Any]) -> Document:
    """A manifest with the mark of everything else in it."""
    rest = {key: value for key, value in manifest.items() if key != "mark"}
    return {**rest, "mark": xxhash.xxh3_128_hexdigest(dumps(rest))}


def metadata_mark(document: Mapping[str, Any]) -> str:
    """xxh3-128 of a ``zarr.json`` but for the data set's id, which depends on it."""
    attrs = {key: value for key, value in document.get("attributes", {}).items() if key != "id"}
    return xxhash.xxh3_128_hexdigest(dumps({**document, "attributes": attrs}))


def clear_partial(store: Place) -> None:
    """Remove all temporary files.  Every shard is committed: what still lies there is what killed runs left."""
    if isinstance(store, Path):
        shutil.rmtree(store / BOOKS / "partial", ignore_errors=True)


def _gathered(store: Place, plans: Mapping[str, Layout], put: Put, roots: Mapping[str, Merkle]) -> Iterator[bytes]:
    """The line of every commit; on the way, each scalar's array is written chunk by chunk."""
    for name, plan in plans.items():
        columns = {key: Column(plan, key, put) for key in plan.scalars}
        for shard, commit in enumerate(each(store, partial(standing, plan, payload=True), range(plan.shards))):
            if commit is None:
                raise IncompleteStore(f"split {name}, shard {shard} is not committed ({commit_path(plan, shard)}); "
                                      "run the same `factory make` again")
            for key, column in columns.items():
                column.extend(commit.values(key, plan.scalars[key].dtype))
            roots[name].add(commit.line)
            yield commit.line
        for column in columns.values():
            column.flush()


class Column:
    """One scalar of a split on its way into a plain Zarr array: at most one chunk in memory."""

    def __init__(self, plan: Layout, name: str, put: Put):
        self.plan, self.item, self.put = plan, plan.scalars[name], put
        self.held: list[Array] = []
        self.count = self.chunk = 0

    def extend(self, values: Array) -> None:
        """Append samples in order; whole chunks go to the disk."""
        room = self.plan.scalar_chunk - self.count
        while len(values) >= room:
            self._hold(values[:room])
            self.flush()
            values, room = values[room:], self.plan.scalar_chunk
        self._hold(values)

    def _hold(self, values: Array) -> None:
        if len(values):
            self.held.append(values)
            self.count += len(values)

    def flush(self) -> None:
        """Write what is held as the next chunk; the last one is padded to its full size."""
        if not self.count:
            return
        data = encode_chunk(np.concatenate(self.held), self.plan.scalar_chunk)
        folder = self.plan.folder / self.item.name
        self.put(folder / item_key(self.item, self.chunk), data)
        self.held, self.count, self.chunk = [], 0, self.chunk + 1


def documents_of(plans: Mapping[str, Layout], store: Place) -> dict[str, Document]:
    """Every ``zarr.json`` of a finished store by its path in it; those of groups hold all that is below them."""
    found: dict[str, Document] = {}
    below: dict[str, Document] = {}
    for name, plan in plans.items():
        members = {key: array_document(plan.item(key), plan, _attributes(store / name / key / "zarr.json"))
                   for key in plan.order}
        attrs = _attributes(store / name / "zarr.json")
        found |= {f"{name}/{key}/zarr.json": document for key, document in members.items()}
        found[f"{name}/zarr.json"] = group_document(attrs, members)
        below |= {name: group_document(attrs, {})} | {f"{name}/{key}": value for key, value in members.items()}
    attrs = _attributes(store / "zarr.json", without="id")
    found["zarr.json"] = group_document(attrs, below)
    return found


def _attributes(path: Place, without: str = "") -> dict[str, Any]:
    return {key: value for key, value in read_document(path).get("attributes", {}).items() if key != without}


def _file_mark(path: Place) -> str:
    try:
        with open_regular(path) as file:
            return xxhash.xxh3_128_hexdigest(file.read())
    except OSError as error:
        raise DamagedStore(f"{path} cannot be read: {error.strerror}") from error
