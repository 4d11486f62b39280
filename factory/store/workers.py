"""Shards made by the workers of a Dask client, with as few tasks known to the scheduler as keep all workers busy."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain, groupby, islice
from typing import TYPE_CHECKING, Any

from factory.device import Device, choose
from factory.store.commit import Commit, write
from factory.store.drop import Durable
from factory.store.errors import StoreError
from factory.store.files import Place
from factory.store.layout import Task, layouts

if TYPE_CHECKING:
    from distributed import Client

    from factory.recipe import Recipe

AHEAD = 2  # tasks that wait or run for each thread of a worker
LEAST = 64  # tasks that wait at least: an adaptive cluster grows with what waits
TURNS = 4  # tasks that each thread gets of what is left, once there are fewer heads (or so) than threads
MOST = 16  # shards a task
LOOK_SECONDS = 5.0  # between two counts of the workers, which may come and go


def on_workers(recipe: Recipe, store: Place, client: Client, todo: Iterable[Task], shards: int,
               run: str, durable: Durable, device: Device | None) -> Iterator[Commit]:
    """Make shards; only their commits come back.

    Neighbouring shards that share what an outer level makes, a head for example, go to the same worker.  What was
    not made when a worker was lost goes to another one.

    Raises
    ------
    StoreError
        The scheduler is lost, or it gave a shard up because several workers died while they had it.
    """
    from distributed import CancelledError
    from distributed.comm.core import CommClosedError
    from distributed.scheduler import KilledWorker

    try:
        make = partial(_write, recipe, str(store), run, durable, device)
        yield from _bounded(client, _Groups(recipe, todo, shards), make, run)
    except KilledWorker as error:
        raise StoreError(f"a shard was given up, because {error.allowed_failures + 1} worker(s) died while they had "
                         f"it, the last one at {error.last_worker.address}. Most often their memory was short: give "
                         "the workers more of it or fewer threads, or say `shard: N` in the recipe with fewer samples. "
                         "What was made is kept: the same command goes on") from error
    except (CommClosedError, CancelledError, TimeoutError) as error:
        raise StoreError("the connection to Dask's scheduler was lost; what was made is kept: the same command goes on"
                         ) from error


class _Groups:
    """Shards in groups, each a task: neighbours below one index of the outermost level, fewer near the end."""

    def __init__(self, recipe: Recipe, todo: Iterable[Task], shards: int):
        self.left, self.threads = shards, 0
        plans = layouts(recipe)
        shared = {name: split.strides[0] for name, split in recipe.splits.items()}  # samples below one index

        def outermost(task: Task) -> tuple[str, int]:
            return task[0], plans[task[0]].span(task[1])[0] // shared[task[0]]

        self.groups = (group for (name, _), same in groupby(todo, outermost)
                       for group in self._cut(same, shared[name] / plans[name].per_shard))

    def _cut(self, same: Iterator[Task], usual: float) -> Iterator[tuple[Task, ...]]:
        """Groups of the shards below one index, as which there are ``usual`` ones elsewhere."""
        while group := tuple(islice(same, self._size(usual))):
            self.left -= len(group)
            yield group

    def _size(self, usual: float) -> int:
        enough = self.left >= usual * self.threads  # for every thread one that need not be cut
        return MOST if enough else min(MOST, max(1, self.left // (TURNS * self.threads)))


def _bounded(client: Client, todo: _Groups, make: Callable[[tuple[Task, ...]], list[Commit]],
             run: str) -> Iterator[Commit]:
    from distributed import as_completed

    driver: Any = client
    made: Any = as_completed()  # type: ignore[no-untyped-call]
    waiting: set[Any] = set()
    looked = limit = 0.0
    try:
        while True:
            if time.monotonic() - looked > LOOK_SECONDS:
                looked, todo.threads = time.monotonic(), sum(driver.nthreads().values())
                limit = max(LEAST, AHEAD * todo.threads)
            # Many at once: a message a shard, there and back, costs the scheduler more than the shard
            more = list(islice(todo.groups, int(limit) - len(waiting))) if len(waiting) <= limit / 2 else []
            if more:
                futures = driver.map(make, more, key=[(f"write-{run}", *group[0]) for group in more], pure=False)
                waiting.update(futures)
                made.update(futures)
            if not waiting:
                return
            done = made.next_batch()
            waiting.difference_update(done)
            yield from chain.from_iterable(driver.gather(done))
    finally:
        if waiting:
            driver.cancel(list(waiting))


def _write(recipe: Recipe, store: str, run: str, durable: Durable, device: Device | None,
           group: tuple[Task, ...]) -> list[Commit]:
    if device is not None:
        choose(device)
    return [write(recipe, store, *task, run, durable) for task in group]
