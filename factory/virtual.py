"""A data set that is not made yet: ``xr.open_dataset("rim_t1", engine="factory", split="train")``.

It opens at once whatever its size, and a selection makes exactly the samples that it asks for.  xarray's own lazy
arrays expand a pointwise selection or a transpose into index arrays as long as the axis (86 s for 10**9 samples); here
every kind of indexing is composed as ranges and short index arrays, so no step costs more than what was selected.

Heavy rooms are imported inside functions: xarray imports this file whenever it looks for a backend, in any program.
"""

from __future__ import annotations

import os
import re
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from math import prod
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from xarray.backends import BackendEntrypoint
from xarray.core.indexing import BasicIndexer, ExplicitlyIndexedNDArrayMixin, OuterIndexer, VectorizedIndexer

if TYPE_CHECKING:
    from factory.recipe import Recipe, Split, Variable

Array = NDArray[Any]
Part = range | Array
KEPT_BYTES = 256 * 2**20  # samples made lately, all virtual data sets of one process together
BLOCK_BYTES = 32 * 2**20  # samples made at once for a large selection
MOST_CHUNKS = 16_384  # Dask spends 0.1 s on so many; a longer axis gets larger chunks
RECIPE_BYTES = 256_000
_KEY = re.compile(rb"^(splits|chain|draw|like)\s*:", re.MULTILINE)


@dataclass(frozen=True)
class Selection:
    """Which elements of an array were selected, whatever was asked for in which order.

    Each axis of the array has a part: a range, or an array of indices.  All index arrays broadcast against each other
    to ``vectors`` axes; these come first, the ranges' axes follow in order, and result axis i is number ``order[i]`` of
    them.
    """

    parts: tuple[Part, ...]
    vectors: int
    order: tuple[int, ...]

    @classmethod
    def everything(cls, shape: Sequence[int]) -> Selection:
        return cls(tuple(range(n) for n in shape), 0, tuple(range(len(shape))))

    @property
    def inner_shape(self) -> tuple[int, ...]:
        arrays = np.broadcast_shapes((1,) * self.vectors, *(p.shape for p in self.parts if not isinstance(p, range)))
        return (*arrays, *(len(p) for p in self.parts if isinstance(p, range)))

    @property
    def shape(self) -> tuple[int, ...]:
        inner = self.inner_shape
        return tuple(inner[axis] for axis in self.order)

    def transpose(self, order: Sequence[int]) -> Selection:
        return Selection(self.parts, self.vectors, tuple(self.order[i] for i in order))

    def outer(self, key: Sequence[Any]) -> Selection:
        """Each result axis indexed by itself with an integer, a slice or a one-dimensional array."""
        asked = {axis: _plain(k) for axis, k in zip(self.order, key, strict=True)}
        sizes = self.inner_shape
        gone = [axis for axis, k in asked.items() if isinstance(k, int)]
        old = [axis for axis in range(self.vectors) if axis not in gone]
        fresh = [axis for axis in sorted(asked) if axis >= self.vectors and isinstance(asked[axis], np.ndarray)]
        vectors, place = len(old) + len(fresh), {axis: i for i, axis in enumerate([*old, *fresh])}
        parts: list[Part] = []
        axis = self.vectors
        for part in self.parts:
            if isinstance(part, range):
                k = asked[axis]
                if isinstance(k, slice):
                    place[axis] = vectors + sum(isinstance(p, range) for p in parts)
                    parts.append(part[k])
                elif isinstance(k, int):
                    parts.append(np.full((1,) * vectors, part[k], np.int64))
                else:
                    lengths = [-1 if i == place[axis] else 1 for i in range(vectors)]
                    parts.append(_along(part, k).reshape(lengths))
                axis += 1
            else:
                for i in reversed(range(self.vectors)):
                    part = _take(part, i, asked[i], sizes[i])
                parts.append(part.reshape(part.shape + (1,) * len(fresh)))
        return Selection(tuple(parts), vectors, tuple(place[axis] for axis in self.order if axis not in gone))

    def points(self, key: Sequence[Any]) -> Selection:
        """Index arrays that broadcast against each other go first; axes with a slice follow in order."""
        asked = dict(zip(self.order, key, strict=True))
        sizes = self.inner_shape
        arrays = {axis: np.asarray(k) for axis, k in asked.items() if not isinstance(k, slice)}
        for axis, k in arrays.items():
            _along(range(sizes[axis]), k)  # refuses what lies outside
        new = max((k.ndim for k in arrays.values()), default=0)
        old = [axis for axis in range(self.vectors) if axis not in arrays]
        vectors, place = new + len(old), {axis: new + i for i, axis in enumerate(old)}
        parts: list[Part] = []
        axis = self.vectors
        for part in self.parts:
            if isinstance(part, range):
                if axis in arrays:
                    parts.append(_along(part, arrays[axis]).reshape(arrays[axis].shape + (1,) * len(old)))
                else:
                    place[axis] = vectors + sum(isinstance(p, range) for p in parts)
                    parts.append(part[asked[axis]])
                axis += 1
            else:
                for i in old:
                    part = _take(part, i, asked[i], sizes[i])
                parts.append(_pick(part, {i: k for i, k in arrays.items() if i < self.vectors}, new, sizes))
        rest = tuple(place[axis] for axis in self.order if axis not in arrays)
        return Selection(tuple(parts), vectors, (*range(new), *rest))


def _plain(key: Any) -> Any:
    return key if isinstance(key, slice | np.ndarray) else int(key)


def _along(part: range, index: Array) -> Array:
    """Elements of a range at an index array, negative ones counted from its end."""
    index = index.astype(np.int64, copy=False)
    if index.size and (index.min() < -len(part) or index.max() >= len(part)):
        raise IndexError(f"an index lies outside an axis of {len(part)}: {index.min()} to {index.max()} were asked for")
    return np.where(index < 0, index + len(part), index) * part.step + part.start


def _take(part: Array, axis: int, key: Any, size: int) -> Array:
    """Index one of the broadcast axes of an index array that may be 1 long where the others are ``size`` long."""
    if part.shape[axis] != size:  # this array does not vary along the axis
        return np.take(part, 0, axis) if isinstance(key, int) else part
    return part[(slice(None),) * axis + (key,)]


def _pick(part: Array, keys: Mapping[int, Array], new: int, sizes: Sequence[int]) -> Array:
    """Index some of the broadcast axes pointwise; the ``new`` axes of the result come first."""
    moved = np.moveaxis(part, list(keys), range(len(keys)))
    varies = {axis: part.shape[axis] == sizes[axis] for axis in keys}
    if not any(varies.values()):
        rest = moved[(0,) * len(keys)]
        return np.asarray(rest).reshape((1,) * new + rest.shape)
    return np.asarray(moved[tuple(k if varies[axis] else np.zeros_like(k) for axis, k in keys.items())])


class Made:
    """Samples made lately: blocks of one (recipe, split) each, bounded in bytes, safe under threads."""

    def __init__(self, limit: int):
        self.limit, self.held = limit, 0
        self.blocks: OrderedDict[tuple[Any, ...], xr.Dataset] = OrderedDict()
        self.lock = Lock()
        self.busy: dict[tuple[Any, ...], Lock] = {}

    def block(self, recipe: Recipe, split: str, samples: Array) -> xr.Dataset:
        """Samples in ascending order, made once even if several threads ask for their variables."""
        key = (recipe, split, sha256(samples.tobytes()).digest())
        with self.lock:
            if (held := self._find(key)) is not None:
                return held
            turn = self.busy.setdefault(key, Lock())
        with turn:
            try:
                with self.lock:
                    if (held := self._find(key)) is not None:
                        return held
                made = _checked(recipe, split, samples)
                with self.lock:
                    self.blocks[key] = made
                    self.held += made.nbytes
                    while self.held > self.limit:
                        self.held -= self.blocks.popitem(last=False)[1].nbytes
                return made
            finally:
                with self.lock:
                    self.busy.pop(key, None)

    def _find(self, key: tuple[Any, ...]) -> xr.Dataset | None:
        if key in self.blocks:
            self.blocks.move_to_end(key)
            return self.blocks[key]
        return None


_made = Made(KEPT_BYTES)


def _checked(recipe: Recipe, split: str, samples: Array) -> xr.Dataset:
    from factory.floor import make_at

    made = make_at(recipe, split, samples)
    for name, values in _known_coordinates(recipe, split).items():
        if not np.array_equal(made[name].values, values):
            raise ValueError(f"recipe {recipe.name}: a step was told that {name} is {values} but it made "
                             f"{made[name].values}; its constants and its output must agree")
    return made


class VirtualArray(ExplicitlyIndexedNDArrayMixin):
    """One variable of a split, a selection of it, nothing made until its values are asked for."""

    __slots__ = ("name", "recipe", "selection", "split")

    def __init__(self, recipe: Recipe, split: str, name: str, selection: Selection):
        self.recipe, self.split, self.name, self.selection = recipe, split, name, selection

    def __reduce__(self) -> tuple[Any, ...]:
        return VirtualArray, (self.recipe, self.split, self.name, self.selection)

    def __repr__(self) -> str:
        return f"VirtualArray({self.name!r} of {self.recipe.name}/{self.split}, shape={self.shape}, not made yet)"

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self._variable.dtype)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.selection.shape

    @property
    def _variable(self) -> Variable:
        return self.recipe.splits[self.split].variables[self.name]

    def _with(self, selection: Selection) -> VirtualArray:
        return VirtualArray(self.recipe, self.split, self.name, selection)

    def __getitem__(self, indexer: Any) -> VirtualArray:
        if isinstance(indexer, VectorizedIndexer):
            return self._vindex_get(indexer)
        return self._with(self.selection.outer(indexer.tuple))

    def _oindex_get(self, indexer: OuterIndexer | BasicIndexer) -> VirtualArray:
        return self._with(self.selection.outer(indexer.tuple))

    def _vindex_get(self, indexer: VectorizedIndexer) -> VirtualArray:
        return self._with(self.selection.points(indexer.tuple))

    def transpose(self, order: Sequence[int]) -> VirtualArray:
        return self._with(self.selection.transpose(order))

    async def async_get_duck_array(self) -> Array:
        return self.get_duck_array()

    def get_duck_array(self) -> Array:
        """Make the selected samples and take from them what was selected."""
        chosen, shape = self.selection, self.shape
        if 0 in shape:
            return np.empty(shape, self.dtype)
        samples, positions = _distinct(chosen.parts[0])
        boxes = [_box(part) for part in chosen.parts[1:]]
        held = self._room(len(samples), [box.stop - box.start for box in boxes])
        for place, block in _blocks(samples, self.recipe.splits[self.split]):
            made = _made.block(self.recipe, self.split, block)[self.name].values
            held[place : place + len(block)] = made[(slice(None), *boxes)]
        local = [positions, *(_shifted(part, box.start) for part, box in zip(chosen.parts[1:], boxes, strict=True))]
        pointed = [axis for axis, part in enumerate(local) if not isinstance(part, slice)]
        ranged = [part for part in local if isinstance(part, slice)]
        result = np.moveaxis(held, pointed, range(len(pointed)))
        if pointed:
            result = result[tuple(part for part in local if not isinstance(part, slice))]
        key: tuple[Any, ...] = (..., *ranged)
        return np.asarray(result[key].transpose(chosen.order))

    def _room(self, samples: int, inner: list[int]) -> Array:
        try:
            return np.empty((samples, *inner), self.dtype)
        except (MemoryError, ValueError):
            gigabytes = samples * prod(inner) * self.dtype.itemsize / 1e9
            raise MemoryError(
                f"{self.name} of {self.recipe.name}/{self.split}: the selection has {samples} samples, "
                f"{gigabytes:.3g} GB; select fewer with .isel(sample=slice(...)) before asking for values"
            ) from None


def _distinct(part: Part) -> tuple[Part, Array | slice]:
    """The samples to make, ascending and once each, and where the selected ones stand among them."""
    if isinstance(part, range):
        return (part, slice(None)) if part.step > 0 else (part[::-1], slice(None, None, -1))
    samples, positions = np.unique(part, return_inverse=True)
    return samples, positions.reshape(part.shape)


def _box(part: Part) -> slice:
    """The smallest slice that holds a part."""
    if isinstance(part, range):
        return slice(min(part[0], part[-1]), max(part[0], part[-1]) + 1)
    return slice(int(part.min()), int(part.max()) + 1)


def _shifted(part: Part, by: int) -> Array | slice:
    if not isinstance(part, range):
        return part - by
    stop = part.stop - by
    return slice(part.start - by, stop if stop >= 0 else None, part.step)


def _blocks(samples: Part, plan: Split) -> Iterator[tuple[int, Array]]:
    """(place, samples): ascending distinct samples in blocks, none larger than `BLOCK_BYTES`.

    What outer draws share may be larger than the samples: a block never needs more of them than one without gaps.
    """
    longest = max(1, BLOCK_BYTES // max(1, plan.sample_bytes))
    shared = plan.strides[-2] if len(plan.strides) > 1 else plan.samples
    most = longest // shared + 2
    place = 0
    while place < len(samples):
        part = samples[place : place + longest]
        block = np.arange(part.start, part.stop, part.step) if isinstance(part, range) else part
        outer = np.flatnonzero(np.diff(block // shared)) + 1  # where all but the first begin
        block = block[: outer[most - 1]] if len(outer) >= most else block
        yield place, block
        place += len(block)


@lru_cache(maxsize=64)
def _known_coordinates(recipe: Recipe, split: str) -> Mapping[str, Array]:
    """Coordinates that a recipe spells out: a list constant of that name, or what `@step(coordinates=...)` says."""
    from factory.recipe.checking import CATEGORIES

    plan, known = recipe.splits[split], {}
    for v in plan.variables.values():
        if v.coordinate and v.name in CATEGORIES:
            known[v.name] = np.arange(len(CATEGORIES[v.name]), dtype=v.dtype)
        for link in plan.chain if v.coordinate else ():
            stated = link.step.coordinates(**link.constants) if link.step.coordinates else {}
            for output, variable in link.outputs.items():
                constant = link.step.constants.get(output)
                listed = constant is not None and constant.kind == "quantities"
                if variable == v.name and (listed or output in stated):
                    known[v.name] = np.array(link.constants[output] if listed else stated[output], dtype=v.dtype)
    return known


@lru_cache(maxsize=64)
def _coordinates(recipe: Recipe, split: str) -> Mapping[str, Array]:
    """All coordinates; those that a step computes come from the first sample."""
    known = dict(_known_coordinates(recipe, split))
    missing = [v.name for v in recipe.splits[split].variables.values() if v.coordinate and v.name not in known]
    if missing:
        made = _made.block(recipe, split, np.arange(1))
        known |= {name: made[name].values for name in missing}
    return known


class FactoryBackend(BackendEntrypoint):
    """xarray's door: ``xr.open_dataset(recipe, engine="factory", split="train")``."""

    description: ClassVar[str] = "Labelled synthetic MR samples, made from a recipe when they are looked at"
    open_dataset_parameters: ClassVar[tuple[str, ...] | None] = (
        "filename_or_obj", "drop_variables", "split", "samples", "set")

    def guess_can_open(self, filename_or_obj: Any) -> bool:
        """True for a packaged recipe's name and for a YAML file with a recipe's keys, for nothing else."""
        if not isinstance(filename_or_obj, str | os.PathLike):
            return False
        path = Path(filename_or_obj)
        if path.suffix in (".yaml", ".yml"):
            return _is_recipe(path)
        text = str(filename_or_obj)
        if not re.fullmatch(r"\w+", text) or path.exists():
            return False
        from factory.recipe import names

        return text in names()

    def open_dataset(
        self,
        filename_or_obj: Any,
        *,
        drop_variables: str | Iterable[str] | None = None,
        split: str | None = None,
        samples: Mapping[str, int] | None = None,
        set: Mapping[str, str] | None = None,
    ) -> xr.Dataset:
        """A split of a recipe (name, path or `Recipe`), not made yet; ``samples`` and ``set`` as in `factory.load`."""
        from factory.recipe import Recipe, load

        given = isinstance(filename_or_obj, Recipe)
        recipe = filename_or_obj if given else load(filename_or_obj, samples=samples, set=set)
        if given and (samples or set):
            raise ValueError("samples and set belong to a recipe's name or path; this recipe is loaded already")
        dropped = {drop_variables} if isinstance(drop_variables, str) else {*(drop_variables or ())}
        return _virtual(recipe, recipe.split(split), dropped)


def _is_recipe(path: Path) -> bool:
    if not path.is_file() or path.stat().st_size > RECIPE_BYTES:
        return False
    found = {m.group(1) for m in _KEY.finditer(path.read_bytes())}
    return b"like" in found or {b"splits", b"chain"} <= found


def _virtual(recipe: Recipe, plan: Split, dropped: Iterable[str]) -> xr.Dataset:
    from factory.floor import label

    empty = {v.name: np.empty(v.shape if v.coordinate else (0, *v.shape), v.dtype) for v in plan.variables.values()}
    template = label(recipe, plan, {name: array for name, array in empty.items() if name in plan.ports})
    coordinates = _coordinates(recipe, plan.name)
    chunk = _chunk(recipe, plan)
    data, coords = {}, {}
    for name, v in plan.variables.items():
        if name in dropped:
            continue
        attrs = template.variables[name].attrs
        if v.coordinate:
            coords[name] = xr.Variable(v.dims, coordinates[name], attrs)
            continue
        array = VirtualArray(recipe, plan.name, name, Selection.everything((plan.samples, *v.shape)))
        data[name] = xr.Variable(("sample", *v.dims), array, attrs, {"preferred_chunks": {"sample": chunk}})
    result = xr.Dataset(data, coords, template.attrs)
    result.encoding["source"] = recipe.name
    return result


def _chunk(recipe: Recipe, plan: Split) -> int:
    """Samples of one Dask chunk: a shard, or the power of two times it that keeps the number of chunks bounded."""
    from factory.store.layout import samples_per_shard

    chunk = samples_per_shard(plan, recipe.shard)
    while plan.samples > MOST_CHUNKS * chunk:
        chunk *= 2
    return chunk


def open(source: Any, split: str | None = None, **options: Any) -> Any:
    """Open a finished store, or a recipe as a data set whose samples are made when they are looked at.

    Parameters
    ----------
    source : path of a store; name or path of a recipe; or a `Recipe`
    split : which split; a store without it opens whole, a recipe with several needs it
    options : for recipes: ``chunks``, ``samples``, ``set``, ``drop_variables``

    Returns
    -------
    xr.DataTree for a store without ``split``, xr.Dataset otherwise; dims ``("sample", ...)``.

    Raises
    ------
    factory.store.StoreError
        The folder is no finished store of ours.
    factory.recipe.RecipeError
        Every fault of the recipe.
    ValueError
        The split does not exist or must be named; the sentence lists the splits.
    """
    if isinstance(source, str | os.PathLike) and Path(source).is_dir():
        return _opened(source, split, options)
    return xr.open_dataset(source, engine=FactoryBackend, split=split, **options)


def _opened(store: str | os.PathLike[str], split: str | None, options: Mapping[str, Any]) -> Any:
    from factory.store import open_store

    if options:
        raise ValueError(f"{', '.join(options)} belong to recipes; {store} is a store")
    tree = open_store(os.fspath(store))
    if split is None:
        return tree
    if split not in tree.children:
        raise ValueError(f"{store} has no split {split!r}; it has {', '.join(tree.children)}")
    return tree[split].to_dataset()
