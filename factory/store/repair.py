"""Putting a damaged store right: what is wrong is removed, and made again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from factory.store.damage import Damage, damages, recipe_of
from factory.store.errors import AnotherRecipe, DamagedStore, StoreError
from factory.store.files import Place, place, remove
from factory.store.finish import MANIFEST, MANIFEST_COPY, unfinish
from factory.store.metadata import BOOKS, Root, read_copy, read_root, restore
from factory.store.progress import Progress
from factory.store.run import materialise

if TYPE_CHECKING:
    from distributed import Client

    from factory.recipe import Recipe


def repair(store: str | Place, recipe: Recipe | None = None, client: Client | None = None, *,
           threads: int | None = None, progress: Progress | None = None) -> list[Damage]:
    """Remove every damaged file and make it again; whole files stay untouched.

    A finished store is finished again afterwards, with the bytes that it had.  One that never was is left incomplete.
    Safe to run twice, and to go on with after a kill.

    Parameters
    ----------
    recipe : by default the one that the store remembers; needed where it reads files
    client, threads, progress : as for `materialise`

    Returns
    -------
    list of Damage
        What was found and put right.

    Raises
    ------
    AnotherRecipe
        The recipe is not the store's, or this code makes other samples from it.
    StoreError
        Something is still damaged.
    """
    path = place(store).absolute()
    found = list(damages(path))
    if not found:
        return []
    root = remembered(path)
    recipe = recipe or recipe_of(root)
    if recipe.identity != root.identity:
        raise AnotherRecipe(f"{store} was made by another recipe (identity {root.identity[:12]}, not "
                            f"{recipe.identity[:12]}); give the one that made it")
    was_finished = root.id is not None or any((path / BOOKS / name).exists() for name in (MANIFEST, MANIFEST_COPY))
    unfinish(path)
    for one in found:
        remove(path / one.path)
    restore(recipe, path)
    if was_finished:
        materialise(recipe, path, client, threads=threads, progress=progress)
    left = next(damages(path), None)
    if left is not None:
        raise DamagedStore(f"{store} is still damaged after its repair: {left.sentence}")
    return found


def remembered(store: Place) -> Root:
    """What a store says of itself, from its root or from the copy."""
    try:
        return read_root(store)
    except StoreError:
        return read_copy(store)
