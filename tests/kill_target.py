"""A server that runs `materialise` in fresh children: one for each line it reads, its process id answered at once.

Children are forked from a process that has imported everything, so a kill costs milliseconds instead of seconds and
the kills fall on the work, not on Python's start.
"""

from __future__ import annotations

import os
import sys

from factory.floor import make
from factory.recipe import load
from factory.store import materialise


def serve(recipe_path: str) -> None:
    """Lines in: a store's path and a number of threads.  Lines out: the child's id, then its wait status."""
    recipe = load(recipe_path)
    for split in recipe.splits:
        make(recipe, split, 0, 1)  # kernels are compiled before the first fork
    print("ready", flush=True)
    for line in sys.stdin:
        store, threads = line.rsplit(maxsplit=1)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                materialise(recipe, store, threads=int(threads))
                code = 0
            finally:
                os._exit(code)
        print(child, flush=True)
        print(os.waitpid(child, 0)[1], flush=True)


if __name__ == "__main__":
    serve(sys.argv[1])
