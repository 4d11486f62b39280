"""Which samples of which member make up a batch: pure arithmetic on where a pass stands.

One source is read epoch by epoch, every sample once.  Of several, each place of a batch falls to a member by its
weight; a member that runs out begins its next epoch, and what all members' samples amount to counts as one epoch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from factory.draws import address
from factory.order import Indices, Mask, Order, share

GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2**64 over the golden ratio: its multiples spread most evenly over a circle
LOST, TURN = np.uint64(11), 2.0**53  # a circle in as many parts as a float64 tells apart
Weigh = Callable[[int], Sequence[float]]


@dataclass(frozen=True)
class Standing:
    """Where an order stands: samples ``consumed`` of an epoch; of a mixture also its step and each member's samples.

    ``samples`` is how many this one epoch has where the store has grown since it began, else 0.
    """

    epoch: int = 0
    consumed: int = 0
    samples: int = 0
    step: int = 0
    taken: tuple[int, ...] = ()


@dataclass(frozen=True)
class Part:
    """What one member gives to a batch: places of its samples in its choice, their epochs, and their rows."""

    member: int
    places: Indices
    epochs: Indices
    rows: Indices


class Agenda(Protocol):
    """The batches of a pass that begins where an order stands."""

    def __len__(self) -> int:
        """Batches of an epoch."""

    def left(self, at: Standing) -> int:
        """Batches that are left of the epoch."""

    def after(self, at: Standing, count: int) -> Standing:
        """Where it stands after ``count`` more batches."""

    def parts(self, at: Standing, count: int, rank: int, world: int) -> tuple[list[Part], Mask]:
        """A rank's slice of the batch after ``count`` more."""


class Single:
    """One source."""

    def __init__(self, order: Order) -> None:
        self.order = order

    def __len__(self) -> int:
        return len(self.order)

    def left(self, at: Standing) -> int:
        return self._order(at, at.epoch).batches_from(at.consumed)

    def _order(self, at: Standing, epoch: int) -> Order:
        return replace(self.order, samples=at.samples) if at.samples and epoch == at.epoch else self.order

    def _where(self, at: Standing, count: int) -> tuple[int, int, int]:
        """(epoch, batch number, samples left out before batch 0) of the batch after ``count`` more."""
        first = self.left(at)
        if count < first:
            return at.epoch, count, at.consumed
        later, number = divmod(count - first, len(self.order))
        return at.epoch + 1 + later, number, 0

    def after(self, at: Standing, count: int) -> Standing:
        if count == 0:
            return at
        epoch, number, start = self._where(at, count - 1)
        samples = self._order(at, epoch).samples
        consumed = min(start + (number + 1) * self.order.batch, samples)
        return Standing(epoch, consumed, at.samples if epoch == at.epoch else 0)

    def parts(self, at: Standing, count: int, rank: int, world: int) -> tuple[list[Part], Mask]:
        epoch, number, start = self._where(at, count)
        order = self._order(at, epoch)
        indices, mask = order.batch_at(epoch, number, consumed=start, rank=rank, world=world)
        return [Part(0, indices, np.full(len(indices), epoch), np.arange(len(indices)))], mask


class Mixed:
    """Several sources.

    Parameters
    ----------
    orders : of the members, whose batch sizes do not count
    weigh : weights of all members at a step
    """

    def __init__(self, orders: Sequence[Order], weigh: Weigh, batch: int, seed: int) -> None:
        self.orders, self.weigh, self.batch = orders, weigh, batch
        self.samples = sum(order.samples for order in orders)
        self.key = np.uint64(address("mixture", seed))
        if self.samples < batch:
            raise ValueError(f"a batch of {batch} is larger than the {self.samples} samples there are")
        self.known: tuple[Standing, int, Standing] | None = None  # the last answer: most questions follow each other

    def __len__(self) -> int:
        return self.samples // self.batch

    def left(self, at: Standing) -> int:
        if not 0 <= at.consumed <= self.samples or len(at.taken) != len(self.orders):
            raise ValueError(f"an epoch of this mixture has {self.samples} samples of {len(self.orders)} members, "
                             f"and {at} is none of its states")
        return (self.samples - at.consumed) // self.batch

    def after(self, at: Standing, count: int) -> Standing:
        done, now = 0, at
        if self.known is not None and self.known[0] == at and self.known[1] <= count:
            _, done, now = self.known
        for _ in range(count - done):
            now = self._next(now)
        self.known = at, count, now
        return now

    def _next(self, at: Standing) -> Standing:
        counts = np.bincount(self._members(at), minlength=len(self.orders))
        taken = tuple((np.array(at.taken) + counts).tolist())
        if at.consumed + 2 * self.batch > self.samples:  # no whole batch is left behind this one
            return Standing(at.epoch + 1, 0, step=at.step + 1, taken=taken)
        return Standing(at.epoch, at.consumed + self.batch, step=at.step + 1, taken=taken)

    def _members(self, at: Standing) -> Indices:
        """Whose each place of a batch is."""
        weights = np.asarray(self.weigh(at.step), float)
        if not (np.isfinite(weights).all() and (weights >= 0).all() and weights.sum() > 0):
            raise ValueError(f"the weights at step {at.step} are {weights.tolist()}; each must be a number that is not "
                             "negative, and one of them more than zero")
        first = np.uint64(sum(at.taken))
        turns = (first + np.arange(self.batch, dtype=np.uint64)) * GOLDEN + self.key
        edges = np.cumsum(weights) / weights.sum()
        found: Indices = np.searchsorted(edges[:-1], (turns >> LOST) / TURN, side="right")
        return found

    def parts(self, at: Standing, count: int, rank: int, world: int) -> tuple[list[Part], Mask]:
        now = self.after(at, count)
        members, (first, last) = self._members(now), share(self.batch, rank, world)
        parts = []
        for member, order in enumerate(self.orders):
            rows = np.flatnonzero(members == member)
            numbers = now.taken[member] + np.arange(len(rows))
            mine = (rows >= first) & (rows < last)
            if mine.any():
                epochs, positions = np.divmod(numbers[mine], order.samples)
                places = np.empty_like(positions)
                for epoch in np.unique(epochs).tolist():
                    here = epochs == epoch
                    places[here] = order.indices(epoch, positions[here])
                parts.append(Part(member, places, epochs, rows[mine] - first))
        return parts, np.ones(last - first, bool)


def state_of(at: Standing) -> dict[str, Any]:
    """Plain numbers for a checkpoint."""
    mixed = {"step": at.step, "taken": list(at.taken)} if at.taken else {}
    return {"epoch": at.epoch, "consumed": at.consumed, **mixed}


def standing_of(state: Any) -> Standing:
    """The same from a checkpoint."""
    return Standing(int(state["epoch"]), int(state["consumed"]), step=int(state.get("step", 0)),
                    taken=tuple(int(n) for n in state.get("taken", ())))
