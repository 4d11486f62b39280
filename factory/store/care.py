"""How a store is: what is there, what is missing, whether it may be read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
import xarray as xr

from factory.store.commit import Commit, standing
from factory.store.errors import DamagedStore, IncompleteStore, NoStore, StoreError
from factory.store.files import Place, each, fault, place, readable
from factory.store.finish import read_manifest
from factory.store.layout import Bulk, Coordinate, Layout, Scalar
from factory.store.metadata import Document, Root, read_document, read_root
from factory.store.preflight import preflight
from factory.units import Array

NAMED = 5  # missing shards or files that a sentence names


@dataclass(frozen=True)
class SplitStatus:
    """Progress of one split.  ``nbytes`` and ``committed_nbytes`` count samples only, without checksums."""

    name: str
    samples: int
    shards: int
    nbytes: int
    committed: int = 0
    committed_samples: int = 0
    committed_nbytes: int = 0
    missing: tuple[int, ...] = ()  # the first few shards that are to be made
    id: str | None = None

    @property
    def complete(self) -> bool:
        return self.committed == self.shards


@dataclass(frozen=True)
class StoreStatus:
    """How a store is; ``problem`` is a sentence when it is not one, or damaged, and ``code`` a command's exit code."""

    path: str
    splits: tuple[SplitStatus, ...] = ()
    identity: str | None = None
    id: str | None = None
    finished: bool = False
    problem: str | None = None
    code: int = 0

    @property
    def sentence(self) -> str:
        """The whole status in one sentence."""
        if self.problem is not None:
            return self.problem
        if self.finished:
            return f"{self.path} is finished: {sum(s.samples for s in self.splits)} samples, id {self.id}"
        parts = [f"{s.name} {s.committed} of {s.shards} shards" for s in self.splits]
        return (f"{self.path} is incomplete ({', '.join(parts)}); run `factory make RECIPE {self.path}` again with "
                "the recipe that began it")


def status(store: str | Place) -> StoreStatus:
    """How a store is; never raises for what is on the disk."""
    empty = StoreStatus(str(store))
    try:
        root = read_root(store)
        manifest = read_manifest(store)
        found = replace(empty, identity=root.identity)
        splits = tuple(_split_status(store, root, name) for name in root.splits)
    except StoreError as error:
        return replace(empty, problem=str(error), code=error.code)
    except OSError as error:
        return replace(empty, problem=f"{store} cannot be read: {error.strerror}", code=DamagedStore.code)
    found = replace(found, splits=splits, code=IncompleteStore.code)
    if manifest is None:
        return found
    splits = tuple(replace(s, id=manifest.splits.get(s.name)) for s in splits)
    found = replace(found, splits=splits, id=manifest.id, finished=True, code=0)
    lost = [f"{s.name} shard {shard}" for s in splits for shard in s.missing]
    if lost:
        text = (f"{store} was finished, but is damaged: {', '.join(lost[:NAMED])} missing or of the wrong size; run "
                f"`factory make RECIPE {store}` again with the recipe that made it")
        return replace(found, problem=text, finished=False, code=DamagedStore.code)
    return found


def _split_status(store: str | Place, root: Root, name: str) -> SplitStatus:
    plan = plan_of(store, root, name)
    count = samples = 0
    missing: list[int] = []
    for shard, commit in enumerate(each(store, partial(standing, plan), range(plan.shards))):
        if commit is not None:
            count, samples = count + 1, samples + commit.samples
        elif len(missing) < NAMED:
            missing.append(shard)
    return SplitStatus(name, plan.samples, plan.shards, plan.nbytes, count, samples, samples * plan.sample_bytes,
                       tuple(missing))


def plan_of(store: str | Place, root: Root, split: str, documents: Mapping[str, Document] | None = None) -> Layout:
    """The layout of one split as the store's own metadata say it, or ``documents`` by the arrays' names."""
    facts = root.splits[split]
    bulk: dict[str, Bulk] = {}
    scalars: dict[str, Scalar] = {}
    coordinates: dict[str, Coordinate] = {}
    for name in facts["variables"]:
        path = place(store) / split / name / "zarr.json"
        document = read_document(path) if documents is None else documents[name]
        try:
            item = _item(name, document, facts["per_shard"])
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise DamagedStore(f"{path} lacks or garbles {error}") from error
        kinds: dict[type, dict[str, Any]] = {Bulk: bulk, Scalar: scalars, Coordinate: coordinates}
        kinds[type(item)][name] = item
    return Layout(split, facts["samples"], facts["per_shard"], bulk, scalars, coordinates, facts["variables"],
                  str(store), root.identity, root.id)


def _item(name: str, document: dict[str, Any], per_shard: int) -> Bulk | Scalar | Coordinate:
    dims, shape = tuple(document["dimension_names"]), tuple(int(n) for n in document["shape"])
    unit, dtype = str(document["attributes"].get("units", "1")), str(np.dtype(document["data_type"]))
    if dims[0] != "sample":
        return Coordinate(name, unit, dtype, dims, shape)
    if len(dims) == 1:
        return Scalar(name, unit, dtype)
    chunk = tuple(int(n) for n in document["codecs"][0]["configuration"]["chunk_shape"])
    if min(chunk) < 1 or len(chunk) != len(dims):
        raise ValueError("chunk_shape")
    return Bulk(name, unit, dtype, dims[1:], shape[1:], per_shard, chunk)


def read_layout(store: str | Place, split: str | None = None, *, finished: bool = True) -> Layout:
    """The layout of one split of a store, as readers of its shard files need it.

    Parameters
    ----------
    finished : refuse a store that is not; otherwise look at its `commits` before its shards

    Raises
    ------
    NoStore, IncompleteStore, DamagedStore
        The store may not be read; the sentence says why and what to do.
    ValueError
        No such split, or none named where there is more than one.
    """
    root = read_root(store)
    if split is None and len(root.splits) == 1:
        split = next(iter(root.splits))
    if split is None or split not in root.splits:
        raise ValueError(f"{store} has the splits {', '.join(root.splits)}; {split!r} is not one of them")
    if finished and read_manifest(store) is None:
        raise _refusal(store)
    preflight(store, root)
    return plan_of(store, root, split)


def commits(plan: Layout) -> Iterator[Commit]:
    """What is made of a split, shard by shard, with the scalars of its samples."""
    looked = each(plan.store, partial(standing, plan, payload=True), range(plan.shards))
    return (commit for commit in looked if commit is not None)


def _refusal(store: str | Place) -> StoreError:
    found = status(store)
    kinds = {1: DamagedStore, 10: NoStore}
    return kinds.get(found.code, IncompleteStore)(found.sentence)


def check(plan: Layout) -> None:
    """Look for every file of a split of a finished store, at its exact size; DamagedStore names what is wrong."""
    files = plan.plain_files().items()
    shards = ((plan.file(name, k), size) for k in range(plan.shards) for name, size in plan.sizes(k).items())
    wrong: list[str] = []
    for path, size, kind in each(plan.store, _looked_at, chain(files, shards)):
        if kind is not None:
            held = kind not in ("missing", "no regular file")
            wrong.append(f"{path} has {path.stat().st_size} bytes instead of {size}" if held else f"{path} is {kind}")
    if wrong:
        more = f" and {len(wrong) - NAMED} more" if len(wrong) > NAMED else ""
        raise DamagedStore(f"{plan.store} is damaged: {'; '.join(wrong[:NAMED])}{more}; run "
                           f"`factory repair {plan.store}`")


def _looked_at(file: tuple[Place, int]) -> tuple[Place, int, str | None]:
    return *file, fault(*file)


def scalar_values(plan: Layout, name: str) -> Array:
    """A scalar of all samples, shape (samples,), checksums verified."""
    return _whole(plan, name)


def coordinate_values(plan: Layout, name: str) -> Array:
    """The values of a coordinate, checksum verified."""
    return _whole(plan, name)


def _whole(plan: Layout, name: str) -> Array:
    import zarr

    path = plan.folder / name
    kind = fault(path / "c.0")
    if kind is not None:  # a plain reader would give the fill value, or follow a link
        raise DamagedStore(f"{path / 'c.0'} is {kind}; run the same `factory make` again")
    try:
        return np.asarray(zarr.open_array(readable(path), mode="r", zarr_format=3)[...])
    except (ValueError, OSError) as error:
        raise DamagedStore(f"{path} cannot be read: {error}") from error


def open_store(store: str | Place) -> xr.DataTree:
    """A finished store as a tree with one group for each split; nothing is read until it is looked at.

    Raises
    ------
    NoStore, IncompleteStore, DamagedStore
        The store may not be read; the sentence says why and what to do.
    """
    root = read_root(store)
    if read_manifest(store) is None:
        raise _refusal(store)
    preflight(store, root)
    for split in root.splits:
        check(plan_of(store, root, split))
    try:
        return xr.open_datatree(readable(place(store)), engine="zarr")
    except ValueError as error:  # coordinates are read at once, and their checksums looked at
        raise DamagedStore(f"{store} cannot be read ({error}); `factory verify --deep {store}` says where") from error
