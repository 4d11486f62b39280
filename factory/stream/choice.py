"""Which samples of a split take part: all, the first so many, those with scalars in ranges, those that are made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import xxhash

from factory.order import Indices
from factory.units import Array, convert

Bound = float | str | None
Where = Mapping[str, tuple[Bound, Bound]]


@dataclass(frozen=True)
class Choice:
    """Some samples of a split, in their own order.

    ``picked`` are their indices (4 or 8 bytes each), None where they are simply the first; ``mark`` tells one choice
    from another and is empty for all samples.
    """

    samples: int
    picked: Array | None = None
    mark: str = ""

    def indices(self, places: Indices) -> Indices:
        """Sample indices in the split of places in the choice."""
        return places if self.picked is None else self.picked[places].astype(np.int64)


def choose(total: int, scalar: Callable[[str], Array], units: Mapping[str, str], *, where: Where | None = None,
           limit: int | None = None, made: Array | None = None) -> Choice:
    """The choice of those among ``total`` samples that are ``made`` and lie in all ranges; the first ``limit`` of them.

    Parameters
    ----------
    scalar : gives the values of a scalar for all samples
    units : of all scalars
    where : scalar -> (from, to), both included, either may be None: quantities such as ``"500 ms"``, bare numbers only
        where the scalar has no unit
    made : bool (total,), which samples there are

    Raises
    ------
    ValueError
        No such scalar, no range, or no sample left.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit is at least one sample, not {limit}")
    if made is None and not where:
        samples = total if limit is None else min(limit, total)
        return Choice(samples, None, "" if samples == total else f"first {samples}")
    good = np.ones(total, bool) if made is None else made.copy()
    for name, ends in (where or {}).items():
        low, high = _range(name, ends, units)
        values = scalar(name)
        good &= (values >= low) & (values <= high)
    picked = np.flatnonzero(good)[:limit].astype("<u4" if total < 2**32 else "<i8")
    if not len(picked):
        given = ", ".join(f"{name} from {low} to {high}" for name, (low, high) in (where or {}).items())
        raise ValueError(f"none of the {total} samples is left{f' with {given}' if given else ''}")
    return Choice(len(picked), picked, f"{len(picked)} picked {xxhash.xxh3_64_hexdigest(picked.tobytes())}")


def _range(name: str, ends: tuple[Bound, Bound], units: Mapping[str, str]) -> tuple[float, float]:
    if name not in units:
        raise ValueError(f"where: {name!r} is no scalar of the samples (there are {', '.join(units) or 'none'})")
    if not isinstance(ends, tuple | list) or len(ends) != 2:
        raise ValueError(f"where: {name} needs a range (from, to), either may be None; not {ends!r}")
    low, high = (None if end is None else convert(end, units[name]) for end in ends)
    return -np.inf if low is None else low, np.inf if high is None else high
