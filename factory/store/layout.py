"""Where every byte of a store lies: pure arithmetic on counts, shapes and item sizes.

A split is one Zarr group with one sample axis.  A *bulk* array (any dimension besides ``sample``) is cut into shards of
``per_shard`` samples, a shard into inner chunks of whole samples.  With the codec ``bytes + crc32c`` and no compressor
an inner chunk is its samples followed by four bytes of checksum, so a sample's address in a shard file is arithmetic::

    shard file   | chunk 0 | crc | chunk 1 | crc | ... | index: (offset, size) of each inner chunk | crc |

The layout of a split depends on its variables only, never on its number of samples: a split that grows later keeps
every full shard, and a small split merely has one short shard (a tail shard holds only the inner chunks that exist).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from factory.store.files import Place, place

if TYPE_CHECKING:
    from factory.recipe import Recipe, Split

SHARD_BYTES = 64_000_000  # of the largest array: the power of two below fills 32 to 64 MB
CHUNK_BYTES = 128_000  # least size of an inner chunk: smaller ones cost a reader more than they save
CHUNKS_PER_SHARD = 65_536  # what a careful reader still accepts
CRC_BYTES = 4
BOOKS_AND_ROOT = 5  # files: the root, the list of commits, the manifest; and copies of the first and the last
SCALAR_CHUNK = 1 << 22  # samples in one chunk of a per-sample scalar: 32 MB of float64
Task = tuple[str, int]  # split and shard
DTYPES = frozenset(
    {"bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"}
    | {"float32", "float64", "complex64", "complex128"}
)


class LayoutError(ValueError):
    """A variable that a store cannot hold; the sentence names it."""


@dataclass(frozen=True)
class Bulk:
    """An array with one block of numbers a sample; ``dims`` and ``shape`` are without the sample axis.

    ``chunk`` is the shape of an inner chunk with the sample axis first.
    """

    name: str
    unit: str
    dtype: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    per_shard: int
    chunk: tuple[int, ...]

    @property
    def sample_bytes(self) -> int:
        return int(prod(self.shape)) * np.dtype(self.dtype).itemsize

    @property
    def chunk_samples(self) -> int:
        """Samples in one inner chunk."""
        return self.chunk[0]

    @property
    def chunk_bytes(self) -> int:
        """Payload of one inner chunk."""
        return int(prod(self.chunk)) * np.dtype(self.dtype).itemsize

    @property
    def stride(self) -> int:
        """Bytes from one inner chunk to the next: payload and checksum."""
        return self.chunk_bytes + CRC_BYTES

    @property
    def pieces(self) -> int:
        """Inner chunks that one sample is cut into: 1, or more for a sample over 64 MB."""
        return self.shape[0] // self.chunk[1]

    @property
    def chunks_per_shard(self) -> int:
        return self.per_shard // self.chunk_samples * self.pieces

    def offset(self, row: int) -> int:
        """Where sample ``row`` of a shard begins in the shard's file.

        A sample in several ``pieces`` goes on every ``stride`` bytes, ``chunk_bytes`` at a time.
        """
        return row // self.chunk_samples * self.pieces * self.stride + row % self.chunk_samples * self.sample_bytes

    def chunks(self, samples: int) -> int:
        """Inner chunks that a shard of so many samples holds."""
        return -(-samples // self.chunk_samples) * self.pieces

    def size(self, samples: int) -> int:
        """Bytes of the file of a shard that holds ``samples`` samples."""
        return self.chunks(samples) * self.stride + self.chunks_per_shard * 16 + CRC_BYTES

    def key(self, shard: int) -> str:
        """The shard's file name inside the array's folder."""
        return ".".join(["c", str(shard), *["0"] * len(self.shape)])


@dataclass(frozen=True)
class Scalar:
    """One number a sample: it rides in the commits and becomes one plain array when the store is finished."""

    name: str
    unit: str
    dtype: str


@dataclass(frozen=True)
class Coordinate:
    """Named positions along one dimension, the same for every sample."""

    name: str
    unit: str
    dtype: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Layout:
    """One split of a store.  ``order`` names all variables as the recipe lists them; ``id`` only once finished."""

    split: str
    samples: int
    per_shard: int
    bulk: Mapping[str, Bulk]
    scalars: Mapping[str, Scalar]
    coordinates: Mapping[str, Coordinate]
    order: tuple[str, ...]
    store: str = ""
    identity: str = ""
    id: str | None = None

    def item(self, name: str) -> Bulk | Scalar | Coordinate:
        """A variable by its name."""
        return self.bulk.get(name) or self.scalars.get(name) or self.coordinates[name]

    @property
    def shards(self) -> int:
        return -(-self.samples // self.per_shard)

    @property
    def nbytes(self) -> int:
        """Bytes of all samples, without checksums and indexes."""
        return self.samples * self.sample_bytes

    @property
    def sample_bytes(self) -> int:
        scalars = sum(np.dtype(s.dtype).itemsize for s in self.scalars.values())
        return sum(b.sample_bytes for b in self.bulk.values()) + scalars

    @property
    def scalar_chunk(self) -> int:
        """Samples in one chunk file of a scalar array."""
        return max(1, min(SCALAR_CHUNK, self.samples))

    def span(self, shard: int) -> tuple[int, int]:
        """First sample of a shard and the one after its last."""
        if not 0 <= shard < self.shards:
            raise IndexError(f"split {self.split} has shards 0 to {self.shards - 1}, not {shard}")
        return shard * self.per_shard, min((shard + 1) * self.per_shard, self.samples)

    @property
    def folder(self) -> Place:
        """The split's folder."""
        return place(self.store) / self.split

    def file(self, name: str, shard: int) -> Place:
        """The file of one shard of one bulk array."""
        return self.folder / name / self.bulk[name].key(shard)

    def plain_files(self) -> dict[Place, int]:
        """Every file of the scalars and coordinates of a finished store, with its bytes."""
        folder = self.folder
        files: dict[Place, int] = {}
        for name, item in self.scalars.items():
            size = self.scalar_chunk * np.dtype(item.dtype).itemsize + CRC_BYTES
            files |= {folder / name / f"c.{k}": size for k in range(-(-self.samples // self.scalar_chunk))}
        for name, axis in self.coordinates.items():
            files[folder / name / "c.0"] = int(prod(axis.shape)) * np.dtype(axis.dtype).itemsize + CRC_BYTES
        return files

    def sizes(self, shard: int) -> dict[str, int]:
        """Bytes of each bulk array's file of a shard."""
        start, stop = self.span(shard)
        return {name: bulk.size(stop - start) for name, bulk in self.bulk.items()}


@dataclass(frozen=True)
class Estimate:
    """What a store will weigh, before any sample is made.  ``shard_bytes`` is the largest shard, all arrays."""

    samples: int
    nbytes: int
    files: int
    shards: int
    shard_bytes: int


def layout(recipe: Recipe, split: str, store: str | Place = "") -> Layout:
    """The layout of one split of a recipe."""
    plan = recipe.splits[split]
    variables = list(plan.variables.values())
    for v in variables:
        _check(v.name, v.dtype, v.shape)
    per_sample = [v for v in variables if not v.coordinate]
    bulk = [v for v in per_sample if v.dims]
    scalars = {v.name: Scalar(v.name, v.unit, v.dtype) for v in per_sample if not v.dims}
    per_shard = samples_per_shard(plan, recipe.shard)
    return Layout(
        split=split,
        samples=plan.samples,
        per_shard=per_shard,
        bulk={
            v.name: Bulk(v.name, v.unit, v.dtype, v.dims, v.shape, per_shard, inner_chunk(v.dtype, v.shape, per_shard))
            for v in bulk
        },
        scalars=scalars,
        coordinates={v.name: Coordinate(v.name, v.unit, v.dtype, v.dims, v.shape) for v in variables if v.coordinate},
        order=tuple(v.name for v in variables),
        store=str(store),
        identity=recipe.identity,
    )


def samples_per_shard(split: Split, wanted: int | None = None) -> int:
    """Samples in a shard: what the recipe says, else the power of two that fills 32 to 64 MB of the largest array.

    All scalars together count as one array, because they ride in one commit.  A sample over 64 MB is its own shard,
    whatever the recipe says.
    """
    per_sample = [v for v in split.variables.values() if not v.coordinate]
    largest = max([v.nbytes for v in per_sample if v.dims], default=0)
    largest = max(largest, sum(v.nbytes for v in per_sample if not v.dims), 1)
    fitting = SHARD_BYTES // largest
    if fitting == 0:
        return 1
    return wanted or 1 << (fitting.bit_length() - 1)


def inner_chunk(dtype: str, shape: tuple[int, ...], per_shard: int) -> tuple[int, ...]:
    """Shape of an inner chunk: the fewest whole samples with 128 kB that divide a shard evenly.

    A sample over 64 MB is cut along its slowest dimension by the same rule.
    """
    row = int(prod(shape)) * np.dtype(dtype).itemsize
    if row <= SHARD_BYTES:
        return (_divisor(per_shard, row), *shape)
    return (1, _divisor(shape[0], row // shape[0]), *shape[1:])


def _divisor(count: int, nbytes: int) -> int:
    """The smallest divisor of ``count`` items of ``nbytes`` that reaches the least chunk size; all items otherwise."""
    for part in range(1, count + 1):
        if count % part == 0 and part * nbytes >= CHUNK_BYTES and count // part <= CHUNKS_PER_SHARD:
            return part
    return count


def _check(name: str, dtype: str, shape: tuple[int, ...]) -> None:
    if dtype not in DTYPES:
        raise LayoutError(f"variable {name!r} has the dtype {dtype}; a store holds {', '.join(sorted(DTYPES))}")
    if 0 in shape:
        raise LayoutError(f"variable {name!r} has the shape {shape}: a dimension of size 0 holds nothing to store")


def layouts(recipe: Recipe, store: str | Place = "") -> dict[str, Layout]:
    """The layout of every split, in the recipe's order."""
    return {name: layout(recipe, name, store) for name in recipe.splits}


def tasks(plans: Mapping[str, Layout]) -> Iterator[Task]:
    """Every (split, shard) of a store, in order."""
    return ((name, shard) for name, plan in plans.items() for shard in range(plan.shards))


def estimate(recipe: Recipe) -> Estimate:
    """Bytes, files and shards of a recipe's store: arithmetic only, nothing is made."""
    plans = layouts(recipe).values()
    shards = sum(p.shards for p in plans)
    weights = [sum(p.sizes(0).values()) + _scalar_bytes(p) * min(p.per_shard, p.samples) for p in plans if p.shards]
    return Estimate(
        samples=sum(p.samples for p in plans),
        nbytes=sum(_split_bytes(p) for p in plans),
        files=BOOKS_AND_ROOT + sum(_split_files(p) for p in plans),
        shards=shards,
        shard_bytes=max(weights, default=0),
    )


def _scalar_bytes(plan: Layout) -> int:
    return sum(np.dtype(s.dtype).itemsize for s in plan.scalars.values())


def _split_bytes(plan: Layout) -> int:
    if not plan.shards:
        return 0
    first, last = sum(plan.sizes(0).values()), sum(plan.sizes(plan.shards - 1).values())
    # Scalars lie there twice: in the commits and, once finished, as arrays.
    return first * (plan.shards - 1) + last + 2 * plan.samples * _scalar_bytes(plan)


def _split_files(plan: Layout) -> int:
    scalar_files = len(plan.scalars) * -(-plan.samples // plan.scalar_chunk)
    metadata = 1 + len(plan.bulk) + len(plan.scalars) + 2 * len(plan.coordinates)
    return plan.shards * (len(plan.bulk) + 1) + scalar_files + metadata
