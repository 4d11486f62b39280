"""Receiver noise.  A standard deviation sigma is per real channel."""

from __future__ import annotations

from typing import Annotated, Any, NamedTuple

import numpy as np
from numba import njit

from factory.draws import Draws
from factory.physics import rows
from factory.step import step
from factory.units import Array

_OPTIONS: dict[str, Any] = {"nogil": True, "cache": True, "error_model": "numpy"}
_PIECE = 2**16  # normal numbers made at a time: half a megabyte stays in a core's cache


class Noisy(NamedTuple):
    """What a noise step returns."""

    measured: Annotated[Array, "?u", "float32", "..."]


@step
def gaussian(
    signal: Annotated[Array, "?u", "..."],
    sigma: Annotated[Array, "?u"],
    draws: Draws,
) -> Noisy:
    """Signal plus independent normal noise; values below zero stay.

    Parameters
    ----------
    signal : array, any unit, shape (sample, ...)
    sigma : array, unit of `signal`, shape (sample,)
        Standard deviation.

    Returns
    -------
    measured : float32, unit and shape of `signal`

    Notes
    -----
    Limits: sigma = 0 returns the signal; mean = signal, variance = sigma**2.  One real channel; also what magnitude
    data come to at a signal-to-noise ratio above 3 (Gudbjartsson 1995, doi:10.1002/mrm.1910340618).
    """
    return Noisy(_pieces(signal, sigma, draws, _added, np.float32))


@step
def rician(
    signal: Annotated[Array, "?u", "..."],
    sigma: Annotated[Array, "?u"],
    draws: Draws,
) -> Noisy:
    """Magnitude of the signal plus complex noise: sqrt((S + sigma n1)**2 + (sigma n2)**2).

    Parameters
    ----------
    signal : array, any unit, shape (sample, ...)
    sigma : array, unit of `signal`, shape (sample,)
        Standard deviation of each of the two real channels.

    Returns
    -------
    measured : float32, unit and shape of `signal`, >= 0

    Notes
    -----
    Limits: sigma = 0 returns |S|; S = 0 is Rayleigh noise of mean sigma sqrt(pi / 2); the mean square is S**2 + 2
    sigma**2 always.  Gudbjartsson 1995, doi:10.1002/mrm.1910340618.
    """
    return Noisy(_pieces(signal, sigma, draws, _magnitude, np.float32))


class NoisyComplex(NamedTuple):
    """What `complex_gaussian` returns."""

    measured: Annotated[Array, "?u", "complex64", "..."]


@step
def complex_gaussian(
    signal: Annotated[Array, "?u", "complex64", "..."],
    sigma: Annotated[Array, "?u"],
    draws: Draws,
) -> NoisyComplex:
    """Complex signal plus independent normal noise in both channels: what a receiver measures.

    Parameters
    ----------
    signal : array, complex or real, any unit, shape (sample, ...)
    sigma : array, unit of `signal`, shape (sample,)
        Standard deviation of each of the two real channels.

    Returns
    -------
    measured : complex64, unit and shape of `signal`

    Notes
    -----
    Limits: sigma = 0 returns the signal; the mean square is |S|**2 + 2 sigma**2, and an orthonormal Fourier transform
    leaves the noise as it is.  Gudbjartsson 1995, doi:10.1002/mrm.1910340618.
    """
    return NoisyComplex(_pieces(signal, sigma, draws, _added_to_both, np.complex64))


class Reference(NamedTuple):
    """What `first_echo` returns."""

    reference: Annotated[Array, "?u"]


@step
def first_echo(signal: Annotated[Array, "?u", "echo"]) -> Reference:
    """The first echo of each train, as the reference of a signal-to-noise ratio.

    Parameters
    ----------
    signal : array, any unit, shape (sample, echo)

    Returns
    -------
    reference : float64, unit of `signal`, shape (sample,)
        Limit: a train of one echo is its own reference.
    """
    return Reference(np.array(signal[:, 0], np.float64))


@step
def vector_norm(signal: Annotated[Array, "?u", "frame"]) -> Reference:
    """The root mean square of each fingerprint, as the reference of the signal-to-noise ratio of the whole vector.

    Parameters
    ----------
    signal : array, any unit, shape (sample, frame)

    Returns
    -------
    reference : float64, unit of `signal`, shape (sample,)
        Over a standard deviation s of each frame it is ||signal|| / ||noise||, 20 log10 of which is in dB.  Limit: one
        frame is its own reference but for its sign.
    """
    squares = np.square(np.ascontiguousarray(signal, np.float64))
    total = np.array([row.sum() for row in squares])  # row by row: a sum over all may take another order
    return Reference(np.sqrt(total / signal.shape[1]))


class Sigma(NamedTuple):
    """What `sigma_from_snr` returns."""

    sigma: Annotated[Array, "?u"]


@step
def sigma_from_snr(reference: Annotated[Array, "?u"], snr: Annotated[Array, "1"]) -> Sigma:
    """Standard deviation per real channel, reference / snr: the one converter from a signal-to-noise ratio.

    Parameters
    ----------
    reference : array, any unit, shape (sample,)
        The signal that the ratio is about: a drawn level, or what a step such as `first_echo` says.  There is no
        default, because the choice moves sigma by a factor of several.
    snr : array, shape (sample,)
        Linear ratio of amplitudes (not of powers, not in decibel), > 0.

    Returns
    -------
    sigma : float64, unit of `reference`, shape (sample,)
        Limit: snr = 1 gives the reference.

    Raises
    ------
    ValueError
        A ratio that is not positive.
    """
    if not np.all(np.asarray(snr) > 0.0):
        worst = float(np.min(snr))
        raise ValueError(f"noise.sigma_from_snr: snr must be > 0, but one sample has {worst:g}; bound its draw")
    return Sigma(np.abs(reference) / np.asarray(snr, np.float64))


def _pieces(signal: Any, sigma: Any, draws: Draws, add: Any, kind: type) -> Any:
    """Noise of one or two channels, a few samples at a time: numbers are addressed, so cuts are free."""
    table, move = rows(signal)
    channels = ("real",) if add is _added else ("real", "imaginary")
    out = np.empty((len(signal), table.shape[1]), kind)
    width = max(1, _PIECE // max(1, out.shape[1]))
    spread = np.array(sigma, np.float64)
    for first in range(0, len(out), width):
        last = min(first + width, len(out))
        part = draws.part(first, last)
        noise = [part.normal(name, out.shape[1:]) for name in channels]
        piece = table[first * move : first * move + (last - first) if move else 1]
        add(piece, move, spread[first:last], *noise, out[first:last])
    return out.reshape(signal.shape)


@njit(**_OPTIONS)
def _added(signal: Any, move: int, sigma: Any, noise: Any, out: Any) -> None:
    for i in range(out.shape[0]):
        for v in range(out.shape[1]):
            out[i, v] = signal[i * move, v] + sigma[i] * noise[i, v]


@njit(**_OPTIONS)
def _magnitude(signal: Any, move: int, sigma: Any, noise: Any, other: Any, out: Any) -> None:
    for i in range(out.shape[0]):
        for v in range(out.shape[1]):
            real, imaginary = signal[i * move, v] + sigma[i] * noise[i, v], sigma[i] * other[i, v]
            out[i, v] = np.sqrt(real * real + imaginary * imaginary)


@njit(**_OPTIONS)
def _added_to_both(signal: Any, move: int, sigma: Any, noise: Any, other: Any, out: Any) -> None:
    for i in range(out.shape[0]):
        for v in range(out.shape[1]):
            out[i, v] = signal[i * move, v] + complex(sigma[i] * noise[i, v], sigma[i] * other[i, v])
