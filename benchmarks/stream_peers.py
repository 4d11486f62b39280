"""The same samples in the formats of others, and a reader for each; `benchmarks/stream.py` times them.

A reader is made once and then called for one pass after the other, each an iterator over batches of fresh tensors in an
order of its own.  Peers read in the process itself, without workers, and stack with NumPy, which is their fastest way
here; libraries that start threads of their own keep them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib.machinery import ModuleSpec
from math import prod
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import xarray as xr

from factory import floor
from factory.recipe import Recipe
from factory.recipe.model import Split, Variable
from factory.store import materialise
from factory.store.layout import layout
from factory.stream import Stream
from factory.stream.stored import Verify

SPLIT = "train"
BUFFER = 1000  # samples that WebDataset shuffles among: the figure of its documentation
WINDOW = 4  # shards that a reader of Zarr holds and shuffles
Batch = dict[str, torch.Tensor]
Passes = Callable[[], Iterator[Batch]]


@dataclass(frozen=True)
class Kind:
    """A type of sample: variables with their dtypes and shapes, and how many samples and batches of them."""

    title: str
    fields: dict[str, tuple[str, tuple[int, ...]]]
    samples: int
    batch: int

    @property
    def recipe(self) -> Recipe:
        """A recipe without draws and steps: only what the writer of stores asks of one."""
        variables = {name: Variable(name, "1", dtype, tuple(f"{name}_{k}" for k in range(len(shape))), shape)
                     for name, (dtype, shape) in self.fields.items()}  # fmt: skip
        split = Split(SPLIT, self.samples, (("sample", self.samples),), (), (), variables)
        return Recipe("bench", "", 0, f"seed: 0\nsamples: {self.samples}\n", "ab" * 32, {SPLIT: split}, None)

    @property
    def per_shard(self) -> int:
        return layout(self.recipe, SPLIT).per_shard

    @property
    def sample_bytes(self) -> int:
        return self.recipe.splits[SPLIT].sample_bytes

    def values(self, name: str, start: int, stop: int) -> Any:
        """Finite numbers that look random, a function of the place alone."""
        dtype, shape = self.fields[name]
        words = prod(shape) * np.dtype(dtype).itemsize // 4
        bits = np.arange(start * words, stop * words, dtype=np.uint64).astype(np.uint32)
        bits *= np.uint32(2654435761)  # odd: no two places have the same bits
        return (bits >> 9 | np.uint32(0x3F800000)).view(dtype).reshape(stop - start, *shape)

    def blocks(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """The first sample and all values of one shard after the other."""
        for start in range(0, self.samples, self.per_shard):
            stop = min(start + self.per_shard, self.samples)
            yield start, {name: self.values(name, start, stop) for name in self.fields}


def kinds(share: float) -> dict[str, Kind]:
    """The three types, with a share of the samples of a full run, in whole batches."""
    found = {
        "A": Kind("FID 2 kB", {"fid": ("complex64", (256,))}, 1 << 17, 1024),
        "B": Kind("patch 218 kB", {"signal": ("float32", (40, 40, 31)), "maps": ("float32", (40, 40, 3))}, 1 << 11, 32),
        "C": Kind("volumes 2.1 MB", dict.fromkeys(("image", "truth"), ("float32", (64, 64, 64))), 1 << 8, 8),
    }
    return {key: replace(kind, samples=kind.batch * max(1, int(share * kind.samples / kind.batch)))
            for key, kind in found.items()}  # fmt: skip


# --- writers ---------------------------------------------------------------------------------------------------------

def write_store(kind: Kind, folder: Path) -> None:
    def make(recipe: Recipe, split: str, start: int, stop: int) -> xr.Dataset:
        return xr.Dataset({v.name: (("sample", *v.dims), kind.values(v.name, start, stop), {"units": v.unit})
                           for v in recipe.splits[split].variables.values()})  # fmt: skip

    with patch.object(floor, "make", make):
        materialise(kind.recipe, folder / "store", threads=1, durable="process")


def write_npy(kind: Kind, folder: Path) -> None:
    for name, (dtype, shape) in kind.fields.items():
        file = np.lib.format.open_memmap(folder / f"{name}.npy", "w+", np.dtype(dtype), (kind.samples, *shape))
        for start in range(0, kind.samples, kind.per_shard):
            stop = min(start + kind.per_shard, kind.samples)
            file[start:stop] = kind.values(name, start, stop)
        file.flush()


def write_tar(kind: Kind, folder: Path) -> None:
    import webdataset

    (folder / "tar").mkdir()
    pattern = str(folder / "tar" / "%06d.tar")
    with webdataset.ShardWriter(pattern, maxcount=kind.per_shard, maxsize=1e12, encoder=False, verbose=0) as writer:
        for start, block in kind.blocks():
            for row in range(len(next(iter(block.values())))):
                sample = {name: values[row].tobytes() for name, values in block.items()}
                writer.write({"__key__": f"{start + row:09d}"} | sample)


def write_mds(kind: Kind, folder: Path) -> None:
    MDSWriter = _streaming().MDSWriter
    columns = {name: f"ndarray:float32:{','.join(map(str, _real(dtype, shape)))}"
               for name, (dtype, shape) in kind.fields.items()}  # fmt: skip
    with MDSWriter(out=str(folder / "mds"), columns=columns) as writer:
        for _, block in kind.blocks():
            real = {name: values.view(np.float32) for name, values in block.items()}
            for row in range(len(next(iter(real.values())))):
                writer.write({name: values[row] for name, values in real.items()})


def write_litdata(kind: Kind, folder: Path) -> None:
    from litdata.streaming.writer import BinaryWriter

    (folder / "litdata").mkdir()
    writer = BinaryWriter(str(folder / "litdata"), chunk_bytes="64MB")  # the size that its documentation shows
    for start, block in kind.blocks():
        tensors = {name: torch.from_numpy(values) for name, values in block.items()}
        for row in range(len(next(iter(tensors.values())))):
            writer[start + row] = {name: values[row] for name, values in tensors.items()}
    writer.done()
    writer.merge(1)


def _real(dtype: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape as float32: MDS has no complex numbers."""
    return (*shape[:-1], shape[-1] * np.dtype(dtype).itemsize // 4)


WRITERS = (write_store, write_npy, write_tar, write_mds, write_litdata)


# --- readers ---------------------------------------------------------------------------------------------------------

def ours(kind: Kind, folder: Path, seed: int = 0, verify: Verify = "once") -> Passes:
    stream = Stream(folder / "store", batch=kind.batch, seed=seed, verify=verify)
    return lambda: iter(stream)


def always(kind: Kind, folder: Path, seed: int = 0) -> Passes:
    return ours(kind, folder, seed, "always")


def memmap(kind: Kind, folder: Path, seed: int = 0) -> Passes:
    rng = np.random.default_rng(seed)
    files = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in kind.fields}

    def epoch() -> Iterator[Batch]:
        order = rng.permutation(kind.samples)
        for first in range(0, kind.samples, kind.batch):
            some = order[first : first + kind.batch]
            yield {name: torch.from_numpy(np.take(file, some, axis=0)) for name, file in files.items()}

    return epoch


def stacked(samples: list[dict[str, Any]]) -> Batch:
    names = [name for name in samples[0] if not name.startswith("__")]  # WebDataset's own
    return {name: torch.from_numpy(np.stack([sample[name] for sample in samples])) for name in names}


def webdataset(kind: Kind, folder: Path, seed: int = 0) -> Passes:
    import webdataset as wds

    def decoded(sample: dict[str, Any]) -> dict[str, Any]:
        return {name: np.frombuffer(sample[name], dtype).reshape(shape) for name, (dtype, shape) in kind.fields.items()}

    urls = sorted(map(str, (folder / "tar").iterdir()))
    data = wds.WebDataset(urls, shardshuffle=len(urls), seed=seed).shuffle(min(BUFFER, WINDOW * kind.per_shard))
    data = data.map(decoded).batched(kind.batch, collation_fn=stacked)
    return lambda: iter(data)


def mds(kind: Kind, folder: Path, seed: int = 0) -> Passes:
    streaming = _streaming()
    streaming.base.util.clean_stale_shared_memory()
    data = streaming.StreamingDataset(local=str(folder / "mds"), shuffle=True, shuffle_seed=seed, batch_size=kind.batch)
    loader = torch.utils.data.DataLoader(data, kind.batch, num_workers=0, collate_fn=stacked)
    dtypes = {name: getattr(torch, dtype) for name, (dtype, _) in kind.fields.items()}
    return lambda: ({name: tensor.view(dtypes[name]) for name, tensor in batch.items()} for batch in loader)


def litdata(kind: Kind, folder: Path, seed: int = 0) -> Passes:
    import litdata as library

    def stack(samples: list[Batch]) -> Batch:
        return {name: torch.stack([sample[name] for sample in samples]) for name in kind.fields}

    data = library.StreamingDataset(str(folder / "litdata"), shuffle=True, seed=seed)
    loader = library.StreamingDataLoader(data, batch_size=kind.batch, num_workers=0, collate_fn=stack)
    return lambda: iter(loader)


def _streaming() -> ModuleType:
    """MDS's library; it asks for torchvision, whose wheels may not fit the torch at hand, and needs it for pictures."""
    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError):
        for name, members in {"torchvision": (), "torchvision.datasets": ("VisionDataset",),
                              "torchvision.transforms": (), "torchvision.transforms.functional": ("to_tensor",),
                              }.items():  # fmt: skip
            sys.modules[name] = stub = ModuleType(name)
            stub.__spec__ = ModuleSpec(name, None)
            stub.__dict__.update(dict.fromkeys(members, object))
    import streaming
    import streaming.base.util

    return streaming


def _windows(kind: Kind, folder: Path, seed: int, read: Callable[[str], Callable[[int, int], Any]]) -> Passes:
    """Whole shards in a random order, and the samples of each window of them in a random order."""
    rng = np.random.default_rng(seed)
    readers = {name: read(str(folder / "store" / SPLIT / name)) for name in kind.fields}
    starts = np.arange(0, kind.samples, kind.per_shard)

    def epoch() -> Iterator[Batch]:
        shards = rng.permutation(starts).tolist()
        for first in range(0, len(shards), WINDOW):
            held = {name: np.concatenate([part(k, min(k + kind.per_shard, kind.samples))
                                          for k in shards[first : first + WINDOW]])
                    for name, part in readers.items()}  # fmt: skip
            order = rng.permutation(len(next(iter(held.values()))))
            for begin in range(0, len(order), kind.batch):
                some = order[begin : begin + kind.batch]
                yield {name: torch.from_numpy(np.take(values, some, axis=0)) for name, values in held.items()}

    return epoch


def _zarr(path: str) -> Callable[[int, int], Any]:
    import zarr

    array = zarr.open_array(path, mode="r")
    return lambda start, stop: array[start:stop]


def zarr_python(kind: Kind, folder: Path, seed: int = 0) -> Passes:
    return _windows(kind, folder, seed, _zarr)


def zarrs(kind: Kind, folder: Path, seed: int = 0) -> Passes:
    import zarr
    import zarrs  # noqa: F401  registers its pipeline

    zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"})
    return _windows(kind, folder, seed, _zarr)


def _tensorstore(path: str) -> Any:
    import tensorstore

    return tensorstore.open({"driver": "zarr3", "kvstore": {"driver": "file", "path": path}}, read=True).result()


def tensorstore(kind: Kind, folder: Path, seed: int = 0) -> Passes:
    def read(path: str) -> Callable[[int, int], Any]:
        array = _tensorstore(path)
        return lambda start, stop: array[start:stop].read().result()

    return _windows(kind, folder, seed, read)


def tensorstore_random(kind: Kind, folder: Path, seed: int = 0) -> Passes:
    """All reads of a batch at once, out of a global shuffle: tensorstore's way of reading scattered samples."""
    rng = np.random.default_rng(seed)
    arrays = {name: _tensorstore(str(folder / "store" / SPLIT / name)) for name in kind.fields}

    def epoch() -> Iterator[Batch]:
        order = rng.permutation(kind.samples)
        for first in range(0, kind.samples, kind.batch):
            some = order[first : first + kind.batch]
            coming = {name: array[some].read() for name, array in arrays.items()}
            yield {name: torch.from_numpy(read.result()) for name, read in coming.items()}

    return epoch


READERS: dict[str, Callable[[Kind, Path, int], Passes]] = {
    "ours": ours, "always": always, "np.memmap.take": memmap, "WebDataset": webdataset, "MDS": mds, "LitData": litdata,
    "zarr-python": zarr_python, "zarrs": zarrs, "tensorstore": tensorstore, "tensorstore, random": tensorstore_random,
}  # fmt: skip
