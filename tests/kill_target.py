"""A server that runs what changes stores in fresh children: one for each line it reads.

Children are forked from a process that has imported everything, so a kill costs milliseconds instead of seconds and
the kills fall on the work, not on Python's start.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import Any
from uuid import uuid4

from factory.floor import make
from factory.recipe import Recipe, load
from factory.store import StoreError, commit, drop, extend, materialise, repair
from factory.store.finish import finalise
from factory.store.layout import layouts


def operate(order: dict[str, Any], recipe: Recipe, client: Any = None) -> None:
    """What a line asks for: make, repair, extend or finalise a store."""
    store, options = Path(order["store"]), {"threads": order["threads"]}
    if order["do"] == "make":
        materialise(recipe, store, client, **options)
    elif order["do"] == "extend":
        extend(recipe, store, client, **options)
    elif order["do"] == "repair":
        repair(store, recipe, client, **options)
        materialise(recipe, store, client, **options)  # a repair that was killed may leave nothing to repair
    else:
        finalise(layouts(recipe, store), store, uuid4().hex)


def die_at(point: str, turn: int) -> None:
    """Let this process kill itself when it comes to a point for the n-th time."""
    seen = Counter[str]()

    def come(here: str) -> None:
        seen[here] += 1
        if here == point and seen[here] == turn:
            os.kill(os.getpid(), signal.SIGKILL)

    drop.hook = come


def count_begun(file: str) -> None:
    """One byte in a file for each shard that is begun."""
    real = commit._make

    def begun(*given: Any) -> Any:
        handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(handle, b".")
        os.close(handle)
        return real(*given)

    commit._make = begun


def child(order: dict[str, Any], recipe: Recipe) -> None:
    """One order in a process of its own; never returns."""
    code = 1
    try:
        if order.get("point"):
            die_at(order["point"], order["turn"])
        if order.get("begun"):
            count_begun(order["begun"])
        if order.get("scheduler"):
            from cluster.connect import connect
            from cluster.profiles import Profile

            folder = order["keys"]
            keys = {f"tls_{what}": f"{folder}/{what}.pem" for what in ("ca", "cert", "key")}
            try:
                with connect(Profile("address", address=order["scheduler"], **keys)) as client:
                    operate(order, recipe, client)
            except ValueError as error:
                raise StoreError(str(error)) from error  # the scheduler died before the work began
        else:
            operate(order, recipe)
        code = 0
    except Exception as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        code = 3 if type(error).__module__.startswith("factory.store") else 1
    finally:
        os._exit(code)


def serve(path: str, larger: str) -> None:
    """Lines in: orders as JSON.  Lines out: the child's id, then its wait status."""
    small = load(path)
    recipes = {"extend": load(path, samples=json.loads(larger))}
    for split in small.splits:
        make(small, split, 0, 1)  # kernels are compiled before the first fork
    print("ready", flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        number = os.fork()
        if number == 0:
            os.setpgid(0, 0)
            child(order, recipes.get(order.get("recipe", order["do"]), small))
        print(number, flush=True)
        print(os.waitpid(number, 0)[1], flush=True)


if __name__ == "__main__":
    serve(*sys.argv[1:])
