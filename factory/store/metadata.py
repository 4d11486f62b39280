"""The store's Zarr v3 metadata, written by us so that its bytes do not change with zarr-python's version.

Root attributes say what the store is: ``name`` and ``recipe`` (the flattened text), ``identity`` (sha256 of what
decides a sample's bytes), ``splits`` (samples, samples a shard, variables in the recipe's order), ``store_format``
and, once the store is finished, ``id``.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np

from factory.store.encode import encode_chunk
from factory.store.errors import DamagedStore, NoStore, StoreError
from factory.store.files import Place, open_regular, place
from factory.store.layout import Bulk, Coordinate, Layout, Scalar, layouts
from factory.store.objects import ObjectPath

if TYPE_CHECKING:
    import xarray as xr

    from factory.recipe import Recipe

FORMAT = 1
BOOKS = ".factory"  # commits, manifest, partial files and log: everything that is not Zarr
COPY = "root.json"  # of what the root says before the store is finished, should the root be lost
DOCUMENT_BYTES = 1 << 25  # a zarr.json is never larger
MEMBERS = 1024  # splits and variables of a store
STALE_SECONDS = 3600.0
Document = dict[str, Any]


@dataclass(frozen=True)
class Root:
    """What the root of a store says about it."""

    name: str  # of the recipe
    recipe: str
    identity: str
    splits: Mapping[str, Mapping[str, Any]]
    id: str | None


def dumps(document: Mapping[str, Any]) -> bytes:
    """Canonical JSON: the same document gives the same bytes."""
    return json.dumps(document, indent=1, ensure_ascii=True, default=_plain).encode() + b"\n"


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError(f"an attribute of the type {type(value).__name__} cannot be stored")


def array_document(item: Bulk | Scalar | Coordinate, plan: Layout, attrs: Mapping[str, Any],
                   samples: int | None = None) -> Document:
    """The ``zarr.json`` of one array; ``samples`` stands in for the split's own number (one shard's encoder)."""
    count = plan.samples if samples is None else samples
    dims: tuple[str, ...] = ("sample",)
    shape: tuple[int, ...] = (count,)
    chunk: tuple[int, ...] = (plan.scalar_chunk,)
    codecs = _checked_bytes(item.dtype)
    if isinstance(item, Coordinate):
        dims, shape, chunk = item.dims, item.shape, item.shape
    elif isinstance(item, Bulk):
        dims, shape, chunk = ("sample", *item.dims), (count, *item.shape), (item.per_shard, *item.shape)
        inside = {"chunk_shape": list(item.chunk), "codecs": codecs, "index_codecs": _checked_bytes("uint64"),
                  "index_location": "end"}
        codecs = [{"name": "sharding_indexed", "configuration": inside}]
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(shape),
        "data_type": item.dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(chunk)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
        "fill_value": _fill(item.dtype),
        "codecs": codecs,
        "attributes": dict(attrs),
        "dimension_names": list(dims),
        "storage_transformers": [],
    }


def _checked_bytes(dtype: str) -> list[Document]:
    bytes_codec: Document = {"name": "bytes"}
    if np.dtype(dtype).itemsize > 1:
        bytes_codec["configuration"] = {"endian": "little"}
    return [bytes_codec, {"name": "crc32c"}]


def _fill(dtype: str) -> Any:
    """NaN where a dtype has one: what is missing should never look like a measurement."""
    return {"f": "NaN", "c": ["NaN", "NaN"], "b": False}.get(np.dtype(dtype).kind, 0)


def group_document(attrs: Mapping[str, Any], members: Mapping[str, Document] | None = None) -> Document:
    """The ``zarr.json`` of a group, with the metadata of everything below it once the store is finished."""
    document: Document = {"zarr_format": 3, "node_type": "group", "attributes": dict(attrs)}
    if members is not None:
        document["consolidated_metadata"] = {"kind": "inline", "must_understand": False, "metadata": dict(members)}
    return document


def root_attributes(recipe: Recipe) -> Document:
    """What the root says before the store is finished."""
    splits = {
        name: {"samples": plan.samples, "per_shard": plan.per_shard, "variables": list(plan.order)}
        for name, plan in layouts(recipe).items()
    }
    return {"store_format": FORMAT, "name": recipe.name, "identity": recipe.identity, "splits": splits,
            "recipe": recipe.text}


def create(recipe: Recipe, store: Place) -> None:
    """Build the empty store beside its place and rename it: it is there with everything, or not at all.

    In an object store the root's metadata come last, and make it a store.
    """
    if isinstance(store, ObjectPath):
        restore(recipe, store)
        return
    _sweep(store)
    work = store.with_name(f"{store.name}.init-{uuid4().hex}")
    try:
        store.parent.mkdir(parents=True, exist_ok=True)
        work.mkdir()
        _fill_folder(recipe, work)
        os.rename(work, store)
    except OSError as error:
        shutil.rmtree(work, ignore_errors=True)
        if not (store / "zarr.json").exists():  # otherwise another run was first, and its store is as good
            raise StoreError(f"cannot create the store {store}: {error.strerror}; name a folder that you may write to"
                             ) from error
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise


def _sweep(store: Path) -> None:
    """Remove what creations of this store that were killed left behind."""
    name = re.compile(re.escape(store.name) + r"\.init-[0-9a-f]{32}")
    if not store.parent.is_dir():
        return
    for path in store.parent.iterdir():
        if name.fullmatch(path.name) and time.time() - path.stat().st_mtime > STALE_SECONDS:
            shutil.rmtree(path, ignore_errors=True)


def _fill_folder(recipe: Recipe, folder: Path) -> None:
    for path, data in beginnings(recipe, folder):
        _place(path, data)
    (folder / BOOKS / "commits").mkdir(parents=True)
    (folder / BOOKS / "log").mkdir()


def restore(recipe: Recipe, store: Place) -> None:
    """Write again what a new store begins with, where it is lost."""
    for path, data in beginnings(recipe, store):
        if not path.exists():
            _place(path, data)


def beginnings(recipe: Recipe, store: Place) -> Iterator[tuple[Place, bytes | memoryview]]:
    """The files of a store without samples: all metadata, and the coordinates; the root comes last."""
    from factory.floor import make

    for name, plan in layouts(recipe, store).items():
        probe = make(recipe, name, 0, 1)  # for attributes and coordinates, which all samples share
        for key, document in split_documents(plan, probe).items():
            yield store / name / key / "zarr.json", dumps(document)
        for key, item in plan.coordinates.items():
            yield store / name / key / item_key(item), encode_chunk(probe[key].to_numpy())
    root = dumps(group_document(root_attributes(recipe)))
    yield store / BOOKS / COPY, root
    yield store / "zarr.json", root


def item_key(item: Scalar | Coordinate, chunk: int = 0) -> str:
    """File name of a chunk of a plain array."""
    return "c.0" if isinstance(item, Coordinate) else f"c.{chunk}"


def split_documents(plan: Layout, probe: xr.Dataset) -> dict[str, Document]:
    """Array name -> its metadata; the split's group has the empty name."""
    documents = {"": group_document(probe.attrs)}
    for key in plan.order:
        documents[key] = array_document(plan.item(key), plan, probe[key].attrs)
    return documents


def _place(path: Place, data: bytes | memoryview) -> None:
    if isinstance(path, ObjectPath):
        path.write_bytes(data)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def read_document(path: Place) -> Document:
    """A ``zarr.json`` as a mapping.  DamagedStore when it is not one."""
    try:
        with open_regular(path) as file:
            text = file.read(DOCUMENT_BYTES + 1)
        if len(text) > DOCUMENT_BYTES:
            raise DamagedStore(f"{path} has more than {DOCUMENT_BYTES} bytes; metadata are never so large")
        document = json.loads(text)
    except FileNotFoundError:
        raise DamagedStore(f"{path} is missing") from None
    except (ValueError, OSError, RecursionError) as error:
        raise DamagedStore(f"{path} cannot be read: {error}") from error
    if not isinstance(document, dict) or not isinstance(document.get("attributes", {}), dict):
        raise DamagedStore(f"{path} is not Zarr metadata")
    return document


def read_root(store: str | Place) -> Root:
    """What the root of a store says.

    Raises
    ------
    NoStore
        Nothing there, or a folder that no run of ours made.
    DamagedStore
        Its metadata cannot be read.
    """
    path = place(store)
    if not (path / BOOKS / COPY).is_file() and not ((path / "zarr.json").is_file() and (path / BOOKS).is_dir()):
        if not path.exists():
            raise NoStore(f"there is no store at {path}; `factory make RECIPE {path}` makes one")
        raise NoStore(f"{path} is not a store of this factory (it has no zarr.json with a {BOOKS} folder beside it)")
    return _root(path, path / "zarr.json")


def read_copy(store: str | Place) -> Root:
    """The same from the copy among the store's books, which has no id."""
    return _root(place(store), place(store) / BOOKS / COPY)


def _root(path: Place, file: Place) -> Root:
    attrs = read_document(file).get("attributes", {})
    if "store_format" not in attrs:
        raise NoStore(f"{path} is a Zarr group, but not a store of this factory")
    if attrs["store_format"] != FORMAT:
        raise StoreError(f"{path} has the store format {attrs['store_format']}; this version reads {FORMAT}")
    try:
        splits: dict[str, Document] = {
            name: {"samples": int(s["samples"]), "per_shard": int(s["per_shard"]), "variables": tuple(s["variables"])}
            for name, s in attrs["splits"].items()
        }
        number = sum(1 + len(s["variables"]) for s in splits.values())
        if number > MEMBERS:  # here, so that no walk over a store is longer than it can be
            raise StoreError(f"{file} names {number} splits and variables; a store has at most {MEMBERS}")
        name, text, identity = str(attrs.get("name", "store")), str(attrs["recipe"]), str(attrs["identity"])
        return Root(name, text, identity, splits, attrs.get("id"))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DamagedStore(f"{file} lacks or garbles {error}") from error
