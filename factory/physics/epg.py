"""Extended phase graphs.

Hennig 1988, doi:10.1016/0022-2364(88)90128-X; Weigel 2015, doi:10.1002/jmri.24619.
"""

from __future__ import annotations

from typing import Annotated, Any, NamedTuple

import numpy as np
from numba import njit

from factory.numerics import exp_array, sincos
from factory.physics import _graphs
from factory.physics.relaxation import remaining
from factory.step import step
from factory.units import Array

_OPTIONS: dict[str, Any] = {"nogil": True, "cache": True, "error_model": "numpy"}


class Echoes(NamedTuple):
    """What `cpmg` returns."""

    signal: Annotated[Array, "1", "float32", "echo"]
    echo: Annotated[Array, "s", "float64", "echo"]


def _echo_times(spacing: float, n_echo: int, **_: Any) -> dict[str, Any]:
    return {"echo": spacing * np.arange(1, n_echo + 1)}


@step(coordinates=_echo_times)
def cpmg(
    t1: Annotated[Array, "s"],
    t2: Annotated[Array, "s"],
    b1: Annotated[Array, "1"],
    *,
    spacing: Annotated[float, "s", ">0"],
    n_echo: Annotated[int, ">=1"],
    refocus: Annotated[float, "rad", ">=0"] = np.pi,
) -> Echoes:
    """Echo amplitudes of a CPMG train: excitation b1 90 deg, refocusing pulses b1 `refocus` along the magnetisation.

    ::

        90x      refocus_y         refocus_y         refocus_y
         |           |                 |                 |
        -+-----------+--------+--------+--------+--------+--------+--> time
         0       spacing/2  echo 1           echo 2            echo 3
                            1 spacing        2 spacing         3 spacing

    Parameters
    ----------
    t1, t2 : array in s, shape (sample,)
        Relaxation times, >= 0.
    b1 : array, shape (sample,)
        Actual over nominal flip angle, of every pulse.
    spacing : float in s
        From echo to echo.
    n_echo : int
    refocus : float in rad
        Nominal refocusing angle.

    Returns
    -------
    signal : float32, shape (sample, echo)
        F0 at each echo over i M0, so a perfect train is positive; real, because every pulse of the train acts along or
        across the one axis on which the magnetisation lies.
    echo : float64 in s, shape (echo,)
        Time since the excitation.

    Notes
    -----
    Limit: refocus = pi and b1 = 1 give exp(-n spacing / t2).  Pulses are instantaneous and the dephasing of every half
    spacing is the same whole number of cycles across a voxel.  What lies along z outside the train's own pathways (the
    rest of the excitation, recovery by T1) is of even order at every pulse and so of odd order, dephased, at every
    echo: it is left out, which is exact.  States and shifts: Weigel 2015, doi:10.1002/jmri.24619.
    """
    out = np.empty((len(t1), n_echo), np.float32)
    states = np.empty((3, 2 * n_echo + 1))
    column = [np.array(values, np.float64) for values in (t1, t2, b1)]  # a few numbers: one layout for the kernel
    _cpmg(*column, spacing, refocus, states, out)
    return Echoes(out, **_echo_times(spacing, n_echo))


@njit(**_OPTIONS)
def _cpmg(t1: Any, t2: Any, b1: Any, spacing: float, refocus: float, states: Any, out: Any) -> None:
    """Odd orders only: before every pulse F+, F- and Z live on 1, 3, 5 ... half spacings; index j means order 2 j + 1.

    A free spacing moves F+ one place up and F- one place down: their arrays keep still and their origins move.  Orders
    that cannot come back to an echo before the train ends are left out, which is exact.
    """
    n_echo = out.shape[1]
    up, down, z = states[0], states[1], states[2]
    for i in range(out.shape[0]):
        e1, e2, half = remaining(spacing, t1[i]), remaining(spacing, t2[i]), remaining(0.5 * spacing, t2[i])
        s, c = sincos(refocus * b1[i])
        turned, kept = 0.5 * (1.0 - c), 0.5 * (1.0 + c)
        states[:] = 0.0
        up[n_echo] = half * sincos(0.5 * np.pi * b1[i])[0]
        for n in range(n_echo):
            p, m = up[n_echo - n :], down[n:]
            out[i, n] = half * (turned * p[0] + kept * m[0] - s * z[0])  # F- of order 1 meets 0 after half a spacing
            for j in range(min(n + 1, n_echo - n)):
                rise, fall, rest = p[j], m[j], z[j]
                p[j] = e2 * (kept * rise + turned * fall + s * rest)
                m[j] = e2 * (turned * rise + kept * fall - s * rest)
                z[j] = e1 * (0.5 * s * (fall - rise) + c * rest)
            up[n_echo - n - 1] = m[0]  # ... and goes on as F+


class Frames(NamedTuple):
    """What `fisp` returns."""

    signal: Annotated[Array, "1", "float32", "frame"]
    frame: Annotated[Array, "s", "float64", "frame"]


SHORTEST = 1e-30  # s; a relaxation time of 0 is taken as this


def _frame_times(repetition_time: tuple[float, ...], echo_time: float, inversion_time: float, **_: Any
                 ) -> dict[str, Any]:
    begun = np.concatenate([[0.0], np.cumsum(repetition_time)[:-1]])
    return {"frame": inversion_time + begun + echo_time}


def _frames(flip_angle: tuple[float, ...], **_: Any) -> dict[str, int]:
    return {"frame": len(flip_angle)}


@step(sizes=_frames, coordinates=_frame_times, accuracy=("n_order",))
def fisp(
    t1: Annotated[Array, "s"],
    t2: Annotated[Array, "s"],
    b1: Annotated[Array, "1"],
    inversion: Annotated[Array, "1"],
    *,
    flip_angle: Annotated[tuple[float, ...], "rad", ">=0"],
    repetition_time: Annotated[tuple[float, ...], "s", ">0"],
    echo_time: Annotated[float, "s", ">=0"],
    inversion_time: Annotated[float, "s", ">=0"],
    n_order: Annotated[int, ">=2"] = 30,
) -> Frames:
    """Fingerprints of an unbalanced gradient-echo train (FISP) after an inversion; all pulses have one phase.

    ::

        inversion      flip 1        flip 2        flip 3
            |            |             |             |
        ----+------------+----+--------+----+--------+----+----> time
            inversion_time    echo 1        echo 2        echo 3
                         echo_time
                         repetition 1  repetition 2

    Parameters
    ----------
    t1, t2 : array in s, shape (sample,)
        Relaxation times, >= 0.
    b1 : array, shape (sample,)
        Actual over nominal flip angle, of every pulse but the inversion.
    inversion : array, shape (sample,)
        Efficiency: Mz is -inversion M0 behind the inversion pulse, 1 when it is perfect; -1 for none.
    flip_angle, repetition_time : tuples of float in rad and s, shape (frame,)
    echo_time, inversion_time : float in s
        An echo lies inside the shortest repetition.
    n_order : int
        Orders of dephasing that are kept.  The error of fewer falls like exp(-2 n_order TR / T2) and is far below that
        where flip angles are small: 20 orders left 0.1 % at T2 = 300 ms, TR = 12 to 15 ms and up to 70 degrees, 60 left
        0.001 %.

    Returns
    -------
    signal : float32, shape (sample, frame)
        F0 at each echo over i M0: real, with its sign.
    frame : float64 in s, shape (frame,)
        Time of each echo since the inversion.

    Raises
    ------
    ValueError
        Not as many repetition times as flip angles, or an echo behind the end of a repetition.

    Notes
    -----
    Limits: one pulse of 90 degrees gives Mz exp(-echo_time / t2); t2 far below the repetition times gives the spoiled
    gradient echo, and so the Ernst amplitude in the end.  Pulses are instantaneous, what is transverse at the first one
    is spoiled, and each repetition dephases by one whole number of cycles across a voxel behind its echo.  Computed in
    float32, to 1e-6 of M0.  States and shifts: Weigel 2015, doi:10.1002/jmri.24619; sequence: Jiang 2015,
    doi:10.1002/mrm.25559.
    """
    if len(flip_angle) != len(repetition_time):
        raise ValueError(f"epg.fisp: there are {len(flip_angle)} flip angles and {len(repetition_time)} repetition "
                         "times; give one of each for every frame")
    if echo_time > min(repetition_time):
        raise ValueError(f"epg.fisp: the echo time of {echo_time:g} s is longer than the shortest repetition time, "
                         f"{min(repetition_time):g} s")
    rates = np.stack([-1 / np.maximum(t1, SHORTEST), -1 / np.maximum(t2, SHORTEST), b1]).astype(np.float32)
    start = (1 - (1 + inversion) * exp_array(inversion_time * rates[0].astype(float))).astype(np.float32)
    out = np.empty((len(t1), len(flip_angle)), np.float32)
    trains = (np.array(values, np.float32) for values in (flip_angle, repetition_time))
    _graphs.train(rates, start, *trains, echo_time, n_order, out)
    return Frames(out, **_frame_times(repetition_time, echo_time, inversion_time))
