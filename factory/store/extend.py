"""More samples for a store: full shards keep their bytes, the last short one is made again, longer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING
from uuid import uuid4

from factory.store.drop import drop_into
from factory.store.errors import AnotherRecipe
from factory.store.files import Place, place
from factory.store.finish import documents_of, unfinish
from factory.store.layout import layouts
from factory.store.metadata import BOOKS, COPY, Root, dumps, group_document, read_root, root_attributes
from factory.store.progress import Progress
from factory.store.run import materialise

if TYPE_CHECKING:
    import xarray as xr
    from distributed import Client

    from factory.recipe import Recipe


def extend(recipe: Recipe, store: str | Place, client: Client | None = None, *, threads: int | None = None,
           progress: Progress | None = None) -> xr.DataTree:
    """Make a store as large as its recipe now says, keeping every sample; finish it with another id.

    Safe to run twice, and to go on with after a kill.

    Parameters
    ----------
    recipe : the store's own recipe with larger sample counts
    client, threads, progress : as for `materialise`

    Raises
    ------
    AnotherRecipe
        The recipe is not the store's, or a split would lose samples.
    """
    path = place(store).absolute()
    root = read_root(path)
    _require_more(root, recipe, path)
    counts = {name: facts["samples"] for name, facts in root.splits.items()}
    if counts != {name: split.samples for name, split in recipe.splits.items()}:
        unfinish(path)
        _enlarge(recipe, path)
    return materialise(recipe, path, client, threads=threads, progress=progress)


def _require_more(root: Root, recipe: Recipe, store: Place) -> None:
    if root.identity != recipe.identity:
        raise AnotherRecipe(f"{store} was made by another recipe (identity {root.identity[:12]}, not "
                            f"{recipe.identity[:12]}); a store is extended by its own recipe only")
    for name, facts in root.splits.items():
        wanted = recipe.splits[name].samples
        if wanted < facts["samples"]:
            raise AnotherRecipe(f"{store} holds {facts['samples']} samples of split {name!r}, and {wanted} are asked "
                                "for: a store can grow only; make a smaller one in another folder")


def _enlarge(recipe: Recipe, store: Place) -> None:
    """Write the new counts: into the arrays' metadata first, into the root last."""
    drop = drop_into(store, uuid4().hex)
    try:
        for key, document in documents_of(layouts(recipe, store), store).items():
            if key.count("/") == 2:
                drop.add(store / key, dumps(document))
        drop.place()
        root = dumps(group_document(root_attributes(recipe)))
        drop.add(store / BOOKS / COPY, root)
        drop.add(store / "zarr.json", root)
        drop.place()
    finally:
        drop.clear()
        drop.close()


def with_counts(root: Root, samples: Mapping[str, int]) -> Recipe:
    """The recipe that a store remembers, with other sample counts."""
    from factory.recipe import load

    with TemporaryDirectory() as folder:
        path = Path(folder, f"{root.name}.yaml")
        path.write_text(root.recipe)
        counts = {name: int(facts["samples"]) for name, facts in root.splits.items()}
        return load(path, samples={**counts, **samples})
