"""Does the code that is about to go on with a store still make the samples that lie in it?

A store remembers, in its log, which code, versions and CPU worked on it.  A run by something new first remakes the
first and the last sample of the first committed shard of each split and compares bytes.
"""

from __future__ import annotations

import getpass
import json
import platform
import socket
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import xxhash

import factory
from factory import cache
from factory.store.commit import Commit, standing
from factory.store.encode import decode
from factory.store.errors import AnotherRecipe, DamagedStore
from factory.store.files import Place, open_regular, place
from factory.store.layout import Bulk, Layout
from factory.store.metadata import BOOKS, array_document, dumps
from factory.units import Array

if TYPE_CHECKING:
    from factory.recipe import Recipe

Fingerprint = dict[str, str]


def fingerprint() -> Fingerprint:
    """What may change a sample's bytes besides the recipe: sources, Python, NumPy, numba, CPU."""
    return {"source": cache.sources_digest(), "python": platform.python_version(), "cpu": cache.cpu(),
            "numpy": version("numpy"), "numba": version("numba"), "zarr": version("zarr")}


def known(store: Place) -> Iterator[Fingerprint]:
    """The fingerprints of the runs that worked on a store."""
    folder = store / BOOKS / "log"
    paths = folder.iterdir() if folder.is_dir() else iter(())
    for path in sorted((p for p in paths if p.name.endswith(".json")), key=str):
        try:
            yield dict(json.loads(path.read_bytes())["fingerprint"])
        except (ValueError, KeyError, TypeError, OSError):
            continue  # the log is for people: a line of it that is lost costs one probe


def record(store: Place, run: str, mine: Mapping[str, str], probed: bool) -> None:
    """Log that a run begins: no hash and no comparison includes it."""
    now = datetime.now(UTC)
    try:
        who = getpass.getuser()
    except (KeyError, OSError):
        who = ""
    facts = {"run": run, "began": now.isoformat(timespec="seconds"), "who": who, "host": socket.gethostname(),
             "probed": probed, "factory": factory.__version__, "fingerprint": dict(mine)}
    folder = store / BOOKS / "log"
    if isinstance(folder, Path):
        folder.mkdir(exist_ok=True)
    (folder / f"{now:%Y%m%dT%H%M%S}-{run}.json").write_bytes(dumps(facts))


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
