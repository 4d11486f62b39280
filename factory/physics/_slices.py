"""What a pulse of a sequence does across a slice."""

from __future__ import annotations

import numpy as np

from factory.numerics import cos_array, sin_array
from factory.physics import bloch
from factory.sequences.table import Table

_AT_ONCE = 1e-9  # s, a pulse of 90 degrees in which nothing else happens


def slice_profile(table: Table, width: float, places: int, pulse: int = 0, centre: float = 0.0) -> tuple[float, ...]:
    """Flip angles of a pulse over its nominal one at equidistant places across a slice: a ``profile`` for a train.

    Parameters
    ----------
    table : Table
        Of a sequence: ``Sequence.table()`` gives it.
    width : float in m
        Along the pulse's gradient: the places lie in the middles of as many equal parts of it.  Take some two slices,
        so that what lies outside them is small; the signal is the mean over all of the width.
    places : int
    pulse : int
        Which one of the table.
    centre : float in m
        Of the width, along the gradient.

    Returns
    -------
    profile : tuple of float, of ``places``
        From the end of the width against the gradient to the one along it.

    Notes
    -----
    The nominal angle is that of a weak pulse at the centre, which is what a sequence states.  Limit: of a weak pulse it
    is the Fourier transform of the pulse over the gradient's area.  The profile of a strong one is that of its own
    angle, of at most 180 degrees; phases across the slice are left out, as if refocused, and so is relaxation.
    """
    first, last = table.pulses[pulse]
    rf, area, time = table.rf[first:last], table.area[first:last], table.time[first : last + 1] - table.time[first]
    whole = area.sum(axis=0)
    strength = float(np.sqrt((whole * whole).sum()))
    along = whole / strength if strength > 0 else np.array([0.0, 0.0, 1.0])
    at = centre + width * ((np.arange(places) + 0.5) / places - 0.5)
    turns = centre * (area * along).sum(axis=1)  # by the gradient, in each piece, which weakens what is constant in it
    phase = 2 * np.pi * (np.cumsum(turns) - 0.5 * turns)
    weak = rf * np.diff(time) * np.sinc(turns) * (cos_array(phase) + 1j * sin_array(phase))
    nominal = 2 * np.pi * abs(weak.sum())
    sampled = np.arange(len(rf) + 1) >= len(rf) - 1  # behind the pulse, and Mz, which a pulse of phase 0 turns to y
    told = Table(np.append(time, time[-1] + _AT_ONCE), np.append(rf, 0.25 / _AT_ONCE), np.append(area, [[0.0] * 3], 0),
                 sampled, np.zeros(2), np.array([[0, len(rf) + 1]]))  # fmt: skip
    spins = np.zeros((places, 1, 9))
    spins[..., :2], spins[..., 2:4], spins[..., 5:8] = np.inf, 1.0, at[:, None, None] * along
    seen = bloch.signals(bloch.planned(told), spins, np.ones((places, 1, 1), complex), error=1e-6, precision="float64")
    transverse, z = np.abs(seen[0][:, 0, 0]), seen[0][:, 0, 1].imag
    return tuple((np.arctan2(transverse, z) / nominal).tolist())
