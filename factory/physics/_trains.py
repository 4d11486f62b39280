"""What the trains of `epg` share: the mean over a slice, orders by an error, and the calls of kernels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from factory.physics import SHORTEST, _diffusion, _pathways, _pools, _steady

MOST = 4096  # orders in a steady state; enough for an error of 1e-4 at TR = 4 ms up to T2 = 2 s, T1 = 4 s


def mean_over(places: Sequence[Any], signal: Callable[[Any], Any]) -> Any:
    """Mean of the signals at some places across a slice.

    Parameters
    ----------
    places : sequence, not empty
        What differs from place to place: relative flip angles.
    signal : function of a place
        Returns an array of its own.
    """
    whole = signal(places[0])
    for place in places[1:]:
        whole += signal(place)
    if len(places) > 1:
        whole /= np.float32(len(places))
    return whole


def magnitude(signal: Any) -> Any:
    return np.sqrt(signal.real * signal.real + signal.imag * signal.imag)


def quadratic(count: int, increment: float) -> Any:
    """Phases of RF spoiling in rad: the step from pulse to pulse grows by the increment."""
    n = np.arange(count)
    return np.fmod(n * (n - 1) // 2 * np.fmod(increment, 2 * np.pi), 2 * np.pi)


def check_echo(name: str, echo_time: float, interval: float, what: str = "the repetition time") -> None:
    """Raise ValueError if the echo lies behind the end of the interval."""
    if echo_time > interval:
        raise ValueError(f"epg.{name}: the echo time of {echo_time:g} s is longer than {what}, {interval:g} s")


def check_lengths(name: str, flip: Sequence[float], interval: Sequence[float]) -> None:
    """Raise ValueError unless every flip angle has its repetition time."""
    if len(flip) != len(interval):
        raise ValueError(f"epg.{name}: there are {len(flip)} flip angles and {len(interval)} repetition times; give "
                         "one of each for every frame")


def check_part(name: str, part: Any) -> None:
    """Raise ValueError unless both pools have a share of M0."""
    if not ((part > 0) & (part < 1)).all():
        raise ValueError(f"epg.{name}: the second pool's fraction lies between {part.min():g} and {part.max():g}; it "
                         "has to be above 0 and below 1")


def echoes(kernel: Callable[..., Any], samples: Any, start: Any, tables: Callable[[int], Any], orders: Any, count: int
           ) -> Any:
    """Echoes of every sample, with as many orders as it asks for: complex64, shape (sample, echo).

    Parameters
    ----------
    kernel : function of samples, start, tables, a number of orders, and where to write
        Such as `_pathways.trains`.
    samples, start : float, shape (..., sample)
    tables : function of a number of orders
        Returns what `_pathways.schedule` does.
    orders : int64, shape (sample,)
    count : int
        Of echoes.
    """
    return _pathways.by_orders(
        lambda samples, start, size, part: kernel(samples, start, tables(size), size, part),
        samples.astype(np.float32), start.astype(np.float32), orders, np.empty((start.shape[-1], count), np.complex64))


def demodulated(flip: Any, phase: Any, interval: Any, gradient: int, echo_time: float) -> tuple[Any, int]:
    """Tables of one echo behind every pulse, over i and the pulse's phase, and how many orders can matter at all."""

    def tables(orders: int) -> Any:
        return _pathways.schedule(flip, phase, interval, gradient, echo_time, phase + 0.5 * np.pi, orders, np.float32)

    return tables, int(tables(len(phase))[1][:, 2].max())


def diffusing(samples: Any, start: Any, tables: tuple[Any, Any], orders: int, out: Any) -> None:
    """`_diffusion.train`, called like `_pathways.trains`."""
    _diffusion.train(samples, start, *tables, orders, out)


def one_pool(name: str, samples: tuple[Any, ...], mz: Any, flip: Any, phase: Any, interval: Any, gradient: int,
             echo_time: float, profile: Sequence[float], error: float,
             kernel: Callable[..., Any] = _pathways.trains) -> tuple[Any, Any]:
    """One echo behind every pulse of a train, the mean over a slice: as it is, and its magnitude.

    ``samples`` are T1, T2, relative flip angle, off-resonance and, of a kernel with diffusion, its row of D k**2.
    """
    check_echo(name, echo_time, interval.min(), "the shortest repetition time")
    tables, most = demodulated(flip, phase, interval, gradient, echo_time)
    t1, t2, b1, off_resonance, *spread = samples
    t1, t2 = np.maximum(t1, SHORTEST), np.maximum(t2, SHORTEST)
    orders = _pathways.enough(t1, t2, interval.min(), len(phase), error, most, *spread)

    def at(part: float) -> Any:
        columns = np.stack([-1 / t1, -1 / t2, b1 * part, -2 * np.pi * off_resonance, *spread])
        return echoes(kernel, columns, mz, tables, orders, len(phase))

    signal = mean_over(profile, at)
    return signal, magnitude(signal)


def two_pools(name: str, r1: Any, r2: Any, turning: Any, b1: Any, power: Any, exchange_rate: Any, part: Any, mz: Any,
              flip: Any, interval: float, echo_time: float, increment: float, profile: Sequence[float], error: float
              ) -> tuple[Any, Any]:
    """The same of two pools, whose Mz before the train is over that pool's M0; the second is bound where pulses have a
    power, which is the same everywhere in the slice."""
    check_echo(name, echo_time, interval)
    check_part(name, part)
    bound, phase = power is not None, quadratic(len(flip), increment)
    tables, most = demodulated(flip, phase, interval, _pathways.DEPHASE, echo_time)
    # the slowest rates bound what an interval leaves; where they differ recovery exceeds 1 by no more than their ratio
    orders = _pathways.enough(1 / r1.min(axis=0), 1 / r2.min(axis=0), interval, len(phase),
                              error * r1.min(axis=0) / r1.max(axis=0), most)
    start, rows = np.stack([1 - part, part]) * mz, np.empty((_pools.ROWS, len(b1)))
    _pools.rows_of(r1, r2, turning, np.array(exchange_rate, float), np.array(part, float), bound, rows)
    rows[1] = power if bound else 0.0

    def kernel(rows: Any, start: Any, tables: Any, orders: int, out: Any) -> None:
        _pools.train(bound, rows, start, *tables, orders, out)

    def at(place: float) -> Any:
        rows[0] = b1 * place
        return echoes(kernel, rows, start, tables, orders, len(phase))

    signal = mean_over(profile, at)
    return signal, magnitude(signal)


def steady_states(t1: Any, t2: Any, b1: Any, spread: Any, flip: tuple[float, ...], interval: float, increment: float,
                  profile: Sequence[float], error: float) -> Any:
    """F0 behind and before the pulses of a steady state, the mean over a slice: complex128, shape (sample, flip, 2)."""
    t1, t2 = np.maximum(t1, SHORTEST), np.maximum(t2, SHORTEST)
    orders = _pathways.enough(t1, t2, interval, np.inf, error, MOST, spread)

    def at(part: float) -> Any:
        out = np.empty((len(t1), len(flip), 2), complex)
        _steady.steady(np.stack([1 / t1, 1 / t2, b1 * part, spread]), np.array(flip), interval, increment, orders, out)
        return out

    return mean_over(profile, at)
