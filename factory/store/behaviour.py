"""Does the code that is about to go on with a store still make the samples that lie in it?

A store remembers, in its log, which code, versions and CPU worked on it.  A run by something new first remakes the
first and the last sample of the first committed shard of each split and compares bytes.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING

import numpy as np
import xxhash

from factory import cache, device
from factory.store.commit import Commit, standing
from factory.store.encode import decode
from factory.store.errors import AnotherRecipe, DamagedStore
from factory.store.files import open_regular, place
from factory.store.layout import Bulk, Layout
from factory.store.metadata import BOOKS, array_document
from factory.units import Array

if TYPE_CHECKING:
    from factory.recipe import Recipe

Fingerprint = dict[str, str]


def fingerprint() -> Fingerprint:
    """What may change a sample's bytes besides the recipe: sources, Python, NumPy, numba, CPU, graphics card."""
    card = {"card": device.card(), "numba-cuda": version("numba-cuda")} if device.chosen() == "cuda" else {}
    return card | {"source": cache.sources_digest(), "python": platform.python_version(), "cpu": cache.cpu(),
            "numpy": version("numpy"), "numba": version("numba"), "zarr": version("zarr")}


def probe(recipe: Recipe, plans: Mapping[str, Layout]) -> bool:
    """Remake a few committed samples and compare; False when nothing is committed yet.

    Raises
    ------
    AnotherRecipe
        A sample came out different; the sentence names split, sample and variable.
    DamagedStore
        The shard to compare with is damaged.
    """
    seen = False
    for name, plan in plans.items():
        shards = (standing(plan, shard, payload=True) for shard in range(plan.shards))
        commit = next((one for one in shards if one is not None), None)
        if commit is not None:
            seen = True
            for sample in dict.fromkeys([commit.start, commit.stop - 1]):
                _compare(recipe, name, plan, commit, sample)
    return seen


def _compare(recipe: Recipe, name: str, plan: Layout, commit: Commit, sample: int) -> None:
    from factory.floor import make

    made = make(recipe, name, sample, sample + 1)
    for key in [*plan.bulk, *plan.scalars]:
        if key in plan.bulk:
            stored = _stored(plan, plan.bulk[key], commit)[sample - commit.start]
        else:
            stored = commit.values(key, plan.scalars[key].dtype)[sample - commit.start]
        fresh = made[key].to_numpy()[0]
        if np.asarray(stored).tobytes() != np.asarray(fresh).tobytes():
            raise AnotherRecipe(
                f"split {name}, sample {sample}: {key!r} comes out different from what the store holds. The recipe is "
                "the same, so the code, a library or the CPU behaves differently now. Go on with what made the store "
                f"(see {place(plan.store) / BOOKS / 'log'}), or make a new one.")


def _stored(plan: Layout, bulk: Bulk, commit: Commit) -> Array:
    path = plan.file(bulk.name, commit.shard)
    with open_regular(path) as file:
        data = file.read()
    if xxhash.xxh3_128_hexdigest(data) != commit.files[bulk.name][1]:
        raise DamagedStore(f"{path} was altered after it was written; delete it and run the same `factory make` again")
    document = array_document(bulk, plan, {}, commit.samples)
    return decode(document, bulk.key(0), data)
