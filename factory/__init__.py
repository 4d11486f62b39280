"""A factory for synthetic magnetic-resonance training data.

>>> import factory
>>> recipe = factory.load("rim_t1")
>>> factory.make(recipe, "train", 0, 4)           # four labelled samples, made now
>>> factory.open("rim_t1", split="train")         # all of them, made when looked at
>>> factory.open("store.zarr")                    # a finished store

Importing this package imports nothing heavy; each name below loads what it needs when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from factory import cache

__version__ = "0.1.0"
__all__ = ["list_recipes", "load", "make", "open"]

_HOMES = {"load": "factory.recipe", "make": "factory.floor", "open": "factory.virtual"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'factory' has no attribute {name!r}")


def list_recipes() -> list[str]:
    """Names of the recipes that `load` finds."""
    from factory.recipe import names

    return list(names())


cache.use()
