"""Who reads which sample when: pure arithmetic, no torch and no files.

An epoch is a keyed permutation of the sample indices, evaluated where it is asked for, so the order of 10**12 samples
needs no table.  It is a function of (seed, epoch) alone: ranks take slices of one global batch and loader workers take
turns with whole batches, hence neither their number nor a restart changes which samples follow which.

What lies far away is read in lanes: neighbouring samples form groups (shards), the groups are dealt out to `LANES`
lanes, and an epoch takes a sample from each lane in turn.  A batch is then made of few groups, and each is soon done.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from factory.draws import address, permute

Indices = NDArray[np.int64]
Mask = NDArray[np.bool_]
Tail = Literal["drop", "pad"]
LANES = 64  # groups that are read at the same time, by all ranks together; another number is another order


@dataclass(frozen=True)
class Order:
    """The order of one sample axis.

    Parameters
    ----------
    samples : number of samples of the split
    batch : samples of one *global* batch, all ranks together
    seed : another seed is another order
    shuffle : False reads 0, 1, 2 ... in every epoch
    tail : what happens to the last samples of an epoch that do not fill a batch.  ``"drop"``: they are left out
        (training).  ``"pad"``: the batch is filled with copies of its last sample, and a mask tells them apart
        (evaluation).
    group : samples of a group, for an order in lanes; 0 for one over all samples
    """

    samples: int
    batch: int
    seed: int = 0
    shuffle: bool = True
    tail: Tail = "drop"
    group: int = 0

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise ValueError(f"a batch holds at least one sample, not {self.batch}")
        if self.tail not in ("drop", "pad"):
            raise ValueError(f"tail is 'drop' or 'pad', not {self.tail!r}")
        if self.samples < 1:
            raise ValueError(f"there must be at least one sample to read, not {self.samples}")
        if self.tail == "drop" and self.samples < self.batch:
            raise ValueError(
                f"a batch of {self.batch} is larger than the {self.samples} samples there are, so every epoch would be "
                "empty; take a smaller batch or tail='pad'"
            )

    def __len__(self) -> int:
        """Global batches of one epoch."""
        return self.batches_from(0)

    def batches_from(self, consumed: int) -> int:
        """Global batches that are left of an epoch after so many samples of it."""
        if not 0 <= consumed <= self.samples:
            raise ValueError(f"an epoch has {self.samples} samples, so {consumed} of them cannot have been consumed")
        left = self.samples - consumed
        return left // self.batch if self.tail == "drop" else -(-left // self.batch)

    def indices(self, epoch: int, positions: Indices) -> Indices:
        """Sample indices at the given positions of an epoch; same shape."""
        if not self.shuffle:
            return np.asarray(positions, dtype=np.int64)
        if self.group:
            return _lanes(self.samples, self.group, self.seed, epoch).indices(positions)
        return permute(positions, self.samples, address("order", self.seed, epoch))

    def positions(self, consumed: int, number: int, rank: int = 0, world: int = 1) -> tuple[Indices, Mask]:
        """Positions in the epoch that rank ``rank`` of ``world`` reads in its batch ``number`` after ``consumed``.

        Returns
        -------
        positions : int64 (share,), and mask : bool (share,), False where the tail was padded.
        """
        first, last = share(self.batch, rank, world)
        start = consumed + number * self.batch
        places = np.arange(self.batch, dtype=np.int64)
        if self.group and self.shuffle:  # a rank takes neighbouring lanes, so that no other reads their groups
            places = places[np.argsort((start + places) % LANES, kind="stable")]
        positions = start + places[first:last]
        mask = positions < self.samples
        return np.minimum(positions, self.samples - 1), mask

    def batch_at(
        self, epoch: int, number: int, *, consumed: int = 0, rank: int = 0, world: int = 1
    ) -> tuple[Indices, Mask]:
        """Sample indices and mask of one rank's slice of the global batch ``number`` after ``consumed`` samples."""
        positions, mask = self.positions(consumed, number, rank, world)
        return self.indices(epoch, positions), mask


class _Lanes(NamedTuple):
    """How an epoch is dealt out to lanes.

    Full groups are permuted; the rest, which fills none, stands in between at a place of its own.  Positions are cut
    where lanes end: from ``starts[k]`` on the lanes ``active[k]`` take turns, each at ``offsets[k]`` of its samples.
    """

    samples: int
    group: int
    key: int
    place: int  # of the rest in the sequence of groups
    starts: Indices
    offsets: Indices
    active: tuple[Indices, ...]

    def indices(self, positions: Indices) -> Indices:
        """Sample indices at positions of the epoch; same shape."""
        lane, offset = self._in_lanes(np.asarray(positions, np.int64).reshape(-1))
        rest = self.samples % self.group
        number, row = np.divmod(offset, self.group)
        if rest:  # behind it, all is later by what it lacks
            turn = self.place // LANES
            behind = (lane == self.place % LANES) & (offset >= turn * self.group + rest)
            number[behind], row[behind] = np.divmod(offset[behind] + self.group - rest, self.group)
        return self._samples(number * LANES + lane, row).reshape(np.shape(positions))

    def _in_lanes(self, positions: Indices) -> tuple[Indices, Indices]:
        part = np.searchsorted(self.starts, positions, side="right") - 1
        lane, offset = np.empty_like(positions), np.empty_like(positions)
        for k in np.unique(part).tolist():
            here = part == k
            turn, which = np.divmod(positions[here] - self.starts[k], len(self.active[k]))
            lane[here], offset[here] = self.active[k][which], self.offsets[k] + turn
        return lane, offset

    def _samples(self, sequence: Indices, row: Indices) -> Indices:
        """Samples of groups by their place in the sequence; inside a group they are permuted, too."""
        full, rest = divmod(self.samples, self.group)
        out = np.empty_like(sequence)
        for place in np.unique(sequence).tolist():
            here, last = sequence == place, rest > 0 and place == self.place
            if last:
                number = full
            else:
                number = int(permute(np.array([place - (rest > 0 and place > self.place)]), full, self.key)[0])
            inside = permute(row[here], rest if last else self.group, address("lane", self.key, number))
            out[here] = number * self.group + inside
        return out


@lru_cache(maxsize=8)
def _lanes(samples: int, group: int, seed: int, epoch: int) -> _Lanes:
    key = address("order", seed, epoch)
    full, rest = divmod(samples, group)
    groups = full + (rest > 0)
    place = address("rest", key) % groups
    lane = np.arange(min(LANES, groups), dtype=np.int64)
    length = (groups - lane + LANES - 1) // LANES * group
    if rest:
        length[place % LANES] -= group - rest
    ends = np.unique(length)
    offsets = np.concatenate([[0], ends[:-1]])
    active = tuple(lane[length > offset] for offset in offsets.tolist())
    counts = (ends - offsets) * np.array([len(lanes) for lanes in active])
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    return _Lanes(samples, group, key, place, starts, offsets, active)


def share(batch: int, rank: int, world: int) -> tuple[int, int]:
    """First place of a rank's contiguous slice of a global batch and the one after its last.

    Slices of all ranks together are the batch; their sizes differ by one at most (weight the loss by them where the
    world does not divide the batch).
    """
    if not 0 <= rank < world:
        raise ValueError(f"rank {rank} does not exist in a world of {world}")
    if world > batch:
        raise ValueError(f"a global batch of {batch} cannot be divided among {world} ranks: each needs a sample")
    return batch * rank // world, batch * (rank + 1) // world


def turns(total: int, worker: int = 0, workers: int = 1) -> range:
    """Numbers of the batches that one loader worker makes: worker, worker + workers, ... below ``total``."""
    return range(worker, total, workers)
