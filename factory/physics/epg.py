"""Extended phase graphs.

Hennig 1988, doi:10.1016/0022-2364(88)90128-X; Weigel 2015, doi:10.1002/jmri.24619.
"""

from __future__ import annotations

from typing import Annotated, Any, NamedTuple

import numpy as np
from numba import njit

from factory.numerics import cos_array, exp_array, sin_array, sincos
from factory.physics import SHORTEST, _graphs, _pathways, _pools, _steady, _trains
from factory.physics._slices import slice_profile as slice_profile
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


def _frame_times(repetition_time: tuple[float, ...], echo_time: float, inversion_time: float, **_: Any
                 ) -> dict[str, Any]:
    begun = np.concatenate([[0.0], np.cumsum(repetition_time)[:-1]])
    return {"frame": inversion_time + begun + echo_time}


def _frames(flip_angle: tuple[float, ...], **_: Any) -> dict[str, int]:
    return {"frame": len(flip_angle)}


@step(sizes=_frames, coordinates=_frame_times, accuracy=("error",))
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
    profile: Annotated[tuple[float, ...], ">=0"] = (1.0,),
    error: Annotated[float, ">0"] = 1e-4,
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
    profile : tuple of float
        Flip angles over the nominal one at equidistant places across the slice, whose signals are averaged.
    error : float
        Bound on what the orders of dephasing left out could change in the signal, whatever the pulses.  Each sample has
        as many as its relaxation times ask for.  Pulses that mix the states lose less: 1,000 of up to 70 degrees lost a
        hundredth of the bound (1.2e-3 at a bound of 0.1).

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
    _trains.check_lengths("fisp", flip_angle, repetition_time)
    _trains.check_echo("fisp", echo_time, min(repetition_time), "the shortest repetition time")
    rates = np.stack([-1 / np.maximum(t1, SHORTEST), -1 / np.maximum(t2, SHORTEST), b1]).astype(np.float32)
    start = (1 - (1 + inversion) * exp_array(inversion_time * rates[0].astype(float))).astype(np.float32)
    flips, times = (np.array(values, np.float32) for values in (flip_angle, repetition_time))
    orders = _pathways.enough(np.maximum(t1, SHORTEST), np.maximum(t2, SHORTEST), min(repetition_time), len(flip_angle),
                              error, (len(flip_angle) + 1) // 2)

    def at(part: float) -> Any:
        rates[2] = b1 * part
        return _pathways.by_orders(
            lambda rates, start, size, out: _graphs.trains(rates, start, flips, times, echo_time, size, out),
            rates, start, orders, np.empty((len(t1), len(flips)), np.float32))  # fmt: skip

    return Frames(_trains.mean_over(profile, at), **_frame_times(repetition_time, echo_time, inversion_time))


class Prepared(NamedTuple):
    """What preparations return."""

    mz: Annotated[Array, "1"]


@step
def inversion(
    t1: Annotated[Array, "s"],
    inversion: Annotated[Array, "1"],
    *,
    inversion_time: Annotated[float, "s", ">=0"],
) -> Prepared:
    """Mz / M0 some time after an inversion, for the train that follows.

    Parameters
    ----------
    t1 : array in s, shape (sample,)
    inversion : array, shape (sample,)
        Efficiency: Mz is -inversion M0 behind the pulse, 1 when it is perfect; -1 for none.
    inversion_time : float in s

    Returns
    -------
    mz : float64, shape (sample,)
        Limits: -inversion at once, 1 in the end; 0 at T1 log 2 behind a perfect pulse.
    """
    return Prepared(1 - (1 + inversion) * exp_array(-inversion_time / np.maximum(t1, SHORTEST)))


@step
def t2_preparation(
    t1: Annotated[Array, "s"],
    t2: Annotated[Array, "s"],
    b1: Annotated[Array, "1"],
    *,
    duration: Annotated[float, "s", ">=0"],
) -> Prepared:
    """Mz / M0 behind 90x - duration / 2 - 180y - duration / 2 - 90(-x) from equilibrium, transverse rest spoiled.

    Parameters
    ----------
    t1, t2 : array in s, shape (sample,)
    b1 : array, shape (sample,)
        Actual over nominal flip angle, of all three pulses.
    duration : float in s
        From the first pulse to the last, which are taken as instantaneous.

    Returns
    -------
    mz : float64, shape (sample,)
        Limit: b1 = 1 gives exp(-duration / T2).  What lies along x behind the second pulse is spoiled.  Brittain 1995,
        doi:10.1002/mrm.1910330515.
    """
    half = exp_array(-0.5 * duration / np.maximum(t1, SHORTEST))
    s, c = sin_array(0.5 * np.pi * b1), cos_array(0.5 * np.pi * b1)
    along = s * exp_array(-duration / np.maximum(t2, SHORTEST))
    z = cos_array(np.pi * b1) * (1 + (c - 1) * half)
    return Prepared(c * (1 + (z - 1) * half) + s * along)


class PreparedPools(NamedTuple):
    """What preparations of two pools return."""

    mz: Annotated[Array, "1"]
    mz_second: Annotated[Array, "1"]


@step
def two_pool_inversion(
    t1: Annotated[Array, "s"],
    t1_second: Annotated[Array, "s"],
    exchange_rate: Annotated[Array, "1/s"],
    second_fraction: Annotated[Array, "1"],
    inversion: Annotated[Array, "1"],
    inversion_second: Annotated[Array, "1"],
    *,
    inversion_time: Annotated[float, "s", ">=0"],
) -> PreparedPools:
    """Mz / M0 of two pools that exchange, some time after an inversion, for `exchange` or `magnetization_transfer`.

    Parameters
    ----------
    t1, t1_second : array in s, shape (sample,)
        > 0.
    exchange_rate : array in 1/s, shape (sample,)
        From the first pool to the second.
    second_fraction : array, shape (sample,)
        The second pool's share of M0, above 0 and below 1.
    inversion, inversion_second : array, shape (sample,)
        Efficiency of each pool: its Mz is -inversion times its M0 behind the pulse.  One pulse inverts two waters
        alike; of a bound pool it leaves a part, such as 0.8 of it: -0.8.
    inversion_time : float in s

    Returns
    -------
    mz, mz_second : float64, shape (sample,)
        Each over its own pool's M0.

    Notes
    -----
    Limits: without exchange both are `inversion` of their pools; at once they are -inversion and -inversion_second.
    Equations of Z: Malik 2018, doi:10.1002/mrm.27040.
    """
    _trains.check_part("two_pool_inversion", second_fraction)
    r1, k, part = np.stack([1 / t1, 1 / t1_second]), np.array(exchange_rate, float), np.array(second_fraction, float)
    mz = np.empty((2, len(t1)))
    _pools.recovered(r1, k, part, -np.stack([inversion, inversion_second]), inversion_time, mz)
    return PreparedPools(*mz)


class Complex(NamedTuple):
    """What complex trains of gradient echoes return."""

    signal: Annotated[Array, "1", "complex64", "frame"]
    magnitude: Annotated[Array, "1", "float32", "frame"]
    frame: Annotated[Array, "s", "float64", "frame"]


def _regular_times(flip_angle: tuple[float, ...], repetition_time: float, echo_time: float, **_: Any
                   ) -> dict[str, Any]:
    return {"frame": echo_time + repetition_time * np.arange(len(flip_angle))}


@step(sizes=_frames, coordinates=_regular_times, accuracy=("error",))
def spoiled_gradient_echo(
    t1: Annotated[Array, "s"],
    t2: Annotated[Array, "s"],
    b1: Annotated[Array, "1"],
    mz: Annotated[Array, "1"],
    *,
    flip_angle: Annotated[tuple[float, ...], "rad", ">=0"],
    repetition_time: Annotated[float, "s", ">0"],
    echo_time: Annotated[float, "s", ">=0"],
    phase_increment: Annotated[float, "rad"] = np.deg2rad(117.0),
    profile: Annotated[tuple[float, ...], ">=0"] = (1.0,),
    error: Annotated[float, ">0"] = 1e-4,
) -> Complex:
    """A train of gradient echoes with RF spoiling: pulse n has the phase phase_increment n (n - 1) / 2.

    Parameters
    ----------
    t1, t2 : array in s, shape (sample,)
        Relaxation times, >= 0.
    b1 : array, shape (sample,)
        Actual over nominal flip angle.
    mz : array, shape (sample,)
        Mz / M0 before the first pulse, as a preparation left it; within +-1.
    flip_angle : tuple of float in rad, shape (frame,)
    repetition_time, echo_time : float in s
    phase_increment : float in rad
    profile : tuple of float
        Flip angles over the nominal one at equidistant places across the slice, whose signals are averaged.
    error : float
        Bound on what the orders left out could change in the signal; each sample keeps as many as its relaxation times
        ask for.

    Returns
    -------
    signal : complex64, shape (sample, frame)
        F0 at each echo over i M0, demodulated by the phase of its pulse.
    magnitude : float32, shape (sample, frame)
    frame : float64 in s, shape (frame,)
        Time of each echo since the first pulse.

    Notes
    -----
    Limit: T2 far below the repetition time ends at the Ernst amplitude sin a (1 - E1) / (1 - E1 cos a).  Each
    repetition dephases by whole cycles across a voxel behind its echo.  Computed in float32, to 1e-6 of M0.  RF
    spoiling: Zur 1991, doi:10.1002/mrm.1910210210; bound: `factory.physics._pathways.enough`.
    """
    interval = np.full(len(flip_angle), repetition_time)
    phase = _trains.quadratic(len(flip_angle), phase_increment)
    return Complex(*_trains.one_pool("spoiled_gradient_echo", (t1, t2, b1, np.zeros(len(t1))), mz, flip_angle, phase,
                                     interval, _pathways.DEPHASE, echo_time, profile, error),
                   **_regular_times(flip_angle, repetition_time, echo_time))  # fmt: skip


@step(sizes=_frames, coordinates=_regular_times, accuracy=("error",))
def diffusion(
    t1: Annotated[Array, "s"],
    t2: Annotated[Array, "s"],
    b1: Annotated[Array, "1"],
    mz: Annotated[Array, "1"],
    diffusion: Annotated[Array, "m2/s"],
    *,
    flip_angle: Annotated[tuple[float, ...], "rad", ">=0"],
    repetition_time: Annotated[float, "s", ">0"],
    echo_time: Annotated[float, "s", ">=0"],
    dephasing: Annotated[float, "1/m", ">=0"],
    phase_increment: Annotated[float, "rad"] = 0.0,
    profile: Annotated[tuple[float, ...], ">=0"] = (1.0,),
    error: Annotated[float, ">0"] = 1e-4,
) -> Complex:
    """`spoiled_gradient_echo` of water that diffuses along the gradient; all pulses of one phase (FISP) by default.

    Parameters
    ----------
    t1, t2 : array in s, shape (sample,)
        Relaxation times, >= 0.
    b1 : array, shape (sample,)
        Actual over nominal flip angle.
    mz : array, shape (sample,)
        Mz / M0 before the first pulse, as a preparation left it; within +-1.
    diffusion : array in m2/s, shape (sample,)
        Along the gradient.
    flip_angle : tuple of float in rad, shape (frame,)
    repetition_time, echo_time : float in s
    dephasing : float in 1/m
        Cycles per metre that a repetition's gradient leaves over; for diffusion, as if constant between pulses.
    phase_increment : float in rad
        Step of the phase's step from pulse to pulse: of RF spoiling.
    profile : tuple of float
        Flip angles over the nominal one at equidistant places across the slice, whose signals are averaged.
    error : float
        Bound on what the orders left out could change in the signal.

    Returns
    -------
    signal : complex64, shape (sample, frame)
        F0 at each echo over i M0, demodulated by the phase of its pulse.
    magnitude : float32, shape (sample, frame)
    frame : float64 in s, shape (frame,)
        Time of each echo since the first pulse.

    Notes
    -----
    Limits: without diffusion it is `spoiled_gradient_echo`; with pulses of one phase and angle it ends at the first
    echo of `double_echo`; fast diffusion leaves each pulse its own signal alone, and so the Ernst amplitude in the end.
    Orders decay by D k**2 TR (Z) and D (k**2 + k + 1/3) TR (F from k to k + 1), k in units of the dephasing; the echo
    itself, of order 0, does not.  Computed in float32, to 1e-6 of M0.  Weigel 2015, doi:10.1002/jmri.24619.
    """
    phase, interval = _trains.quadratic(len(flip_angle), phase_increment), np.full(len(flip_angle), repetition_time)
    samples = t1, t2, b1, np.zeros(len(t1)), diffusion * (2 * np.pi * dephasing) ** 2
    return Complex(*_trains.one_pool("diffusion", samples, mz, flip_angle, phase, interval, _pathways.DEPHASE,
                                     echo_time, profile, error, _trains.diffusing),
                   **_regular_times(flip_angle, repetition_time, echo_time))  # fmt: skip


class Steady(NamedTuple):
    """What `spoiled_steady_state` returns."""

    signal: Annotated[Array, "1", "complex64", "flip_angle"]
    magnitude: Annotated[Array, "1", "float32", "flip_angle"]
    flip_angle: Annotated[Array, "rad", "float64", "flip_angle"]


@step(accuracy=("error",))
def spoiled_steady_state(
    t1: Annotated[Array, "s"],
    t2: Annotated[Array, "s"],
    b1: Annotated[Array, "1"],
    *,
    flip_angle: Annotated[tuple[float, ...], "rad", ">=0"],
    repetition_time: Annotated[float, "s", ">0"],
    echo_time: Annotated[float, "s", ">=0"],
    phase_increment: Annotated[float, "rad"] = np.deg2rad(117.0),
    profile: Annotated[tuple[float, ...], ">=0"] = (1.0,),
    error: Annotated[float, ">0"] = 1e-4,
) -> Steady:
    """The steady state of gradient echoes with RF spoiling, for each of some flip angles.

    Parameters
    ----------
    t1, t2 : array in s, shape (sample,)
        Relaxation times, >= 0.
    b1 : array, shape (sample,)
        Actual over nominal flip angle.
    flip_angle : tuple of float in rad
    repetition_time, echo_time : float in s
    phase_increment : float in rad
        Step of the phase's step from pulse to pulse; 0 gives the unspoiled gradient echo (FISP).
    profile : tuple of float
        Flip angles over the nominal one at equidistant places across the slice, whose signals are averaged.
    error : float
        Bound on what the orders left out could change in the signal.

    Returns
    -------
    signal : complex64, shape (sample, flip_angle)
        F0 at the echo over i M0, demodulated by the phase of its pulse.
    magnitude : float32, shape (sample, flip_angle)
    flip_angle : float64 in rad, shape (flip_angle,)

    Notes
    -----
    Limit: T2 far below the repetition time gives the Ernst amplitude sin a (1 - E1) / (1 - E1 cos a), times
    exp(-echo_time / T2).  What a train of `spoiled_gradient_echo` comes to after many T1, solved at once: Ganter 2006,
    doi:10.1002/mrm.20736.
    """
    _trains.check_echo("spoiled_steady_state", echo_time, repetition_time)
    states = _trains.steady_states(t1, t2, b1, np.zeros(len(t1)), flip_angle, repetition_time, phase_increment, profile,
                                   error)  # fmt: skip
    decay = exp_array(-echo_time / np.maximum(t2, SHORTEST))
    signal = (states[..., 0] * (-1j * decay)[:, None]).astype(np.complex64)
    return Steady(signal, _trains.magnitude(signal), np.array(flip_angle))


class Pair(NamedTuple):
    """What `double_echo` returns."""

    signal: Annotated[Array, "1", "float32", "echo"]
    echo: Annotated[Array, "s", "float64", "echo"]


def _two_times(repetition_time: float, echo_time: float, **_: Any) -> dict[str, Any]:
    return {"echo": np.array([echo_time, repetition_time - echo_time])}


@step(sizes=lambda **_: {"echo": 2}, coordinates=_two_times, accuracy=("error",))
def double_echo(
    t1: Annotated[Array, "s"],
    t2: Annotated[Array, "s"],
    b1: Annotated[Array, "1"],
    diffusion: Annotated[Array, "m2/s"],
    *,
    flip_angle: Annotated[float, "rad", ">=0"],
    repetition_time: Annotated[float, "s", ">0"],
    echo_time: Annotated[float, "s", ">=0"],
    dephasing: Annotated[float, "1/m", ">=0"],
    profile: Annotated[tuple[float, ...], ">=0"] = (1.0,),
    error: Annotated[float, ">0"] = 1e-4,
) -> Pair:
    """The two echoes of a double-echo steady state (DESS), with diffusion.

    ::

        flip                     dephasing                     flip
         |                                                      |
        -+-----------+-----------------------------+------------+--> time
         0       echo_time: FID              echo, echo_time before the next pulse

    Parameters
    ----------
    t1, t2 : array in s, shape (sample,)
        Relaxation times, >= 0.
    b1 : array, shape (sample,)
        Actual over nominal flip angle.
    diffusion : array in m2/s, shape (sample,)
        Along the gradient.
    flip_angle : float in rad
    repetition_time, echo_time : float in s
        The echoes lie at most half a repetition from their pulses.
    dephasing : float in 1/m
        Cycles per metre that a repetition's gradient leaves over; for diffusion, as if constant between pulses.
    profile : tuple of float
        Flip angles over the nominal one at equidistant places across the slice, whose signals are averaged.
    error : float
        Bound on what the orders left out could change in the signal.

    Returns
    -------
    signal : float32, shape (sample, echo)
        F0 of both over i M0: positive behind a pulse, negative before it.
    echo : float64 in s, shape (echo,)
        Time since the pulse.

    Notes
    -----
    Limit: T2 far below the repetition time leaves the Ernst amplitude and no second echo; without diffusion both are
    the averages of the balanced steady state over all precession angles.  Orders decay by D k**2 TR (Z) and
    D (k**2 + k + 1/3) TR (F from k to k + 1), k in units of the dephasing: Weigel 2015, doi:10.1002/jmri.24619.
    """
    _trains.check_echo("double_echo", echo_time, repetition_time / 2, "half the repetition time")
    spread = diffusion * (2 * np.pi * dephasing) ** 2
    states = _trains.steady_states(t1, t2, b1, spread, (flip_angle,), repetition_time, 0.0, profile, error)[:, 0]
    decay = exp_array(-echo_time / np.maximum(t2, SHORTEST))
    signal = np.stack([states[:, 0].imag * decay, states[:, 1].imag / np.maximum(decay, SHORTEST)], axis=1)
    return Pair(signal.astype(np.float32), **_two_times(repetition_time, echo_time))


def _irregular_times(repetition_time: tuple[float, ...], echo_time: float, **_: Any) -> dict[str, Any]:
    return _frame_times(repetition_time, echo_time, 0.0)


@step(sizes=_frames, coordinates=_irregular_times)
def balanced(
    t1: Annotated[Array, "s"],
    t2: Annotated[Array, "s"],
    b1: Annotated[Array, "1"],
    mz: Annotated[Array, "1"],
    off_resonance: Annotated[Array, "Hz"],
    *,
    flip_angle: Annotated[tuple[float, ...], "rad", ">=0"],
    repetition_time: Annotated[tuple[float, ...], "s", ">0"],
    echo_time: Annotated[float, "s", ">=0"],
    phase_increment: Annotated[float, "rad"] = np.pi,
    profile: Annotated[tuple[float, ...], ">=0"] = (1.0,),
) -> Complex:
    """A balanced train (bSSFP): no gradient is left over, so off-resonance alone dephases; one isochromat a sample.

    Parameters
    ----------
    t1, t2 : array in s, shape (sample,)
        Relaxation times, >= 0.
    b1 : array, shape (sample,)
        Actual over nominal flip angle.
    mz : array, shape (sample,)
        Mz / M0 before the first pulse, as a preparation left it.
    off_resonance : array in Hz, shape (sample,)
    flip_angle, repetition_time : tuples of float in rad and s, shape (frame,)
        Half an angle and half a repetition in front give a smooth approach to the steady state.
    echo_time : float in s
        Inside the shortest repetition; half of it refocuses what lies inside a pass band.
    phase_increment : float in rad
        From pulse to pulse.
    profile : tuple of float
        Flip angles over the nominal one at equidistant places across the slice, whose signals are averaged.

    Returns
    -------
    signal : complex64, shape (sample, frame)
        Mxy at each echo over i M0, demodulated by the phase of its pulse.
    magnitude : float32, shape (sample, frame)
    frame : float64 in s, shape (frame,)
        Time of each echo since the first pulse.

    Notes
    -----
    Limit: on resonance with alternating phases the train ends at sin a (1 - E1) sqrt(E2) / (1 - (E1 - E2) cos a - E1
    E2) for an echo in the middle (Scheffler and Lehnhardt 2003, doi:10.1007/s00330-003-1957-x).  An extended graph
    without a gradient has one order: a voxel that spans frequencies is a sum over samples.  Computed in float32, to
    1e-6 of M0.
    """
    _trains.check_lengths("balanced", flip_angle, repetition_time)
    phase = np.fmod(np.arange(len(flip_angle)) * np.fmod(phase_increment, 2 * np.pi), 2 * np.pi)
    return Complex(*_trains.one_pool("balanced", (t1, t2, b1, off_resonance), mz, flip_angle, phase,
                                     np.array(repetition_time), _pathways.KEEP, echo_time, profile, 1.0),
                   **_irregular_times(repetition_time, echo_time))  # fmt: skip


class Train(NamedTuple):
    """What `tse` returns."""

    signal: Annotated[Array, "1", "complex64", "echo"]
    magnitude: Annotated[Array, "1", "float32", "echo"]
    echo: Annotated[Array, "s", "float64", "echo"]


def _echo_of_each(refocus: tuple[float, ...], **_: Any) -> dict[str, int]:
    return {"echo": len(refocus)}


def _train_times(refocus: tuple[float, ...], spacing: float, **_: Any) -> dict[str, Any]:
    return {"echo": spacing * np.arange(1, len(refocus) + 1)}


@step(sizes=_echo_of_each, coordinates=_train_times)
def tse(
    t1: Annotated[Array, "s"],
    t2: Annotated[Array, "s"],
    b1: Annotated[Array, "1"],
    mz: Annotated[Array, "1"],
    *,
    refocus: Annotated[tuple[float, ...], "rad", ">=0"],
    phase: Annotated[tuple[float, ...], "rad"],
    spacing: Annotated[float, "s", ">0"],
    excitation: Annotated[float, "rad", ">=0"] = np.pi / 2,
    excitation_profile: Annotated[tuple[float, ...], ">=0"] = (1.0,),
    refocus_profile: Annotated[tuple[float, ...], ">=0"] = (1.0,),
) -> Train:
    """A turbo spin-echo train whose refocusing pulses have any angles and phases.

    ::

        excitation   refocus 1         refocus 2         refocus 3
         |           |                 |                 |
        -+-----------+--------+--------+--------+--------+--------+--> time
         0       spacing/2  echo 1           echo 2            echo 3

    Parameters
    ----------
    t1, t2 : array in s, shape (sample,)
        Relaxation times, >= 0.
    b1 : array, shape (sample,)
        Actual over nominal flip angle, of every pulse.
    mz : array, shape (sample,)
        Mz / M0 before the excitation.
    refocus, phase : tuples of float in rad, shape (echo,)
        Of the refocusing pulses; the excitation has the phase 0, so pi / 2 everywhere is CPMG and 0 is CP.
    spacing : float in s
        From echo to echo.
    excitation : float in rad
    excitation_profile, refocus_profile : tuples of float
        Flip angles of both kinds of pulse over their nominal ones, at the same equidistant places across the slice; the
        signals of all places are averaged.

    Returns
    -------
    signal : complex64, shape (sample, echo)
        F0 at each echo over i M0.
    magnitude : float32, shape (sample, echo)
    echo : float64 in s, shape (echo,)
        Time since the excitation.

    Notes
    -----
    Limit: perfect pulses give exp(-n spacing / T2).  The dephasing of every half spacing is the same whole number of
    cycles, so off-resonance is refocused with it.  No order is left out.  Computed in float32, to 1e-6 of M0.  States
    and shifts: Weigel 2015, doi:10.1002/jmri.24619.
    """
    if len(refocus) != len(phase):
        raise ValueError(f"epg.tse: there are {len(refocus)} refocusing angles and {len(phase)} phases; give one of "
                         "each for every echo")
    if len(excitation_profile) != len(refocus_profile):
        raise ValueError(f"epg.tse: the profiles have {len(excitation_profile)} and {len(refocus_profile)} places; "
                         "give both at the same places")
    count = len(refocus)
    flips, phases, echo = np.zeros(2 * count + 1), np.zeros(2 * count + 1), np.full(2 * count + 1, np.nan)
    phases[1::2], echo[2::2] = phase, 0.0
    t1, t2 = np.maximum(t1, SHORTEST), np.maximum(t2, SHORTEST)
    columns = np.stack([-1 / t1, -1 / t2, b1, np.zeros(len(t1))])
    orders = np.full(len(t1), count + 1)  # what the gradients of half the train make and those of the other half undo

    def at(parts: tuple[float, float]) -> Any:
        flips[0], flips[1::2] = excitation * parts[0], np.array(refocus) * parts[1]
        tables = _pathways.schedule(flips, phases, 0.5 * spacing, _pathways.DEPHASE, echo, 0.5 * np.pi, count + 1,
                                    np.float32)
        return _trains.echoes(_pathways.trains, columns, mz, lambda _: tables, orders, count)

    signal = _trains.mean_over([*zip(excitation_profile, refocus_profile, strict=True)], at)
    return Train(signal, _trains.magnitude(signal), **_train_times(refocus, spacing))


@step(sizes=_frames, coordinates=_regular_times, accuracy=("error",))
def magnetization_transfer(
    t1: Annotated[Array, "s"],
    t2: Annotated[Array, "s"],
    b1: Annotated[Array, "1"],
    mz: Annotated[Array, "1"],
    t1_bound: Annotated[Array, "s"],
    mz_bound: Annotated[Array, "1"],
    exchange_rate: Annotated[Array, "1/s"],
    bound_fraction: Annotated[Array, "1"],
    *,
    flip_angle: Annotated[tuple[float, ...], "rad", ">=0"],
    repetition_time: Annotated[float, "s", ">0"],
    echo_time: Annotated[float, "s", ">=0"],
    pulse_duration: Annotated[float, "s", ">0"],
    absorption: Annotated[float, "s", ">=0"] = 15.1e-6,
    phase_increment: Annotated[float, "rad"] = np.deg2rad(117.0),
    profile: Annotated[tuple[float, ...], ">=0"] = (1.0,),
    error: Annotated[float, ">0"] = 1e-4,
) -> Complex:
    """`spoiled_gradient_echo` with a bound pool: Mz alone, saturated by every pulse.

    Parameters
    ----------
    t1, t2 : array in s, shape (sample,)
        Of the free pool, > 0.
    b1 : array, shape (sample,)
        Actual over nominal flip angle.
    mz : array, shape (sample,)
        Mz of the free pool over its M0 before the first pulse, within +-1.
    t1_bound : array in s, shape (sample,)
        Of the bound pool, > 0.
    mz_bound : array, shape (sample,)
        The same as ``mz`` of the bound pool.  Each pool has its own: a pulse that inverts the free one saturates the
        bound one in part, and during a delay they exchange (`inversion_of_two`).
    exchange_rate : array in 1/s, shape (sample,)
        From the free pool to the bound one.
    bound_fraction : array, shape (sample,)
        The bound pool's share of M0, above 0 and below 1.
    flip_angle : tuple of float in rad, shape (frame,)
    repetition_time, echo_time : float in s
    pulse_duration : float in s
        Of a rectangular pulse of the same power and angle, whose field is flip_angle / (gamma pulse_duration); it turns
        the free pool at once.
    absorption : float in s
        The bound pool's line shape at the frequency of the pulses; 15.1 us is a super-Lorentzian of T2 = 12 us near
        its centre.
    phase_increment, error : float in rad and 1
        As of `spoiled_gradient_echo`.
    profile : tuple of float
        Flip angles of the free pool over the nominal one at equidistant places across the slice, whose signals are
        averaged.  The bound pool's line is far wider than the slice: it takes the same power everywhere.

    Returns
    -------
    signal : complex64, shape (sample, frame)
        F0 at each echo over i M0 of both pools, demodulated by the phase of its pulse.
    magnitude : float32, shape (sample, frame)
    frame : float64 in s, shape (frame,)
        Time of each echo since the first pulse.

    Notes
    -----
    Limit: without exchange it is (1 - bound_fraction) times the single pool.  A pulse leaves exp(-W tau) of the bound
    pool, W tau = pi absorption flip**2 / pulse_duration.  Computed in float32, to 1e-5 of M0.  Malik 2018,
    doi:10.1002/mrm.27040.
    """
    rates = np.stack([1 / t1, 1 / t1_bound]), np.stack([1 / t2, 1 / t2])
    power = np.pi * absorption / pulse_duration * b1 * b1
    return Complex(*_trains.two_pools("magnetization_transfer", *rates, np.zeros((2, len(t1))), b1, power,
                                      exchange_rate, bound_fraction, np.stack([mz, mz_bound]), flip_angle,
                                      repetition_time, echo_time, phase_increment, profile, error),
                   **_regular_times(flip_angle, repetition_time, echo_time))  # fmt: skip


@step(accuracy=("error",))
def magnetization_transfer_steady_state(
    t1: Annotated[Array, "s"],
    t2: Annotated[Array, "s"],
    b1: Annotated[Array, "1"],
    t1_bound: Annotated[Array, "s"],
    exchange_rate: Annotated[Array, "1/s"],
    bound_fraction: Annotated[Array, "1"],
    *,
    flip_angle: Annotated[tuple[float, ...], "rad", ">=0"],
    repetition_time: Annotated[float, "s", ">0"],
    echo_time: Annotated[float, "s", ">=0"],
    pulse_duration: Annotated[float, "s", ">0"],
    absorption: Annotated[float, "s", ">=0"] = 15.1e-6,
    saturation: Annotated[float, ">=0"] = 0.0,
    phase_increment: Annotated[float, "rad"] = np.deg2rad(117.0),
    profile: Annotated[tuple[float, ...], ">=0"] = (1.0,),
    error: Annotated[float, ">0"] = 1e-4,
) -> Steady:
    """`spoiled_steady_state` with a bound pool, as `magnetization_transfer` has it, for each of some flip angles.

    Parameters
    ----------
    t1, t2, b1, t1_bound, exchange_rate, bound_fraction : array, shape (sample,)
        As of `magnetization_transfer`.
    flip_angle : tuple of float in rad
    repetition_time, echo_time, pulse_duration, absorption : float in s
        As of `magnetization_transfer`.
    saturation : float
        -log of what a pulse far off resonance leaves of the bound pool in every repetition, at b1 = 1; it does nothing
        to the free one.
    phase_increment, error : float in rad and 1
        As of `spoiled_steady_state`.
    profile : tuple of float
        As of `magnetization_transfer`.

    Returns
    -------
    signal : complex64, shape (sample, flip_angle)
        F0 at the echo over i M0 of both pools, demodulated by the phase of its pulse.
    magnitude : float32, shape (sample, flip_angle)
    flip_angle : float64 in rad, shape (flip_angle,)

    Notes
    -----
    Limit: without exchange it is (1 - bound_fraction) times the single pool.  What a train of `magnetization_transfer`
    comes to after many T1, solved at once: what goes over to the bound pool and comes back only changes what an
    interval leaves of Z.
    """
    _trains.check_echo("magnetization_transfer_steady_state", echo_time, repetition_time)
    _trains.check_part("magnetization_transfer_steady_state", bound_fraction)
    r1 = np.stack([1 / t1, 1 / t1_bound])
    ratio = r1.min(axis=0) / r1.max(axis=0)
    orders = _pathways.enough(1 / r1.min(axis=0), np.array(t2), repetition_time, np.inf, error * ratio, _trains.MOST)

    def at(part: float) -> Any:
        out = np.empty((len(t1), len(flip_angle), 2), complex)
        samples = np.stack([r1[0], 1 / t2, r1[1], b1 * part, exchange_rate, bound_fraction, b1])
        _steady.steady_beside_bound(samples, np.array(flip_angle), np.pi * absorption / pulse_duration, saturation,
                                    repetition_time, phase_increment, orders, out)  # fmt: skip
        return out[..., 0]

    decay = exp_array(-echo_time / t2)
    signal = (_trains.mean_over(profile, at) * (-1j * decay)[:, None]).astype(np.complex64)
    return Steady(signal, _trains.magnitude(signal), np.array(flip_angle))


@step(sizes=_frames, coordinates=_regular_times, accuracy=("error",))
def exchange(
    t1: Annotated[Array, "s"],
    t2: Annotated[Array, "s"],
    b1: Annotated[Array, "1"],
    mz: Annotated[Array, "1"],
    t1_second: Annotated[Array, "s"],
    t2_second: Annotated[Array, "s"],
    mz_second: Annotated[Array, "1"],
    shift: Annotated[Array, "Hz"],
    exchange_rate: Annotated[Array, "1/s"],
    second_fraction: Annotated[Array, "1"],
    *,
    flip_angle: Annotated[tuple[float, ...], "rad", ">=0"],
    repetition_time: Annotated[float, "s", ">0"],
    echo_time: Annotated[float, "s", ">=0"],
    phase_increment: Annotated[float, "rad"] = np.deg2rad(117.0),
    profile: Annotated[tuple[float, ...], ">=0"] = (1.0,),
    error: Annotated[float, ">0"] = 1e-4,
) -> Complex:
    """`spoiled_gradient_echo` of two pools of water that exchange, such as myelin and axons.

    Parameters
    ----------
    t1, t2 : array in s, shape (sample,)
        Of the first pool, > 0.
    b1 : array, shape (sample,)
        Actual over nominal flip angle.
    mz : array, shape (sample,)
        Mz of the first pool over its M0 before the first pulse, within +-1.
    t1_second, t2_second : array in s, shape (sample,)
        Of the second pool, > 0.
    mz_second : array, shape (sample,)
        The same as ``mz`` of the second pool: one pulse inverts both alike, but they recover apart
        (`inversion_of_two`).
    shift : array in Hz, shape (sample,)
        Frequency of the second pool; the first one is on resonance.
    exchange_rate : array in 1/s, shape (sample,)
        From the first pool to the second.
    second_fraction : array, shape (sample,)
        The second pool's share of M0, above 0 and below 1.
    flip_angle : tuple of float in rad, shape (frame,)
    repetition_time, echo_time : float in s
    phase_increment, error : float in rad and 1
        As of `spoiled_gradient_echo`; an increment of 0 gives FISP.
    profile : tuple of float
        Flip angles over the nominal one at equidistant places across the slice, whose signals are averaged.

    Returns
    -------
    signal : complex64, shape (sample, frame)
        F0 of both pools at each echo over i M0, demodulated by the phase of its pulse.
    magnitude : float32, shape (sample, frame)
    frame : float64 in s, shape (frame,)
        Time of each echo since the first pulse.

    Notes
    -----
    Limits: without exchange it is the weighted sum of two single pools; two equal pools are one, however they exchange.
    Computed in float32, to 1e-5 of M0.  Malik 2018, doi:10.1002/mrm.27040.
    """
    rates = np.stack([1 / t1, 1 / t1_second]), np.stack([1 / t2, 1 / t2_second])
    turning = np.stack([np.zeros(len(t1)), 2 * np.pi * shift])
    return Complex(*_trains.two_pools("exchange", *rates, turning, b1, None, exchange_rate, second_fraction,
                                      np.stack([mz, mz_second]), flip_angle, repetition_time, echo_time,
                                      phase_increment, profile, error),
                   **_regular_times(flip_angle, repetition_time, echo_time))  # fmt: skip
