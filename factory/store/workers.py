"""Shards made by the workers of a Dask client, with as few tasks known to the scheduler as keep all workers busy."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

from factory.store.commit import Commit, write
from factory.store.drop import Durable
from factory.store.errors import StoreError
from factory.store.files import Place

if TYPE_CHECKING:
    from distributed import Client

    from factory.recipe import Recipe

AHEAD = 2  # shards that wait or run for each thread of a worker
LEAST = 64  # shards that wait at least: an adaptive cluster grows with what waits
LOOK_SECONDS = 5.0  # between two counts of the workers, which may come and go


def on_workers(recipe: Recipe, store: Place, client: Client, todo: Iterator[tuple[str, int]], run: str,
               durable: Durable) -> Iterator[Commit]:
    """Make shards; only their commits come back.

    A shard whose worker is lost goes to another one.

    Raises
    ------
    StoreError
        The scheduler is lost, or it gave a shard up because several workers died while they had it.
    """
    from distributed import CancelledError
    from distributed.comm.core import CommClosedError
    from distributed.scheduler import KilledWorker

    try:
        yield from _bounded(recipe, store, client, todo, run, durable)
    except KilledWorker as error:
        raise StoreError(f"a shard was given up, because {error.allowed_failures + 1} worker(s) died while they had "
                         f"it, the last one at {error.last_worker.address}. Most often their memory was short: give "
                         "the workers more of it or fewer threads, or say `shard: N` in the recipe with fewer samples. "
                         "What was made is kept: the same command goes on") from error
    except (CommClosedError, CancelledError, TimeoutError) as error:
        raise StoreError("the connection to Dask's scheduler was lost; what was made is kept: the same command goes on"
                         ) from error


def _bounded(recipe: Recipe, store: Place, client: Client, todo: Iterator[tuple[str, int]], run: str,
             durable: Durable) -> Iterator[Commit]:
    from distributed import as_completed

    driver: Any = client
    made: Any = as_completed()  # type: ignore[no-untyped-call]
    one = partial(_write, recipe, str(store), run, durable)
    waiting: set[Any] = set()
    looked = limit = 0.0
    try:
        while True:
            if time.monotonic() - looked > LOOK_SECONDS:
                looked, limit = time.monotonic(), max(LEAST, AHEAD * sum(driver.nthreads().values()))
            # Many at once: a message a shard, there and back, costs the scheduler more than the shard
            more = list(islice(todo, int(limit) - len(waiting))) if len(waiting) <= limit / 2 else []
            if more:
                futures = driver.map(one, more, key=[(f"write-{run}", *task) for task in more], pure=False)
                waiting.update(futures)
                made.update(futures)
            if not waiting:
                return
            done = made.next_batch()
            waiting.difference_update(done)
            yield from driver.gather(done)
    finally:
        if waiting:
            driver.cancel(list(waiting))


def _write(recipe: Recipe, store: str, run: str, durable: Durable, task: tuple[str, int]) -> Commit:
    return write(recipe, store, *task, run, durable)
