"""Who reads which sample when: pure arithmetic, no torch and no files.

An epoch is a keyed permutation of the sample indices, evaluated where it is asked for, so the order of 10**12 samples
needs no table.  It is a function of (seed, epoch) alone: ranks take slices of one global batch and loader workers take
turns with whole batches, hence neither their number nor a restart changes which samples follow which.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from factory.draws import address, permute

Indices = NDArray[np.int64]
Mask = NDArray[np.bool_]
Tail = Literal["drop", "pad"]


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
    """

    samples: int
    batch: int
    seed: int = 0
    shuffle: bool = True
    tail: Tail = "drop"

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
        return permute(positions, self.samples, address("order", self.seed, epoch))

    def positions(self, consumed: int, number: int, rank: int = 0, world: int = 1) -> tuple[Indices, Mask]:
        """Positions in the epoch that rank ``rank`` of ``world`` reads in its batch ``number`` after ``consumed``.

        Returns
        -------
        positions : int64 (share,), and mask : bool (share,), False where the tail was padded.
        """
        first, last = share(self.batch, rank, world)
        start = consumed + number * self.batch
        positions = np.arange(start + first, start + last, dtype=np.int64)
        mask = positions < self.samples
        return np.minimum(positions, self.samples - 1), mask

    def batch_at(
        self, epoch: int, number: int, *, consumed: int = 0, rank: int = 0, world: int = 1
    ) -> tuple[Indices, Mask]:
        """Sample indices and mask of one rank's slice of the global batch ``number`` after ``consumed`` samples."""
        positions, mask = self.positions(consumed, number, rank, world)
        return self.indices(epoch, positions), mask


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
