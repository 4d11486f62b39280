"""What a pulse sequence does to spins, as plain arrays that every engine reads."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from factory.units import Array

_ARRAYS = ("time", "rf", "area", "sampled", "receiver", "pulses")


@dataclass(frozen=True, eq=False)
class Table:
    """One interval after the other; inside one the pulse is constant, and only the area of the gradient counts.

    Borders lie wherever a pulse changes its value and wherever a sample is taken, so each interval is either a piece of
    a pulse or free precession, which has a closed form.  Nothing here depends on a gyromagnetic ratio.

    Attributes
    ----------
    time : float64 in s, shape (interval + 1,)
        Borders; the first is 0, and they ascend strictly.
    rf : complex128 in Hz, shape (interval,)
        gamma-bar B1 of the pulse, its mean over the interval in the frame in which its frequency offset rests, with the
        phase of the house (a pulse of phase 0 takes Mz to +i; one that is resonant at +f turns by -2 pi f t).  0 where
        there is none.
    area : float64 in 1/m, shape (interval, 3)
        Integral of gamma-bar G over the interval, along x, y and z.
    sampled : bool, shape (interval,)
        Whether a sample is taken at the end of the interval.
    receiver : float64 in rad, shape (sample,)
        Phase of the receiver: the measured signal is Mxy exp(i receiver), in the house's sign.
    pulses : int64, shape (pulse, 2)
        First interval of each pulse and the one behind its last, dead times without amplitude left out.
    text : str
        The Pulseq file that it was made from, if any; not compared.
    """

    time: Array
    rf: Array
    area: Array
    sampled: Array
    receiver: Array
    pulses: Array
    text: str = ""

    def __post_init__(self) -> None:
        for name in _ARRAYS:
            array = np.ascontiguousarray(getattr(self, name)).view()
            array.flags.writeable = False
            object.__setattr__(self, name, array)

    @cached_property
    def digest(self) -> str:
        """sha256 over all arrays, in hex; two tables are equal if it is."""
        seen = hashlib.sha256()
        for name in _ARRAYS:
            array: Array = getattr(self, name)
            seen.update(repr((name, array.shape)).encode())
            seen.update(array.tobytes())
        return seen.hexdigest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Table) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def __reduce__(self) -> tuple[type[Table], tuple[Any, ...]]:
        arrays = [getattr(self, name) for name in _ARRAYS]  # a plain pickle would forget that they are read-only
        return Table, (*arrays, self.text)

    @property
    def duration(self) -> Array:
        """Length of each interval in s."""
        return np.diff(self.time)

    @property
    def sample_times(self) -> Array:
        """When samples are taken, in s."""
        return self.time[1:][self.sampled]
