"""From a recipe to a finished store: decide what is missing, have it made, finish.

Nothing here knows what a sample is.  Shards are made by a plain loop, by threads or by the workers of a Dask client;
the bytes are the same, because a shard depends on the recipe and its index alone.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from factory.device import Device, choose, demand, missing
from factory.store import behaviour
from factory.store.care import open_store
from factory.store.commit import Commit, standing, write
from factory.store.compare import changed_lines
from factory.store.drop import Durable, drop_into
from factory.store.errors import AnotherRecipe, NoStore, StoreError
from factory.store.files import Place, each, open_regular, place
from factory.store.finish import clear_partial, finalise, read_manifest, unfinish
from factory.store.journal import Journal, known
from factory.store.layout import Layout, Task, layouts, tasks
from factory.store.memory import fitting
from factory.store.metadata import beginnings, create, read_document, read_root
from factory.store.objects import ObjectPath
from factory.store.progress import Progress, Silent
from factory.store.workers import on_workers

if TYPE_CHECKING:
    import xarray as xr
    from distributed import Client

    from factory.recipe import Recipe

IN_FLIGHT = 2  # shards that wait or run for each thread: keeps workers busy and the driver's memory flat
DIFFERENCES = 20  # lines of two recipes that a refusal shows

Write = Callable[[str, int], Commit]


def materialise(recipe: Recipe, store: str | Place, client: Client | None = None, *, threads: int | None = None,
                progress: Progress | None = None, durable: Durable = "power", device: Device | None = None
                ) -> xr.DataTree:
    """Make every sample of a recipe into a Zarr store; go on where an earlier run stopped, and finish by itself.

    Parameters
    ----------
    store : a path that does not exist yet, an empty folder, or a store that this recipe began
    client : make the shards on the workers of this Dask client; they must see ``store`` under the same path
    threads : without a client, how many shards are made at once; by default one for each CPU that memory allows
    durable : whether a shard that counts as made outlives a power cut, or only this process (faster); what a power cut
        took then, `factory verify --deep` finds and `factory repair` makes again
    device : where kernels run that exist for both, processor (cpu) or graphics card (cuda); the bytes are the same.
        Without, what the environment variable FACTORY_DEVICE says where they run, else the processor

    Returns
    -------
    xr.DataTree
        The finished store, one group a split, opened lazily.

    Raises
    ------
    AnotherRecipe
        The store holds another recipe's samples, other sample counts, or samples that this code no longer makes.
    StoreError
        Not enough memory for one shard, a target that is no store or cannot be written, a sample that is not finite.
    """
    make_part(recipe, store, (1, 1), client, threads=threads, progress=progress, durable=durable, device=device)
    return open_store(place(store).absolute())


def make_part(recipe: Recipe, store: str | Place, part: tuple[int, int], client: Client | None = None, *,
              threads: int | None = None, progress: Progress | None = None, durable: Durable = "power",
              device: Device | None = None) -> bool:
    """`materialise` for one of several shares, which need not know of each other; whoever is last finishes the store.

    Parameters
    ----------
    part : (i, n)
        Makes the i-th of n runs of neighbouring shards, 1 <= i <= n: they share what outer levels make.  Any mix of
        parts gives the same store.

    Returns
    -------
    bool
        Whether the store is finished.
    """
    path = place(store).absolute()
    if client is None and device is not None:
        choose(device)
    elif client is not None and device == "cuda":
        demand("of a worker", client.submit(missing, pure=False).result())
    try:
        return _carried_through(recipe, path, part, client, threads, progress or Silent(), durable, device)
    except OSError as error:
        raise StoreError(_unwritable(path, error)) from error


def _carried_through(recipe: Recipe, path: Place, part: tuple[int, int], client: Client | None, threads: int | None,
                     watcher: Progress, durable: Durable, device: Device | None) -> bool:
    _require_target(recipe, path)
    if not (path / "zarr.json").is_file():
        fitting(recipe, client, threads)
        create(recipe, path)
    plans = layouts(recipe, path)
    finished = read_manifest(path) is not None
    missing = _Missing(plans, part)
    if finished and not missing.shards and _is_whole(plans):
        clear_partial(path)
        return True
    workers, run = fitting(recipe, client, threads), uuid4().hex
    with Journal(path, run, part=part, to_make=missing.shards, **_begin(recipe, path, plans)) as journal:
        if finished:  # it is not any more: until this run is through, nobody shall read it
            unfinish(path)
        watcher.begin(missing.samples, missing.nbytes, missing.done_samples, missing.done_bytes)
        try:
            for commit in _made(recipe, path, client, workers, missing, run, durable, device):
                journal.shard(commit)
                watcher.shard(commit)
        finally:
            watcher.end()
            with suppress(NoStore):  # what made the run fail says more
                drop_into(path, run).close()
        if part != (1, 1) and _Missing(plans).shards:
            return False
        _settle(recipe, path, run)
        _finish(plans, path, run)
        journal.finished()
    return True


def _unwritable(store: Place, error: OSError) -> str:
    """What to say when the system will not write any more."""
    free = ""
    if error.errno == errno.ENOSPC and isinstance(store, Path):
        free = f" ({shutil.disk_usage(store).free / 1e6:,.0f} MB are free at {store}; make room)"
    return (f"{error.filename or store}: {error.strerror or error}{free}. What was made is kept: the same command goes "
            "on where this stopped")


class _Missing:
    """Which shards of a part are to be made: one byte a shard, however many there are."""

    def __init__(self, plans: Mapping[str, Layout], part: tuple[int, int] = (1, 1)):
        self.plans = plans
        self.flags = {name: bytearray(plan.shards) for name, plan in plans.items()}
        self.samples = self.nbytes = self.done_samples = self.done_bytes = self.shards = 0
        every = sum(plan.shards for plan in plans.values())
        mine = islice(tasks(plans), *(every * edge // part[1] for edge in (part[0] - 1, part[0])))
        for name, shard, commit in each(next(iter(plans.values())).store, self._found, mine):
            plan = plans[name]
            start, stop = plan.span(shard)
            self.samples += stop - start
            self.nbytes += (stop - start) * plan.sample_bytes
            if commit is None:
                self.flags[name][shard] = 1
                self.shards += 1
            else:
                self.done_samples += stop - start
                self.done_bytes += (stop - start) * plan.sample_bytes

    def _found(self, task: Task) -> tuple[str, int, Commit | None]:
        return *task, standing(self.plans[task[0]], task[1])

    def __iter__(self) -> Iterator[Task]:
        return ((name, shard) for name, shard in tasks(self.plans) if self.flags[name][shard])


def _is_whole(plans: Mapping[str, Layout]) -> bool:
    """Whether the scalars and coordinates of a finished store are there, too."""
    files = [item for plan in plans.values() for item in plan.plain_files().items()]
    return all(path.exists() and path.stat().st_size == size for path, size in files)


def _begin(recipe: Recipe, store: Place, plans: Mapping[str, Layout]) -> dict[str, Any]:
    """Check that this code may go on with the store; what is to be noted of that."""
    mine = behaviour.fingerprint()
    probed = False
    if mine not in known(store):
        probed = behaviour.probe(recipe, plans)
    return {"probed": probed, "fingerprint": mine}


def _settle(recipe: Recipe, store: Place, run: str) -> None:
    """Write again what a store begins with, where it is not what the recipe says: finishing repeats it as it lies."""
    drop = drop_into(store, run)
    try:
        for path, data in beginnings(recipe, store):
            if not _stands(path, data):
                drop.add(path, data)
        drop.place()
    finally:
        drop.clear()
        with suppress(NoStore):
            drop.close()


def _stands(path: Place, data: bytes | memoryview) -> bool:
    """Whether a file says what it did at the beginning; a group may have an id and repeat what lies below it."""
    try:
        if path.name != "zarr.json":
            with open_regular(path) as file:
                return file.read() == data
        found, wanted = read_document(path), json.loads(bytes(data))
    except (OSError, StoreError):
        return False
    attributes = {key: value for key, value in found.get("attributes", {}).items() if key != "id"}
    own = {**found, "attributes": attributes, "consolidated_metadata": None}
    return own == {**wanted, "consolidated_metadata": None}


def _finish(plans: Mapping[str, Layout], store: Place, run: str) -> None:
    try:
        finalise(plans, store, run)
    except FileNotFoundError:  # a run beside this one finished first and cleared all temporary files
        if read_manifest(store) is None:
            finalise(plans, store, run)


def _require_target(recipe: Recipe, store: Place) -> None:
    if isinstance(store, ObjectPath):
        _require_prefix(recipe, store)
        return
    if store.exists() and (not store.is_dir() or any(store.iterdir())):
        try:
            _require_recipe(recipe, store)
        except NoStore as error:
            raise NoStore(f"{error}; name a path that does not exist yet, or an empty folder") from None
    above = next(p for p in [store, *store.parents] if p.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise StoreError(f"cannot write to {above}; name a folder that you may write to")


def _require_prefix(recipe: Recipe, store: ObjectPath) -> None:
    """A prefix with this recipe's store, with its beginning, or with nothing; StoreError where it cannot be written."""
    drop_into(store, "")
    if (store / "zarr.json").is_file():
        _require_recipe(recipe, store)
        return
    begun = {path for path, _ in beginnings(recipe, store)}
    stranger = next((path for path in store.below() if path not in begun), None)
    if stranger is not None:
        raise NoStore(f"{stranger} is there, and nothing says that {store} is a store of this recipe; name a prefix "
                      "under which nothing lies")


def _require_recipe(recipe: Recipe, store: Place) -> None:
    """Refuse another recipe's store, and say what differs."""
    root = read_root(store)
    lines = changed_lines(root.recipe, recipe.text)
    if root.identity != recipe.identity:
        if not lines:
            raise AnotherRecipe(f"{store} was made by the same recipe text, but a file that it reads has changed since "
                                "(its sha256 is another); give the old file, or take another folder")
        more = [f"... and {len(lines) - DIFFERENCES} more lines"] if len(lines) > DIFFERENCES else []
        shown = "\n".join(["  " + line for line in lines[:DIFFERENCES]] + more)
        raise AnotherRecipe(f"{store} was made by another recipe (- the store's, + yours); take another folder for "
                            f"this one, or go back to the store's recipe:\n{shown}")
    for name, plan in layouts(recipe).items():
        held = int(root.splits[name]["samples"])
        if held != plan.samples:
            raise AnotherRecipe(f"{store} holds {held} samples of split {name!r}, and {plan.samples} are asked for; "
                                "a store's sample counts are fixed when it is begun: ask for the same, or take "
                                "another folder")
        if root.splits[name]["per_shard"] != plan.per_shard:
            raise AnotherRecipe(f"{store} has shards of {root.splits[name]['per_shard']} samples in split {name!r}, "
                                f"this version makes {plan.per_shard}; go on with the version that began it")


def _made(recipe: Recipe, store: Place, client: Client | None, workers: int, missing: _Missing, run: str,
          durable: Durable, device: Device | None) -> Iterator[Commit]:
    if client is not None:
        return on_workers(recipe, store, client, missing, missing.shards, run, durable, device)

    def one(split: str, shard: int) -> Commit:
        return write(recipe, store, split, shard, run, durable)

    if workers == 1:
        return (one(*task) for task in missing)
    return _on_threads(one, workers, iter(missing))


def _on_threads(one: Write, workers: int, todo: Iterator[Task]) -> Iterator[Commit]:
    with ThreadPoolExecutor(workers, thread_name_prefix="factory") as pool:
        waiting = {pool.submit(one, *task) for task in islice(todo, IN_FLIGHT * workers)}
        try:
            while waiting:
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                for future in done:
                    yield future.result()
                    task = next(todo, None)
                    if task is not None:
                        waiting.add(pool.submit(one, *task))
        finally:
            for future in waiting:
                future.cancel()
