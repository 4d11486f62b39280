"""What a pulse sequence does to spins, as plain arrays that every engine reads."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from factory.units import Array


@dataclass(frozen=True)
class Table:
    """One interval after the other; inside one the pulse is constant, and only the area of the gradient counts.

    Borders lie wherever a pulse changes its value and wherever a sample is taken, so each interval is either a piece of
    a pulse or free precession, which has a closed form.  Nothing here depends on a gyromagnetic ratio.

    Attributes
    ----------
    time : float64 in s, shape (interval + 1,)
        Borders; the first is 0, and they ascend strictly.
    rf : complex128 in Hz, shape (interval,)
        gamma-bar B1 of the pulse, its mean over the interval, with the phase of the house (a pulse of phase 0 takes Mz
        to +i; one that is resonant at +f turns by -2 pi f t).  0 where there is none.
    area : float64 in 1/m, shape (interval, 3)
        Integral of gamma-bar G over the interval, along x, y and z.
    sampled : bool, shape (interval,)
        Whether a sample is taken at the end of the interval.
    receiver : float64 in rad, shape (sample,)
        Phase of the receiver: the measured signal is Mxy exp(i receiver), in the house's sign.
    pulses : int64, shape (pulse, 2)
        First interval of each pulse and the one behind its last, dead times without amplitude left out.
    """

    time: Array
    rf: Array
    area: Array
    sampled: Array
    receiver: Array
    pulses: Array

    def __post_init__(self) -> None:
        for array in vars(self).values():
            array.flags.writeable = False

    @property
    def duration(self) -> Array:
        """Length of each interval in s."""
        return np.diff(self.time)

    @property
    def sample_times(self) -> Array:
        """When samples are taken, in s."""
        return self.time[1:][self.sampled]
