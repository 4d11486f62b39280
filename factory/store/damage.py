"""All damage of a store, file by file.

What a file should hold is known twice: a shard's files from its commit, a commit from the list of all commits, the list
from its hash tree, whose roots the manifest holds with the marks of all metadata; and the manifest from the store's id.
A store that is not finished has no manifest yet: its commits and metadata are then held against themselves.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import xxhash

from factory.store.care import plan_of
from factory.store.commit import LINE_BYTES, Commit, DamagedCommit, commit_path, parse, read_commit
from factory.store.errors import DamagedStore, StoreError
from factory.store.files import Place, fault, key_of, open_regular, place
from factory.store.finish import MANIFEST, MANIFEST_COPY, SHARDS, Merkle, metadata_mark, sealed
from factory.store.layout import Layout, layout
from factory.store.metadata import (
    BOOKS,
    COPY,
    Document,
    Root,
    dumps,
    group_document,
    read_copy,
    read_document,
    read_root,
)

if TYPE_CHECKING:
    from factory.recipe import Recipe

BLOCK = 1 << 22  # bytes that are hashed at once
KINDS = {
    "missing": "the file is not there",
    "empty": "the file has no bytes",
    "truncated": "the file is too short",
    "overlong": "the file is too long",
    "flipped": "the size is right, the bytes are not",
    "swapped": "it holds the bytes of another shard or array",
    "garbled": "it cannot be read as what it should be",
    "foreign recipe": "another recipe made it",
    "uncommitted": "nothing says that this shard was finished",
    "stray": "no file of this store has such a name",
    "no regular file": "a link, a folder, a pipe or a device where a file should be",
}


@dataclass(frozen=True)
class Damage:
    """One file that is not as it should be; ``path`` is relative to the store."""

    path: str
    kind: str
    split: str | None = None
    array: str | None = None
    shard: int | None = None

    @property
    def sentence(self) -> str:
        """Where and what."""
        where = [self.split, self.array, None if self.shard is None else f"shard {self.shard}"]
        named = ", ".join(part for part in where if part)
        return f"{self.path}{f' ({named})' if named else ''}: {self.kind} ({KINDS[self.kind]})"


def damages(store: str | Place, *, deep: bool = True, part: float = 1.0) -> Iterator[Damage]:
    """Everything that is wrong with a store, one after the other; nothing for shards that are still to be made.

    Parameters
    ----------
    deep : bool
        Read all bytes and compare their hashes, not only the sizes.
    part : float, 0 to 1
        Share of the shards whose bytes are read, always the same ones for the same store.

    Raises
    ------
    NoStore
        There is no store.
    DamagedStore
        Neither the root's metadata nor their copy can be read.
    """
    path = place(store)
    manifest = _chosen(path)
    root = yield from _root(path, manifest)
    yield from _manifests(path, root, manifest)
    yield from _metadata(path, root, manifest)
    plans = dict(_plans(path, root, manifest))
    for plan in plans.values():
        yield from _Split(plan, root, manifest, deep, part).look()
        yield from _strays(plan)
    if manifest is not None:
        yield from _plain(path, root, plans, manifest, deep)


def _chosen(store: Place) -> Document | None:
    """The manifest that is sound in itself and speaks of this store; None where neither is."""
    sound = []
    for name in (MANIFEST, MANIFEST_COPY):
        path = store / BOOKS / name
        document = _own(path)
        if document is not None and path.read_bytes() == dumps(sealed(document)):
            sound.append(document)
    root, copy = _own(store / "zarr.json"), _own(store / BOOKS / COPY)
    mark = metadata_mark(root) if root else None
    identity = (copy or {}).get("attributes", {}).get("identity")
    ranked = sorted(sound, key=lambda one: (one["marks"].get("zarr.json") != mark, one["identity"] != identity))
    return next((one for one in ranked if mark == one["marks"].get("zarr.json") or identity == one["identity"]), None)


def _is_root(document: Document, manifest: Document) -> bool:
    """Whether a root is the one that a manifest speaks of."""
    same = metadata_mark(document) == manifest["marks"].get("zarr.json")
    return bool(same and document["attributes"].get("id") == manifest["id"])


def _root(store: Place, manifest: Document | None) -> Any:
    """A generator of what is wrong with the root and its copy, which returns what the sound one says."""
    path, root = store / "zarr.json", None
    document = _own(path)
    if document and (manifest is None or _is_root(document, manifest)):
        with contextlib.suppress(DamagedStore, KeyError):
            root = read_root(store)
    elif document is None and not (store / BOOKS / COPY).is_file():
        root = read_root(store)  # which says what is wrong with it
    if root is None:
        garbled = fault(path) or _unreadable(path) or ("garbled" if manifest is None else "flipped")
        yield _damage(store, path, garbled)
    path = store / BOOKS / COPY
    try:
        copy = read_copy(store)
    except StoreError:
        yield _damage(store, path, fault(path) or _unreadable(path) or "garbled")
        if root is None:
            raise
        return root
    if root is None:
        return replace(copy, id=manifest["id"] if manifest else None)
    attributes = {key: value for key, value in (document or {})["attributes"].items() if key != "id"}
    if path.read_bytes() != dumps(group_document(attributes)):
        yield _damage(store, path, "flipped")
    return root


def _manifests(store: Place, root: Root, manifest: Document | None) -> Iterator[Damage]:
    """What is wrong with the manifest and its copy."""
    for name in (MANIFEST, MANIFEST_COPY):
        path = store / BOOKS / name
        wrong = fault(path) or _unreadable(path)
        if manifest is not None and wrong is None and path.read_bytes() == dumps(manifest):
            continue
        if wrong != "missing" or root.id is not None:
            yield _damage(store, path, wrong or "flipped")


def _metadata(store: Place, root: Root, manifest: Document | None) -> Iterator[Damage]:
    """Every ``zarr.json`` that cannot be read, or that is not what the manifest says."""
    marks = {} if manifest is None else manifest["marks"]
    for name, facts in root.splits.items():
        for array in (None, *facts["variables"]):
            path = store / name / (array or "") / "zarr.json"
            wrong = fault(path) or _unreadable(path) or _differs(store, path, marks)
            if wrong:
                yield _damage(store, path, wrong, name, array)


def _differs(store: Place, path: Place, marks: Mapping[str, str]) -> str | None:
    """Whether readable metadata are not those of the mark."""
    key = key_of(path, store)
    document = read_document(path)
    same = path.read_bytes() == dumps(document) and metadata_mark(document) == marks.get(key)
    return None if same or key not in marks else "flipped"


def _plans(store: Place, root: Root, manifest: Document | None) -> Iterator[tuple[str, Layout]]:
    """The layout of each split: from sound metadata, else from the recipe; none where both are lost."""
    for name in root.splits:
        try:
            yield name, plan_of(store, root, name, _documents(store, root, name, manifest))
        except StoreError:
            with contextlib.suppress(StoreError):
                yield name, layout(recipe_of(root), name, store)


def recipe_of(root: Root) -> Recipe:
    """The recipe that a store remembers."""
    from factory.recipe import RecipeError, rebuild

    try:
        return rebuild(root.recipe, root.name)
    except RecipeError as error:
        raise StoreError(f"the store's own recipe cannot be used alone ({error}); give the recipe, with its files"
                         ) from error


def _documents(store: Place, root: Root, split: str, manifest: Document | None) -> dict[str, Document] | None:
    """The metadata of a split's arrays from whichever copy the manifest vouches for; None to read the arrays' own."""
    if manifest is None:
        return None
    found: dict[str, Document] = {}
    held = [_held(store / "zarr.json", f"{split}/"), _held(store / split / "zarr.json", "")]
    for name in root.splits[split]["variables"]:
        own = _own(store / split / name / "zarr.json")
        mark = manifest["marks"].get(f"{split}/{name}/zarr.json")
        sound = [one for one in (own, *(copy.get(name) for copy in held)) if one and metadata_mark(one) == mark]
        if not sound:
            return None
        found[name] = sound[0]
    return found


def _own(path: Place) -> Document | None:
    return None if fault(path) or _unreadable(path) else read_document(path)


def _held(path: Place, prefix: str) -> dict[str, Document]:
    """The documents that a group's metadata repeat of what lies below it."""
    try:
        members = (_own(path) or {})["consolidated_metadata"]["metadata"]
        return {key.removeprefix(prefix): dict(value) for key, value in members.items() if key.startswith(prefix)}
    except (KeyError, TypeError, ValueError, AttributeError):
        return {}


def _unreadable(path: Place) -> str | None:
    if path.stat().st_size == 0:
        return "empty"
    try:
        read_document(path)
    except DamagedStore:
        return "garbled"
    return None


def _damage(store: Place, path: Place, kind: str, split: str | None = None, array: str | None = None,
            shard: int | None = None) -> Damage:
    return Damage(key_of(path, store), kind, split, array, shard)


def mark_of(path: Place) -> str:
    """xxh3-128 of a file, a block at a time."""
    digest = xxhash.xxh3_128()
    with open_regular(path) as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


class _Split:
    """The shards of one split."""

    def __init__(self, plan: Layout, root: Root, manifest: Document | None, deep: bool, part: float):
        self.plan, self.root, self.manifest, self.deep, self.part = plan, root, manifest, deep, part
        self.store = place(plan.store)

    def look(self) -> Iterator[Damage]:
        """Shard by shard: its commit, then the files that it speaks of."""
        for shard, line in enumerate(self._lines()):
            commit, wrong = self._commit(shard, line)
            if wrong is not None and (self.manifest is not None or wrong != "missing"):
                yield self._fault(commit_path(self.plan, shard), wrong, None, shard)
            if commit is None and line is not None:
                commit = parse(line)
            if commit is None:
                yield from self._uncommitted(shard)
            else:
                yield from self._files(shard, commit)

    def _lines(self) -> Iterator[bytes | None]:
        """What the list of all commits says of each shard, where it may be trusted."""
        return trusted_lines(self.plan, self.root, self.manifest)

    def _commit(self, shard: int, line: bytes | None) -> tuple[Commit | None, str | None]:
        path = commit_path(self.plan, shard)
        wrong = fault(path)
        if wrong is not None:
            return None, wrong
        try:
            found = read_commit(path, payload=self._reads(shard))
        except DamagedCommit:
            return None, "garbled" if path.stat().st_size else "empty"
        if found.identity != self.plan.identity:
            return None, "foreign recipe"
        start, stop = self.plan.span(shard)
        place = (found.split, found.shard, found.start)
        if self.manifest is None and place == (self.plan.split, shard, start) and found.stop < stop:
            return None, "missing"  # the store is being extended
        if (found.split, found.shard, found.start, found.stop) != (self.plan.split, shard, start, stop):
            return None, "swapped"
        if line is not None and found.line != line:
            return None, "flipped"
        return found, None

    def _files(self, shard: int, commit: Commit) -> Iterator[Damage]:
        wanted = self.plan.sizes(shard)
        for name in self.plan.bulk:
            path = self.plan.file(name, shard)
            wrong = fault(path, wanted[name])
            if wrong is None and self._reads(shard):
                found = mark_of(path)
                if found != commit.files[name][1]:
                    wrong = "swapped" if self._belongs_elsewhere(found) else "flipped"
            if wrong is not None:
                yield self._fault(path, wrong, name, shard)

    def _belongs_elsewhere(self, mark: str) -> bool:
        """Whether any commit of this split speaks of a file with these bytes."""
        for shard in range(self.plan.shards):
            try:
                commit = read_commit(commit_path(self.plan, shard))
            except (OSError, DamagedCommit):
                continue
            if commit.identity == self.plan.identity and any(mark == one for _, one in commit.files.values()):
                return True
        return False

    def _uncommitted(self, shard: int) -> Iterator[Damage]:
        for name in self.plan.bulk:
            path = self.plan.file(name, shard)
            wrong = fault(path)
            if wrong != "missing":
                yield self._fault(path, wrong or "uncommitted", name, shard)

    def _reads(self, shard: int) -> bool:
        """Whether the bytes of this shard are read: a fixed share of all, spread by a hash."""
        drawn = xxhash.xxh3_64_intdigest(f"{self.plan.split}.{shard}".encode()) / 2**64
        return self.deep and drawn < self.part

    def _fault(self, path: Place, kind: str, array: str | None, shard: int) -> Damage:
        return _damage(self.store, path, kind, self.plan.split, array, shard)


def trusted_lines(plan: Layout, root: Root, manifest: Document | None) -> Iterator[bytes | None]:
    """The commits' lines of one split, one a shard, from the list of a finished store; None where it is damaged."""
    sound = False
    if manifest is not None:
        try:
            sound = _root_of(plan, root) == manifest["splits"][plan.split]["id"]
        except (StoreError, OSError):
            sound = False
    yield from _listed(plan, root) if sound else [None] * plan.shards


def _root_of(plan: Layout, root: Root) -> str:
    """The root of the hash tree over a split's lines in the list of all commits."""
    tree = Merkle()
    for line in _listed(plan, root):
        tree.add(line)
    return tree.root()


def _listed(plan: Layout, root: Root) -> Iterator[bytes]:
    """A split's lines in the list of all commits."""
    skipped = 0
    for name, facts in root.splits.items():
        if name == plan.split:
            break
        skipped += -(-facts["samples"] // facts["per_shard"])
    with open_regular(place(plan.store) / BOOKS / SHARDS) as file:
        for number in range(skipped + plan.shards):
            line = file.readline(LINE_BYTES)
            if number >= skipped:
                yield line


def _strays(plan: Layout) -> Iterator[Damage]:
    """Files in the arrays' folders that are none of this split's."""
    store = place(plan.store)
    plain = set(plan.plain_files())
    for name in plan.order:
        folder = store / plan.split / name
        paths: list[Place] = list(folder.iterdir())
        for path in sorted(paths, key=lambda one: one.name):
            if path.name == "zarr.json" or path in plain:
                continue
            if name not in plan.bulk or not _is_shard(plan, name, path.name):
                yield _damage(store, path, "stray", plan.split, name)


def _is_shard(plan: Layout, array: str, name: str) -> bool:
    number = name.split(".")[1] if name.startswith("c.") and name.count(".") else ""
    return number.isdecimal() and int(number) < plan.shards and plan.bulk[array].key(int(number)) == name


def _plain(store: Place, root: Root, plans: Mapping[str, Layout], manifest: Document, deep: bool) -> Iterator[Damage]:
    """The list of commits, and the arrays of scalars and coordinates, of a finished store."""
    path = store / BOOKS / SHARDS
    wrong = fault(path)
    if wrong is None and any(next(trusted_lines(plan, root, manifest), b"") is None for plan in plans.values()):
        wrong = "flipped" if path.stat().st_size else "empty"
    elif wrong is None and path.stat().st_size > sum(len(line) for p in plans.values() for line in _listed(p, root)):
        wrong = "overlong"
    if wrong is not None:
        yield _damage(store, path, wrong)
    for name, plan in plans.items():
        facts = manifest["splits"][name]["coordinates"]
        marks = manifest["marks"] | {f"{name}/{key}/c.0": mark for key, mark in facts.items()}
        for file, size in plan.plain_files().items():
            wrong = fault(file, size)
            if wrong is None and deep and mark_of(file) != marks.get(key_of(file, store)):
                wrong = "flipped"
            if wrong is not None:
                yield _damage(store, file, wrong, name, file.parent.name)
