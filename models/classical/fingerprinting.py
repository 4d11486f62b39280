"""What noise leaves of a fingerprint: the least standard deviation of any unbiased estimate."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def bounds(
    simulate: Callable[[Mapping[str, Array]], Array],
    values: Mapping[str, Array],
    steps: Mapping[str, Array],
    decibel: float,
) -> dict[str, Array]:
    """Cramér-Rao bounds of the unknowns of fingerprints whose scale is unknown, too.

    Parameters
    ----------
    simulate : values -> fingerprints (entry, frame) without noise, real or complex
        The factor of a complex one has an unknown phase as well.
    values : name -> (entry,)
        All that the simulation takes.
    steps : name -> (entry,) or one number, > 0
        The unknowns and how far they are moved to either side, each in its unit: derivatives are central differences,
        right to the square of the step.
    decibel : float
        20 log10 of ||fingerprint|| / ||noise||, for noise that is white and normal and alike in both real channels.

    Returns
    -------
    name -> (entry,), in the unit of the unknown
        Standard deviations; inf where the other unknowns explain all that this one does.

    Raises
    ------
    ValueError
        More unknowns than numbers in a fingerprint.

    Notes
    -----
    The noise over the length of what no other derivative explains of an unknown's own: the inverse of Fisher's matrix,
    without squaring what nearly depends on each other.  Of schedules: Zhao 2019, doi:10.1109/TMI.2018.2873704.  Limit:
    samples of exp(-t / T) every d to infinity have sd(T) / T = (T / d) (1 - q) / sqrt(q) times one sample's noise over
    the norm, with q = exp(-2 d / T).
    """
    clean = simulate(values)
    slopes = []
    for name, step in steps.items():
        up, down = (simulate({**values, name: values[name] + sign * step}) for sign in (1, -1))
        slopes.append((up - down) / (2 * np.broadcast_to(step, len(clean))[:, None]))
    slopes += [clean, 1j * clean] if np.iscomplexobj(clean) else [clean]
    table: Array = np.stack([_real(one) for one in slopes], axis=2)  # (entry, number, unknown)
    if table.shape[2] > table.shape[1]:
        raise ValueError(f"{table.shape[2]} unknowns with the scale, but a fingerprint has {table.shape[1]} numbers")
    noise = np.linalg.norm(_real(clean), axis=1) / (np.sqrt(table.shape[1]) * 10 ** (decibel / 20))
    found = {}
    for k, name in enumerate(steps):
        order = [n for n in range(table.shape[2]) if n != k] + [k]
        triangle: Any = np.linalg.qr(table[:, :, order], mode="r")
        with np.errstate(divide="ignore"):
            found[name] = noise / np.abs(triangle[:, -1, -1])
    return found


def _real(signal: Array) -> Array:
    """Both channels of complex numbers, one after the other, in float64."""
    parts = [signal.real, signal.imag] if np.iscomplexobj(signal) else [signal]
    return np.concatenate(parts, axis=1).astype(np.float64)
