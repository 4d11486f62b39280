"""Stores: a recipe's samples on disk as plain, sharded Zarr v3, with a commit for each shard.

>>> from factory.store import materialise, open_store, status
>>> tree = materialise(recipe, "store.zarr")      # resumes, finishes by itself
>>> status("store.zarr").sentence
"""

from factory.store.care import (
    StoreStatus,
    check,
    commits,
    coordinate_values,
    open_store,
    read_layout,
    scalar_values,
    status,
)  # fmt: skip
from factory.store.commit import Commit, write
from factory.store.compare import differences
from factory.store.damage import Damage, damages
from factory.store.errors import AnotherRecipe, DamagedStore, IncompleteStore, NoStore, StoreError
from factory.store.extend import extend
from factory.store.layout import Estimate, Layout, LayoutError, estimate
from factory.store.metadata import read_root
from factory.store.progress import Progress, RichProgress
from factory.store.repair import repair
from factory.store.run import make_part, materialise

__all__ = [
    "AnotherRecipe", "Commit", "Damage", "DamagedStore", "Estimate", "IncompleteStore", "Layout", "LayoutError",
    "NoStore", "Progress", "RichProgress", "StoreError", "StoreStatus", "check", "commits", "coordinate_values",
    "damages", "differences", "estimate", "extend", "make_part", "materialise", "open_store", "read_layout",
    "read_root", "repair", "scalar_values", "status", "write",
]
