"""One shard, written whole or not at all, and the commit that says so.

A shard's files are written to ``.factory/partial/<run>/``, synchronised to the disk and renamed into place; the commit
follows in the same way.  Whoever finds a commit whose files have the right sizes finds a finished shard, because
nothing of it was ever written in place.

A commit is one file, ``.factory/commits/<split>.<shard>``: a line of JSON, then the scalars of its samples as raw
little-endian numbers, one scalar after the other.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from math import isfinite
from typing import TYPE_CHECKING
from uuid import uuid4

import numpy as np
import xxhash

from factory.store.drop import Drop, Durable, Puts, at, drop_into
from factory.store.encode import encode_shard, first_not_finite, sums
from factory.store.errors import AnotherRecipe, DamagedStore, StoreError
from factory.store.files import IrregularFile, Place, open_regular, place, regular_size
from factory.store.layout import Layout, layout
from factory.store.metadata import BOOKS, FORMAT, read_root
from factory.units import Array

if TYPE_CHECKING:
    import xarray as xr

    from factory.recipe import Recipe

NAMED = 8  # scalars that a sentence about a sample shows
LINE_BYTES = 1 << 20  # a commit's first line is never longer


class DamagedCommit(ValueError):
    """Bytes that are not a commit; whoever meets them remakes the shard."""


@dataclass(frozen=True)
class Commit:
    """What is known of a finished shard.

    ``files`` and ``scalars`` map a variable to (bytes, xxh3-128) of its shard file or of its raw numbers; ``sums`` maps
    it to (sum, sum of squared magnitudes).  ``payload`` are the raw scalars, empty when only the line was read.
    """

    split: str
    shard: int
    start: int
    stop: int
    identity: str
    files: Mapping[str, tuple[int, str]]
    scalars: Mapping[str, tuple[int, str]]
    sums: Mapping[str, tuple[list[float], float]]
    payload: bytes = b""

    @property
    def samples(self) -> int:
        return self.stop - self.start

    @property
    def nbytes(self) -> int:
        """Bytes of the shard's files and scalars."""
        return sum(size for size, _ in [*self.files.values(), *self.scalars.values()])

    @property
    def line(self) -> bytes:
        """The JSON line, the same for the same samples on any machine."""
        facts = {"commit": FORMAT, "split": self.split, "shard": self.shard, "start": self.start, "stop": self.stop,
                 "identity": self.identity, "files": dict(self.files), "scalars": dict(self.scalars),
                 "sums": dict(self.sums)}
        return json.dumps(facts, separators=(",", ":")).encode() + b"\n"

    def values(self, name: str, dtype: str) -> Array:
        """A scalar's numbers, shape (samples,)."""
        start = 0
        for key, (size, _) in self.scalars.items():
            if key == name:
                return np.frombuffer(self.payload[start : start + size], np.dtype(dtype).newbyteorder("<"))
            start += size
        raise KeyError(name)


def commit_path(plan: Layout, shard: int) -> Place:
    return place(plan.store) / BOOKS / "commits" / f"{plan.split}.{shard}"


def parse(line: bytes, payload: bytes = b"") -> Commit:
    """A commit from its line.  DamagedCommit when it is not one."""
    try:
        facts = json.loads(line)
        found = Commit(
            split=facts["split"], shard=facts["shard"], start=facts["start"], stop=facts["stop"],
            identity=facts["identity"], payload=payload,
            files={name: (int(size), str(mark)) for name, (size, mark) in facts["files"].items()},
            scalars={name: (int(size), str(mark)) for name, (size, mark) in facts["scalars"].items()},
            sums={name: (list(total), float(squares)) for name, (total, squares) in facts["sums"].items()},
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedCommit(f"not a commit: {error}") from error
    if found.line != line:
        raise DamagedCommit("not a commit: its line does not say what it says in its canonical form")
    return found


def read_commit(path: Place, payload: bool = False) -> Commit:
    """The commit in a file, with the scalars' bytes (checked) when ``payload`` is wanted.

    Raises
    ------
    FileNotFoundError
        No such commit.
    DamagedCommit
        It is cut off or altered.
    """
    try:
        opened = open_regular(path)
    except IrregularFile as error:
        raise DamagedCommit(f"not a commit: {error}") from error
    with opened as file:
        found = parse(file.readline(LINE_BYTES))
        expected = sum(size for size, _ in found.scalars.values())
        if file.seek(0, os.SEEK_END) != len(found.line) + expected:
            raise DamagedCommit("not a commit: it is cut off")
        if not payload:
            return found
        file.seek(len(found.line))
        raw, start = file.read(), 0
    for name, (size, mark) in found.scalars.items():
        if xxhash.xxh3_128_hexdigest(raw[start : start + size]) != mark:
            raise DamagedCommit(f"not a commit: its scalar {name!r} was altered")
        start += size
    return replace(found, payload=raw)


def standing(plan: Layout, shard: int, payload: bool = False) -> Commit | None:
    """The commit of a shard whose files all have their sizes; None when the shard is to be made.

    Raises
    ------
    AnotherRecipe
        The shard was made by another recipe.
    """
    try:
        found = read_commit(commit_path(plan, shard), payload)
    except (FileNotFoundError, DamagedCommit):
        return None
    if found.identity != plan.identity:
        raise AnotherRecipe(f"{commit_path(plan, shard)} was made by another recipe (identity "
                            f"{found.identity[:12]}, not {plan.identity[:12]}); take another folder for this one")
    if (found.split, found.shard, found.start, found.stop) != (plan.split, shard, *plan.span(shard)):
        return None
    return found if sizes_hold(plan, found) else None


def sizes_hold(plan: Layout, commit: Commit) -> bool:
    """Whether every file of a committed shard is there with the size that the commit and the layout say."""
    if {name: size for name, (size, _) in commit.files.items()} != plan.sizes(commit.shard):
        return False
    try:
        return all(regular_size(plan.file(name, commit.shard)) == size for name, (size, _) in commit.files.items())
    except OSError:
        return False


def write(recipe: Recipe, store: str | Place, split: str, shard: int, run: str | None = None,
          durable: Durable = "power") -> Commit:
    """Make one shard and put it into the store: opaque, idempotent, safe to run twice and at the same time.

    Parameters
    ----------
    store : a store that `materialise` (or `metadata.create`) began for this recipe
    run : name of the folder for temporary files; by default one of this call only
    durable : what a finished shard outlives: a power cut, or only the death of this process (faster)

    Raises
    ------
    StoreError
        Another recipe's store, a sample that is not finite, or a shard that came out different from its own commit.
    OSError
        The disk is full, or the folder vanished.
    """
    plan = layout(recipe, split, store)
    _require_identity(store, recipe.identity)
    done = standing(plan, shard)
    if done is not None:
        return done
    for last_try in (False, True):
        drop = drop_into(place(store), run or uuid4().hex, durable)
        try:
            return _make(recipe, plan, shard, drop)
        except FileNotFoundError:
            # A run beside this one finished the store and cleared its temporary files, or the store is gone.
            done = standing(plan, shard)
            if done is not None:
                return done
            if last_try:
                raise
        finally:
            drop.clear()
            if run is None:
                drop.close()
    raise AssertionError("unreachable")


def _require_identity(store: str | Place, identity: str) -> None:
    found = read_root(store).identity
    if found != identity:
        raise AnotherRecipe(f"{store} belongs to another recipe (identity {found[:12]}, not {identity[:12]})")


def _make(recipe: Recipe, plan: Layout, shard: int, drop: Drop | Puts) -> Commit:
    from factory.floor import make

    start, stop = plan.span(shard)
    try:
        block = make(recipe, plan.split, start, stop)
    except Exception as error:
        if isinstance(error, OSError | MemoryError | StoreError):  # of the machine, not of a sample
            raise
        raise StoreError(_failure(recipe, plan.split, start, stop, error)) from error
    _require_expected(plan, block)
    totals = {name: sums(block[name].to_numpy()) for name in [*plan.bulk, *plan.scalars]}
    for name, (_, squares) in totals.items():
        if not isfinite(squares):  # something in it may be none
            _require_finite(plan, block, name, start)
    commit = Commit(plan.split, shard, start, stop, plan.identity, {}, {}, totals,
                    b"".join(_raw(block, name) for name in plan.scalars))
    files = {}
    for name, bulk in plan.bulk.items():
        pieces = _Marked(encode_shard(bulk, block[name].to_numpy()))
        drop.add(plan.file(name, shard), pieces)
        files[name] = pieces.mark
        block = block.drop_vars(name)  # what is written need not be held
    commit = replace(commit, files=files, scalars={name: _mark(_raw(block, name)) for name in plan.scalars})
    _require_same(plan, commit)
    drop.place()
    at("before commit")
    drop.add(commit_path(plan, shard), commit.line + commit.payload)
    drop.place()
    at("after commit")
    return replace(commit, payload=b"")  # the scalars are on the disk: they need not travel


def _failure(recipe: Recipe, split: str, start: int, stop: int, error: Exception) -> str:
    """Which sample of a shard cannot be made, in which step and of what: each is tried alone."""
    from factory.floor import make

    where = f"samples {start} to {stop - 1}, though none of them alone"
    for index in range(start, stop):
        try:
            make(recipe, split, index, index + 1)
        except Exception as alone:
            error, where = alone, f"sample {index}"
            break
    notes = "; ".join(getattr(error, "__notes__", []))
    lone = where.removeprefix("sample ")
    replay = f"; `factory sample RECIPE {split} {lone}` replays it alone" if lone.isdecimal() else ""
    return f"split {split}, {where}: {type(error).__name__}: {error}{f' ({notes})' if notes else ''}{replay}"


def _raw(block: xr.Dataset, name: str) -> bytes:
    values = block[name].to_numpy()
    return values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes()


def _mark(data: bytes) -> tuple[int, str]:
    return len(data), xxhash.xxh3_128_hexdigest(data)


class _Marked:
    """Pieces of a file that are marked as they pass."""

    def __init__(self, pieces: Iterable[bytes | memoryview]):
        self.pieces, self.size, self.hash = pieces, 0, xxhash.xxh3_128()

    def __iter__(self) -> Iterator[bytes | memoryview]:
        for piece in self.pieces:
            self.size += len(piece)
            self.hash.update(piece)
            yield piece

    @property
    def mark(self) -> tuple[int, str]:
        return self.size, self.hash.hexdigest()


def _require_expected(plan: Layout, block: xr.Dataset) -> None:
    for name in [*plan.bulk, *plan.scalars]:
        item = plan.bulk.get(name) or plan.scalars[name]
        shape = plan.bulk[name].shape if name in plan.bulk else ()
        values = block[name].to_numpy()
        if values.dtype != np.dtype(item.dtype) or values.shape[1:] != shape:
            raise StoreError(f"split {plan.split}: {name!r} was to be {item.dtype} with the shape {shape} a sample, "
                             f"but was made as {values.dtype} with {values.shape[1:]}")


def _require_finite(plan: Layout, block: xr.Dataset, name: str, start: int) -> None:
    row = first_not_finite(block[name].to_numpy())
    if row is not None:
        held = ", ".join(f"{key} = {block[key].to_numpy()[row]:.6g}" for key in [*plan.scalars][:NAMED])
        raise StoreError(f"split {plan.split}, sample {start + row}: {name!r} holds a NaN or an infinity"
                         f"{f' ({held})' if held else ''}; "
                         f"`factory sample RECIPE {plan.split} {start + row}` shows how it came about")


def _require_same(plan: Layout, commit: Commit) -> None:
    """A shard that is remade because a file of it was lost must be what its commit says."""
    try:
        old = read_commit(commit_path(plan, commit.shard))
    except (FileNotFoundError, DamagedCommit):
        return
    if old.identity == commit.identity and old.stop == commit.stop and old.line != commit.line:
        marks = [*old.files.items(), *old.scalars.items()]
        new = {**commit.files, **commit.scalars}
        names = [name for name, mark in marks if new.get(name) != mark]
        raise DamagedStore(f"split {plan.split}, shard {commit.shard}: {', '.join(names) or 'a statistic'} came out "
                           "different from its commit; the code that made the store behaved differently")
