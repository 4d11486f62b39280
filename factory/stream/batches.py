"""Batches of NumPy arrays, from a store or live from a recipe: the same samples in the same order, bit for bit.

The order is arithmetic (`factory.order`), so a shuffle costs no memory and any number of ranks and loader workers reads
the same one.

While a batch is used, one thread reads the next; it lives as long as an iteration.  Open files and maps stay for the
next pass, and go with the object.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from typing import Any, Literal

import numpy as np
import xarray as xr

from factory.order import LANES, Order, Tail, share, turns
from factory.recipe import Recipe
from factory.store import StoreError
from factory.stream.agenda import Agenda, Mixed, Part, Single, Standing, standing_of, state_of
from factory.stream.choice import Where
from factory.stream.labels import labelled
from factory.stream.members import Member, Opened, Source, require_alike
from factory.stream.memory import Allocate, Pool, fresh
from factory.stream.remote import CACHE_BYTES, Remote
from factory.stream.stored import Verify
from factory.stream.transforms import Random, Transform, applied
from factory.units import Array

State = dict[str, Any]
Arrays = dict[str, Array]
From = str | os.PathLike[str] | Recipe
OnExtend = Literal["refuse", "finish epoch"]
AHEAD = 2  # batches that are read before they are asked for


class Batches:
    """An iterable over batches; one pass is one epoch.

    Parameters
    ----------
    source : path of a finished store, a `Recipe`, or a list of `Member` to mix
        A recipe makes its samples live, in the thread that reads ahead.
    split : which split; needed where there is more than one
    batch : samples of a *global* batch; rank r of w gets the r-th of w slices of it
    seed : of the order of the samples
    shuffle : every epoch in a random order of all samples (True), in their own order (False), or in ``"lanes"``: a few
        shards at a time, for file systems that take long to find a sample
    tail : ``"drop"`` the samples that do not fill the last batch, or ``"pad"`` it with copies and add a ``mask``
    epochs : epochs of one pass
    where : scalar -> (from, to): only samples whose scalars lie in these ranges, for example
        ``{"t1": ("500 ms", "2 s"), "snr": (10, None)}``; of a recipe, scalars that it draws
    limit : only the first so many samples
    partial : read what there is of an unfinished store
    paired : members of a mixture may share a seed, and so their random numbers
    verify : look at the checksum of what is read of a store ``"once"`` in a process, ``"always"`` or ``"never"``
    cache_bytes : how much of a store at an address (``s3://...``) may lie on this machine, in a folder of this user's
        cache; such a store is always read in lanes
    transforms : functions ``(batch, random) -> batch`` (`factory.stream.transforms`), in the thread that reads ahead
    on_extend : what to do about a store that has grown since this stream, or its state, was made: ``"refuse"`` it, or
        ``"finish epoch"`` with the samples that it began with and take all from the next epoch on
    rank, world : this process's rank among all that share the batches; 0 of 1 by default

    Yields
    ------
    dict of fresh, contiguous arrays in the stored dtypes: variables (batch, ...), scalars (batch,), coordinates (n,)
    under their own names; ``sample`` and ``epoch``, int64 (batch,): which sample of its split, in which epoch; of a
    mixture ``member``, int64 (batch,); and with ``tail="pad"`` a bool ``mask`` (batch,), False for copies.

    Raises
    ------
    factory.store.StoreError
        The store is absent, unfinished, damaged or no longer the one that was opened; the sentence names it and, for a
        file, the split, the array and the shard.
    ValueError
        No such split, scalar or sample, or members that do not fit together.
    """

    def __init__(
        self,
        source: From | Sequence[Member],
        split: str | None = None,
        *,
        batch: int,
        seed: int = 0,
        shuffle: bool | str = True,
        tail: Tail = "drop",
        epochs: int = 1,
        where: Where | None = None,
        limit: int | None = None,
        partial: bool = False,
        paired: bool = False,
        verify: Verify = "once",
        cache_bytes: int = CACHE_BYTES,
        transforms: Sequence[Transform] = (),
        on_extend: OnExtend = "refuse",
        rank: int | None = None,
        world: int | None = None,
    ) -> None:
        several = isinstance(source, Sequence) and not isinstance(source, str)
        _require(epochs, rank, world, shuffle, several and (split or where or limit or partial or tail != "drop"))
        members: Any = source if several else [Member(source, split, None, where, limit, partial)]  # type: ignore[arg-type]
        self.members = [Opened(member) for member in members]
        self.split = self.members[0].split
        self.samples = sum(member.samples for member in self.members)
        require_alike(self.members, paired)
        self.coordinates = self.members[0].coordinates  # of a batch's arrays those without a batch axis
        self.batch, self.seed, self.shuffle, self.tail = batch, seed, shuffle, tail
        self.epochs, self.epoch, self.verify, self.cache_bytes = epochs, 0, verify, cache_bytes
        self.transforms, self.on_extend = tuple(transforms), on_extend
        self.agenda = self._agenda()
        self._hold_nothing()
        self._given = None if rank is None or world is None else (rank, world)
        self._zero = Standing(taken=(0,) * len(self.members) if len(self.members) > 1 else ())
        self._start = self._reached = self._zero  # of the next pass; what was handed over of this one
        self._skip = self._turns = 0  # turns of this worker that the next pass leaves out; that were handed over
        self._ended = False  # the pass handed over its last batch, though it was not asked for one more
        share(batch, *self.place)

    @property
    def dataset_id(self) -> str:
        """What tells these samples from all others."""
        return " + ".join(member.dataset_id for member in self.members)

    @property
    def missing(self) -> int:
        """Samples of unfinished stores that are still to be made."""
        return sum(member.missing for member in self.members)

    @property
    def order(self) -> Order:
        """The order of the samples of one source."""
        if not isinstance(self.agenda, Single):
            raise AttributeError("a mixture has no single order; `agenda` says what is read")
        return self.agenda.order

    @property
    def place(self) -> tuple[int, int]:
        """This process's rank and the number of ranks."""
        return self._given or (0, 1)

    def __getstate__(self) -> State:
        # A spawned worker has memory of its own
        held = ("_seen", "_pool", "_sources")
        return {name: value for name, value in self.__dict__.items() if name not in held} | {"_given": self.place}

    def __setstate__(self, state: State) -> None:
        self.__dict__.update(state)
        self._hold_nothing()

    def _hold_nothing(self) -> None:
        """What one process has, and keeps as long as this lives: chunks that were found right, memory, open files."""
        self._seen: list[dict[str, Array]] = [{} for _ in self.members]
        self._pool = Pool(AHEAD + 2)
        self._sources: list[Source] = []

    def __del__(self) -> None:
        _close(getattr(self, "_sources", []))

    def __len__(self) -> int:
        """Batches of a whole pass."""
        return self.epochs * len(self.agenda)

    def set_epoch(self, epoch: int) -> None:
        """The epoch of the next pass; a state that was loaded for the same epoch stays."""
        self._ended = False
        if epoch != self.epoch:
            self.epoch, self._start = epoch, self._first(epoch)
            self._reached, self._skip, self._turns = self._start, 0, 0

    def state_dict(self, batches: int | None = None) -> State:
        """Where the order stands after the last batch that was handed over.

        Parameters
        ----------
        batches : batches taken from this pass; needed with loader workers, whose progress is not seen from here
        """
        at = self._reached if batches is None else self.agenda.after(self._start, batches)
        if self.agenda.left(at) == 0:
            at = self._following(at)
        return {"dataset": self.dataset_id, "seed": self.seed, "shuffle": self.shuffle, "recipe": self._recipe,
                "samples": at.samples or self.samples, **state_of(at)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on after the samples of a state, with any batch size and any number of ranks and workers.

        Raises ValueError when the state belongs to other data or to another order.
        """
        own = self.state_dict()
        grown = self._has_grown(state)
        for key in ("seed", "shuffle", "recipe" if grown and self.on_extend == "finish epoch" else "dataset"):
            if state[key] != own[key]:
                hint = "; it was extended since: on_extend='finish epoch' goes on with it" if grown else ""
                raise ValueError(f"the state is of another order: its {key} is {state[key]}, "
                                 f"this stream's is {own[key]}{hint}")
        at = replace(standing_of(state), samples=int(state["samples"]) if grown else 0)
        if self.agenda.left(at) == 0 and at.taken:  # left refuses what no epoch has
            at = self._following(at)
        self.epoch, self._start, self._reached, self._ended = at.epoch, at, at, False
        self._skip = self._turns = int(state.get("turns", 0))

    @property
    def _recipe(self) -> str:
        """What an extended store has in common with what it was."""
        return " + ".join(f"{member.identity}/{member.split}" for member in self.members)

    def _has_grown(self, state: Mapping[str, Any]) -> bool:
        """Whether a state is of this store when it had fewer samples; its samples are those of its recipe."""
        one = len(self.members) == 1 and not self.members[0].choice.mark and not state.get("taken")
        return one and state["recipe"] == self._recipe and state["samples"] < self.samples

    def _open(self) -> list[Source]:
        """Readers of all members, those of the pass before where nothing has changed; what has grown is read anew."""
        held, self._sources = self._sources, []
        changed = next((member for member in self.members if member.has_changed()), None)
        if changed is not None:
            _close(held)
            held = []
            self._grow(changed)
        if held and all(source.refresh() for source in held):
            return held
        _close(held)
        return [member.reader(self.verify, seen, self.cache_bytes)
                for member, seen in zip(self.members, self._seen, strict=True)]

    def _grow(self, changed: Opened) -> None:
        """Look anew at a store that is another one by now, or refuse it."""
        if self.on_extend != "finish epoch" or len(self.members) > 1:
            raise StoreError(f"{changed.member.source} is no longer the store that this stream was made for (its "
                             "id changed); make a new Stream, with on_extend='finish epoch' if it was extended")
        state = self.state_dict(0)
        self.members = [Opened(changed.member)]
        self.samples, self._seen = self.members[0].samples, [{}]
        self.agenda = self._agenda()
        self.load_state_dict(state)

    def to_xarray(self, batch: Mapping[str, Any]) -> xr.Dataset:
        """A batch of this stream with dims, units and coordinates, on the CPU."""
        return labelled(batch, self.members[0].variables, self.coordinates)

    def _agenda(self) -> Agenda:
        orders = [self._order(member) for member in self.members]
        if len(orders) == 1:
            return Single(orders[0])
        weights = [order.samples if member.weight is None else member.weight
                   for member, order in zip(self.members, orders, strict=True)]
        return Mixed(orders, lambda step: [w(step) if callable(w) else w for w in weights], self.batch, self.seed)

    def _order(self, member: Opened) -> Order:
        batch = self.batch if len(self.members) == 1 else 1
        group = member.group if self.shuffle == "lanes" or (self.shuffle and member.far) else 0
        return Order(member.samples, batch, self.seed, bool(self.shuffle), self.tail, group)

    def _first(self, epoch: int) -> Standing:
        """Where an epoch begins: for a mixture after all that was read, or would have been, before it."""
        if not self._zero.taken:
            return Standing(epoch)
        at = self._start
        if at.epoch >= epoch:
            return self.agenda.after(self._zero, epoch * len(self.agenda))
        return self.agenda.after(at, self.agenda.left(at) + (epoch - at.epoch - 1) * len(self.agenda))

    def _following(self, at: Standing) -> Standing:
        return Standing(at.epoch + 1, step=at.step, taken=at.taken)

    def _turn(self) -> tuple[int, int]:
        """Which of a loader's workers this process is, and of how many."""
        return 0, 1

    def _memory(self, count: int) -> Allocate:
        """Where a batch is put."""
        return self._pool

    def _handed(self, arrays: Arrays) -> Any:
        """What a batch looks like."""
        return arrays

    def __iter__(self) -> Iterator[Any]:
        if self._ended:  # whoever knows the length of a pass stops at its last batch
            self.set_epoch(self.epoch + self.epochs)
        sources = self._open()
        try:
            yield from self._passed(sources)
        except GeneratorExit:
            self._keep(sources)
            raise
        except BaseException:
            _close(sources)
            raise
        self._keep(sources)
        self._end()

    def _passed(self, sources: list[Source]) -> Iterator[Any]:
        """The batches of a pass, while a thread reads ahead."""
        total = self.agenda.left(self._start) + (self.epochs - 1) * len(self.agenda)
        counts = iter(turns(total, *self._turn())[self._skip :])
        self._turns = self._skip
        process, ahead = os.getpid(), deque[Future[tuple[Any, Standing]]]()
        self._reached = self._start
        reader = ThreadPoolExecutor(1, thread_name_prefix="factory-stream")  # its thread starts with the first job
        try:
            ahead.extend(self._ask(reader, sources, counts, AHEAD))
            while ahead:
                if os.getpid() != process:
                    raise RuntimeError("this process was forked while the stream was read, and the thread that reads "
                                       "stayed behind: begin a new pass")
                batch = ahead.popleft()
                ahead.extend(self._ask(reader, sources, counts, 1))
                made, self._reached = batch.result()
                self._turns, self._ended = self._turns + 1, not ahead
                yield made
        finally:
            reader.shutdown(wait=True, cancel_futures=True)

    def _end(self) -> None:
        self.set_epoch(self.epoch + self.epochs)

    def _keep(self, sources: list[Source]) -> None:
        """Let the next pass have the readers of this one; two passes at once have their own.

        A folder with what came from far away is left to whoever needs it next.
        """
        far = any(member.far for member in self.members)
        spare, self._sources = (sources, []) if far else (self._sources, sources)
        _close(spare)

    def _ask(self, reader: ThreadPoolExecutor, sources: list[Source], counts: Iterator[int], most: int,
             ) -> list[Future[tuple[Any, Standing]]]:
        rank, world = self.place
        return [reader.submit(self._batch, sources, count, rank, world) for count in islice(counts, most)]

    def _batch(self, sources: list[Source], count: int, rank: int, world: int) -> tuple[Any, Standing]:
        """The batch after ``count`` others of this pass, and where the order stands after it."""
        parts, mask = self.agenda.parts(self._start, count, rank, world)
        memory = self._memory(count)
        if len(self.members) == 1:
            arrays = self._read(sources, parts[0], memory)
            arrays["epoch"] = parts[0].epochs
            self._expect(sources[0], count, rank, world)
        else:
            arrays = self._mixed(sources, parts, len(mask), memory)
        if self.tail == "pad":
            arrays["mask"] = mask
        batch = self._handed(arrays)
        if self.transforms:
            batch = applied(self.transforms, batch, Random(self.seed, arrays, batch["sample"]))
        return batch, self.agenda.after(self._start, count + 1)

    def _expect(self, source: Source, count: int, rank: int, world: int) -> None:
        """Let what lies far away come before it is needed: while half of the shards that are open are read."""
        if isinstance(source, Remote):
            ahead = max(1, self.members[0].group * LANES // (2 * self.batch))
            (part,), _ = self.agenda.parts(self._start, count + ahead, rank, world)
            source.expect(self.members[0].choice.indices(part.places), ahead)

    def _read(self, sources: list[Source], part: Part, memory: Allocate) -> Arrays:
        indices = self.members[part.member].choice.indices(part.places)
        arrays = sources[part.member].read(indices, memory)
        arrays["sample"] = indices
        return arrays

    def _mixed(self, sources: list[Source], parts: list[Part], size: int, memory: Allocate) -> Arrays:
        """The parts of all members, each sample in its row."""
        out: Arrays = {}
        for part in parts:
            arrays = self._read(sources, part, fresh)
            arrays |= {"epoch": part.epochs, "member": np.full(len(part.rows), part.member)}
            for name, values in arrays.items():
                if name in self.coordinates:
                    out[name] = values
                    continue
                if name not in out:
                    out[name] = memory(name, (size, *values.shape[1:]), str(values.dtype))
                out[name][part.rows] = values
        return out


def _close(sources: list[Source]) -> None:
    for source in sources:
        source.close()


def _require(epochs: int, rank: int | None, world: int | None, shuffle: bool | str, misplaced: object) -> None:
    if epochs < 1:
        raise ValueError(f"a pass has at least one epoch, not {epochs}")
    if (rank is None) != (world is None):
        raise ValueError("give both rank and world, or neither")
    if shuffle not in (True, False, "lanes"):
        raise ValueError(f"shuffle is True, False or 'lanes', not {shuffle!r}")
    if misplaced:
        raise ValueError("of a mixture, each Member has its own split, where, limit and partial; its tail is 'drop'")
