"""What is done to whole batches, of arrays or of tensors on any device: normalising, channels, random numbers.

A transform is a function ``(batch, random) -> batch``.  What it draws from ``random`` depends on the seed, the name,
the sample and its epoch, and on nothing else: not on the batch, the rank, the worker or the device.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from factory import numerics
from factory.draws import address
from factory.store import DamagedStore, read_layout, read_root
from factory.store.commit import parse
from factory.store.damage import trusted_lines
from factory.store.files import place
from factory.store.finish import MANIFEST, SHARDS
from factory.store.metadata import BOOKS, read_document
from factory.units import Array

Values = Any  # a NumPy array or a tensor


class Random:
    """Random numbers for the samples of one batch, like the batch itself an array or a tensor on its device."""

    def __init__(self, seed: int, batch: Mapping[str, Values], like: Values = None) -> None:
        self.seed, self.like = seed, batch["sample"] if like is None else like
        one = np.asarray(batch["sample"])
        member = np.asarray(batch["member"]) if "member" in batch else np.zeros_like(one)
        self.places = list(zip(member.tolist(), np.asarray(batch["epoch"]).tolist(), one.tolist(), strict=True))

    def uniform(self, name: str, shape: tuple[int, ...] = ()) -> Values:
        """Uniform numbers in (0, 1), float32 (batch, *shape)."""
        return self._drawn(numerics.uniform_rows, name, shape)

    def normal(self, name: str, shape: tuple[int, ...] = ()) -> Values:
        """Standard normal numbers, float32 (batch, *shape)."""
        return self._drawn(numerics.normal_rows, name, shape)

    def _drawn(self, fill: Callable[..., Any], name: str, shape: tuple[int, ...]) -> Values:
        out = np.empty((len(self.places), prod(shape)))
        rows: dict[tuple[int, int], list[int]] = {}
        for row, (member, epoch, _) in enumerate(self.places):
            rows.setdefault((member, epoch), []).append(row)
        for (member, epoch), some in rows.items():
            part = np.empty((len(some), out.shape[1]))
            fill(part, np.uint64(address("transform", self.seed, member, epoch, name)),
                 np.array([self.places[row][2] for row in some], np.uint64))
            out[some] = part
        values = out.astype(np.float32).reshape(-1, *shape)
        return values if isinstance(self.like, np.ndarray) else _moved(values, self.like)


def _moved(values: Array, like: Values) -> Values:
    import torch

    return torch.from_numpy(values).to(like.device, non_blocking=True)


Transform = Callable[[dict[str, Values], Random], dict[str, Values]]


def applied(transforms: Sequence[Transform], batch: dict[str, Values], random: Random) -> dict[str, Values]:
    """A batch after one transform after the other."""
    for transform in transforms:
        batch = transform(batch, random)
    return batch


@dataclass(frozen=True)
class Scale:
    """Mean and standard deviation of a variable, over all its numbers; the mean of a complex one is complex."""

    mean: complex
    deviation: float


def scales(store: str, split: str | None = None) -> dict[str, Scale]:
    """The constants of every float and complex variable of a finished store, which its commits hold: nothing is read.

    Raises StoreError where the store may not be read.
    """
    layout = read_layout(store, split)
    count = dict.fromkeys([*layout.bulk, *layout.scalars], 0)
    total: dict[str, complex] = dict.fromkeys(count, 0.0)
    squares = dict.fromkeys(count, 0.0)
    books = place(store) / BOOKS
    for line in trusted_lines(layout, read_root(store), read_document(books / MANIFEST)):
        if line is None:
            raise DamagedStore(f"{books / SHARDS} is damaged (it is not what the manifest says); run "
                               f"`factory repair {store}`")
        commit = parse(line)
        for name in count:
            added, squared = commit.sums[name]
            total[name] += complex(*added) if len(added) == 2 else added[0]
            squares[name] += squared
            count[name] += commit.samples * prod(layout.bulk[name].shape if name in layout.bulk else ())
    found = {}
    for name, numbers in count.items():
        if np.dtype(layout.item(name).dtype).kind in "fc":
            mean = total[name] / numbers
            found[name] = Scale(mean, max(0.0, squares[name] / numbers - abs(mean) ** 2) ** 0.5)
    return found


@dataclass(frozen=True)
class Normalise:
    """(value - mean) / deviation for the variables that are named; `undo` is the way back."""

    scales: Mapping[str, Scale]

    def __call__(self, batch: dict[str, Values], random: Random | None = None) -> dict[str, Values]:
        return batch | {name: (batch[name] - one.mean) / (one.deviation or 1.0) for name, one in self.scales.items()}

    def undo(self, batch: dict[str, Values]) -> dict[str, Values]:
        """Values as they were."""
        return batch | {name: batch[name] * (one.deviation or 1.0) + one.mean for name, one in self.scales.items()}


def channels(batch: dict[str, Values], random: Random | None = None) -> dict[str, Values]:
    """Complex variables (batch, ...) as real ones (batch, 2, ...): real part, imaginary part."""
    return {name: _split(values) if "complex" in str(values.dtype) else values for name, values in batch.items()}


def _split(values: Values) -> Values:
    if isinstance(values, np.ndarray):
        return np.stack([values.real, values.imag], axis=1)
    import torch

    return torch.stack([values.real, values.imag], dim=1)
