"""Why two recipes, or two stores, are not the same."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from factory.store.care import plan_of
from factory.store.commit import Commit, DamagedCommit, commit_path, read_commit
from factory.store.files import Place, place
from factory.store.finish import read_manifest
from factory.store.layout import Layout
from factory.store.metadata import Root, read_root

if TYPE_CHECKING:
    from factory.recipe import Recipe


def differences(one: str | Place | Recipe, other: str | Place | Recipe) -> Iterator[str]:
    """Sentences and lines that tell what differs; none for the same data.

    Parameters
    ----------
    one, other : a recipe, or the path of a store
        Two stores are compared down to their shards; anything else by the recipes and the sample counts.
    """
    left, right = _side(one), _side(other)
    yield from _recipes(left, right)
    yield from _counts(left, right)
    if isinstance(left, Root) and isinstance(right, Root) and left.identity == right.identity:
        yield from _shards(place(str(one)), left, place(str(other)), right)


def _side(given: str | Place | Recipe) -> Recipe | Root:
    return read_root(given) if isinstance(given, str | Place) else given


def changed_lines(old: str, new: str) -> list[str]:
    """The lines that two texts do not share, with - and + before them."""
    return [line for line in difflib.unified_diff(old.splitlines(), new.splitlines(), n=0, lineterm="")
            if line[:3] not in ("---", "+++") and line[:2] != "@@"]


def _recipes(left: Recipe | Root, right: Recipe | Root) -> Iterator[str]:
    a, b = (side.recipe if isinstance(side, Root) else side.text for side in (left, right))
    lines = changed_lines(a, b)
    if left.identity != right.identity:
        yield f"the recipes differ: identity {left.identity[:12]} and {right.identity[:12]}"
        yield from lines or ["their text is the same: a file that they read is not (its sha256 differs)"]
    elif lines:
        yield "the recipes make the same samples, and differ in what does not matter to them:"
        yield from lines


def _counts(left: Recipe | Root, right: Recipe | Root) -> Iterator[str]:
    a, b = ({name: int(f["samples"]) for name, f in side.splits.items()} if isinstance(side, Root)
            else {name: split.samples for name, split in side.splits.items()} for side in (left, right))
    for name in dict.fromkeys([*a, *b]):
        if a.get(name) != b.get(name):
            yield f"split {name}: {a.get(name, 'no')} and {b.get(name, 'no')} samples"


def _shards(one: Place, left: Root, other: Place, right: Root) -> Iterator[str]:
    ids = [found.id if found else "unfinished" for found in (read_manifest(one), read_manifest(other))]
    if ids[0] != ids[1]:
        yield f"their ids differ: {ids[0]} and {ids[1]}"
    for name in left.splits:
        if name not in right.splits:
            continue
        a, b = plan_of(one, left, name), plan_of(other, right, name)
        if a.per_shard != b.per_shard:
            yield f"split {name}: {a.per_shard} and {b.per_shard} samples a shard"
            continue
        for shard in range(max(a.shards, b.shards)):
            yield from _shard(a, b, shard)


def _shard(a: Layout, b: Layout, shard: int) -> Iterator[str]:
    found: list[Commit | None] = []
    for plan in (a, b):
        try:
            found.append(read_commit(commit_path(plan, shard)))
        except FileNotFoundError:
            found.append(None)
        except DamagedCommit:
            yield f"split {plan.split}, shard {shard}: the commit in {plan.store} is damaged; factory verify says more"
            return
    left, right = found
    if left is None or right is None:
        if left is not right:
            yield f"split {a.split}, shard {shard}: only in {(b if left is None else a).store}"
    elif left.line != right.line:
        marks = {**left.files, **left.scalars}, {**right.files, **right.scalars}
        names = [name for name in marks[0] if marks[0][name] != marks[1].get(name)]
        yield f"split {a.split}, shard {shard}: {', '.join(names) or 'a statistic'} differ"
