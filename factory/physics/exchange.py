"""Chemical exchange: water, solutes and a semisolid pool under saturation (CEST, MT), by the Bloch-McConnell equations.

McConnell 1958, doi:10.1063/1.1744152; Woessner 2005, doi:10.1002/mrm.20408; in the form of Zaiss, Bachert 2013,
doi:10.1088/0031-9155/58/22/R221.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np

from factory.physics import _exchange, _saturation
from factory.physics._lineshapes import LINES, super_lorentzian
from factory.physics._saturation import RECORD, RESET, SPOIL_AFTER
from factory.sequences import Sequence
from factory.step import step
from factory.units import GAMMA_BAR, Array, Hertz, PerSecond, Seconds, Unitless

Line = Literal["lorentzian", "gaussian", "super_lorentzian"]
Fractions = Annotated[Array, "1", "..."]
Rates = Annotated[Array, "1/s", "..."]
Shifts = Annotated[Array, "ppm", "..."]
Times = Annotated[Array, "s", "..."]
_TWO_PI = 2 * np.pi


class Pools(NamedTuple):
    """Water, solutes and a semisolid pool of each sample.

    Arrays have the shape (sample,), those of solutes for several of them (sample, pool).

    Attributes
    ----------
    t1, t2 : s
        Of water.
    off_resonance : Hz
    fraction : 1
        Of each solute: its equilibrium magnetisation over that of water.
    exchange_rate : 1/s
        From each solute to water.
    shift : ppm from water
    solute_t1, solute_t2 : s
    semisolid_fraction, semisolid_exchange_rate, semisolid_t1, semisolid_t2 : 1, 1/s, s, s
    """

    t1: Array
    t2: Array
    off_resonance: Array
    fraction: Array
    exchange_rate: Array
    shift: Array
    solute_t1: Array
    solute_t2: Array
    semisolid_fraction: Array
    semisolid_exchange_rate: Array
    semisolid_t1: Array
    semisolid_t2: Array

    def rows(self, field: float, semisolid_shift: float) -> tuple[Array, Array]:
        """What kernels read, shape (sample, pool + 2, 5), and whether each solute and the semisolid pool are there.

        Raises
        ------
        ValueError
            A relaxation time is not above 0 or not finite, a fraction or a rate is below 0.
        """
        count, ppm = len(self.t1), _TWO_PI * GAMMA_BAR * field * 1e-6
        fraction, exchange_rate, shift, solute_t1, solute_t2 = (
            np.asarray(x, float).reshape(count, -1)
            for x in (self.fraction, self.exchange_rate, self.shift, self.solute_t1, self.solute_t2)
        )
        times = (self.t1, self.t2, solute_t1, solute_t2, self.semisolid_t1, self.semisolid_t2)
        if not all(np.all((x > 0) & (x < np.inf)) for x in times):
            raise ValueError("exchange: relaxation times must be above 0 s and finite, those of a pool that is not "
                             "there too")  # fmt: skip
        if not all(np.all(x >= 0) for x in (fraction, exchange_rate, self.semisolid_fraction,
                                            self.semisolid_exchange_rate)):  # fmt: skip
            raise ValueError("exchange: fractions and exchange rates must not be negative")
        n = fraction.shape[1]
        table = np.zeros((count, n + 3, 5))
        table[:, 0, :2], table[:, 0, 3] = np.stack([1 / self.t1, 1 / self.t2], -1), 1.0
        table[:, 1 : n + 1] = np.stack([1 / solute_t1, 1 / solute_t2, exchange_rate, fraction, shift * ppm], -1)
        table[:, n + 1] = np.stack([1 / self.semisolid_t1, self.semisolid_t2, self.semisolid_exchange_rate,
                                    self.semisolid_fraction, np.full(count, semisolid_shift * ppm)], -1)  # fmt: skip
        table[:, : n + 2, 4] += _TWO_PI * np.asarray(self.off_resonance, float)[:, None]
        table[:, n + 2, 4] = ppm
        return table, np.concatenate([fraction > 0, self.semisolid_fraction[:, None] > 0], 1)


def _over_pools(pools: Pools, field: float, semisolid_shift: float, run: Callable[[Array, Any, Any], None]) -> None:
    """Call ``run(rows, state, which)`` for all samples that have the same pools: one without magnetisation is left out.

    A sample's numbers so depend on its own pools only.
    """
    table, there = pools.rows(field, semisolid_shift)
    kinds, kind = np.unique(there, axis=0, return_inverse=True)
    for k, present in enumerate(kinds):
        which = np.flatnonzero(kind.reshape(-1) == k)
        kept = np.concatenate([[0], 1 + np.flatnonzero(present), [table.shape[1] - 1]])
        state = (0,) * (3 * (1 + int(present[:-1].sum())) + int(present[-1]))
        run(np.ascontiguousarray(table[which][:, kept]), state, which)


class Train(NamedTuple):
    """Pulses and pauses as `factory.physics._saturation.signals` reads them."""

    elements: Array
    pieces: Array
    program: Array
    phases: Array

    def signals(self, pools: Pools, b1: Array, field: float, semisolid_shift: float, line: str, start: float = 1.0
                ) -> Array:  # fmt: skip
        """Mx, My and Mz of water at each record in float64, shape (sample, record, 3); the water's equilibrium is 1."""
        out = np.empty((len(pools.t1), int(np.count_nonzero(self.program[:, 1] & RECORD)), 3))

        def run(rows: Array, state: Any, which: Any) -> None:
            part = np.empty((len(which), *out.shape[1:]))
            _saturation.signals(rows, np.array(b1[which], float), self.elements, self.pieces, self.program, self.phases,
                                start, LINES.index(line), super_lorentzian(), state, part)  # fmt: skip
            out[which] = part

        _over_pools(pools, field, semisolid_shift, run)
        return out


class _Writing:
    """A train while it is written: equal elements are kept once."""

    def __init__(self) -> None:
        self._elements: dict[tuple[Any, ...], int] = {}
        self._operations: list[tuple[int, int, float]] = []

    def add(self, amplitude: Any, duration: Any, frequency: float = 0.0, phase: Any = 0.0, *, turn: float = 0.0,
            does: int = 0) -> None:  # fmt: skip
        """One element: pieces of an amplitude in T, a duration in s and a phase in rad, with one frequency in Hz.

        ``turn`` in rad is the phase of the whole element.
        """
        pieces = np.stack(np.broadcast_arrays(*(np.atleast_1d(np.asarray(x, float)) for x in (
            amplitude, phase, duration))), 1)  # fmt: skip
        key = (len(pieces), pieces.tobytes(), frequency)
        number = self._elements.setdefault(key, len(self._elements))
        self._operations.append((number, does, turn))

    def done(self) -> Train:
        """The train, elements with as many pieces side by side."""
        order = sorted(self._elements, key=lambda key: key[0])
        place = np.empty(len(order), int)
        first, elements, pieces = 0, np.empty((len(order), 3)), []
        for k, key in enumerate(order):
            place[self._elements[key]] = k
            elements[k] = first, key[0], _TWO_PI * key[2]
            pieces.append(np.frombuffer(key[1]).reshape(-1, 3))
            first += key[0]
        held = np.concatenate(pieces) * [_TWO_PI * GAMMA_BAR, 1.0, 1.0]
        program = np.array([(place[number], does) for number, does, _ in self._operations], np.int64)
        return Train(elements, held, program, np.array([turn for *_, turn in self._operations]))


def train(sequence: Sequence, pieces: int = 300, *, reset: bool = True, field: float | None = None) -> Train:
    """A Pulseq file of saturation as a train that is recorded at each readout.

    Parameters
    ----------
    sequence : what `factory.sequences.read` returns
    pieces : int
        A shaped pulse becomes that many equal pieces of its mean.
    reset : bool
        Whether each readout begins with the starting magnetisation, instead of what the one before left.
    field : float in T, optional
        Needed where the file gives offsets in ppm.

    Raises
    ------
    SequenceError
        An offset in ppm without ``field``.

    Notes
    -----
    As the CEST community reads these files: a block with a gradient along z spoils what is transverse at its end, one
    with a readout records at its start and takes no time.
    """
    written, fresh, does = _Writing(), RESET if reset else 0, 0
    proton = None if field is None else GAMMA_BAR * field
    for block in sequence.blocks():
        if block.readout is not None:
            written.add(0.0, 0.0, does=does | RECORD)
            does = fresh
            continue
        if block.pulse is None:
            spoiled = block.gradients[2] is not None
            written.add(0.0, block.duration, does=does | (SPOIL_AFTER if spoiled else 0))
            does = 0
            continue
        pulse = block.pulse
        frequency, phase = pulse.offset.at(proton, "a pulse")
        if pulse.delay > 0:
            written.add(0.0, pulse.delay, does=does)
            does = 0
        flat = bool(np.all(pulse.shape == pulse.shape[0]))
        border = np.linspace(0.0, pulse.duration, 2 if flat else pieces + 1)
        means = np.conj(pulse.means(border))  # Pulseq's sign is the other one
        written.add(np.abs(means) / GAMMA_BAR, np.diff(border), frequency, np.angle(means), turn=-phase, does=does)
        does, after = 0, block.duration - pulse.delay - pulse.duration
        if after > 1e-9:
            written.add(0.0, after)
    return written.done()


class Spectrum(NamedTuple):
    """What `z_spectrum` and `saturation_train` return."""

    z: Annotated[Array, "1", "float32", "offset"]
    offset: Annotated[Array, "ppm", "float64", "offset"]


@step
def z_spectrum(
    t1: Seconds,
    t2: Seconds,
    b1: Unitless,
    off_resonance: Hertz,
    fraction: Fractions,
    exchange_rate: Rates,
    shift: Shifts,
    solute_t1: Times,
    solute_t2: Times,
    semisolid_fraction: Unitless,
    semisolid_exchange_rate: PerSecond,
    semisolid_t1: Seconds,
    semisolid_t2: Seconds,
    *,
    offset: Annotated[tuple[float, ...], "ppm"],
    amplitude: Annotated[float, "T", ">=0"],
    duration: Annotated[float, "s", ">0"],
    field: Annotated[float, "T", ">0"],
    line: Line = "super_lorentzian",
    semisolid_shift: Annotated[float, "ppm"] = 0.0,
    start: Annotated[float, "1"] = 1.0,
) -> Spectrum:
    """Mz of water behind a long pulse of constant amplitude at each frequency offset (continuous-wave saturation).

    ::

        start      b1 amplitude at offset 1      Mz
        ----------|=========================|----+      and the same from the start for offset 2, 3 ...
                          duration

    Parameters
    ----------
    t1, t2 : array in s, shape (sample,)
        Of water, > 0.
    b1 : array, shape (sample,)
        Actual over nominal amplitude.
    off_resonance : array in Hz, shape (sample,)
        Of water and of everything with it.
    fraction, exchange_rate, shift, solute_t1, solute_t2 : arrays in 1, 1/s, ppm, s, s, shape (sample, ...)
        Of solutes: equilibrium magnetisation over that of water, rate from the solute to water, distance from water,
        relaxation times.  One solute is a number a sample, several are vectors of one length.
    semisolid_fraction, semisolid_exchange_rate, semisolid_t1, semisolid_t2 : arrays in 1, 1/s, s, s, shape (sample,)
        Of the semisolid pool.  A pool of fraction 0 is not there.
    offset : tuple of float in ppm
        Of the pulse from the carrier, on which water lies where off_resonance is 0.
    amplitude : float in T
    duration : float in s
    field : float in T
    line : lorentzian, gaussian or super_lorentzian
        Of the semisolid pool's absorption.
    semisolid_shift : float in ppm
        From water to the centre of that line.
    start : float
        Mz over its equilibrium before the pulse, of every pool.

    Returns
    -------
    z : float32, shape (sample, offset)
        Mz of water over its equilibrium.
    offset : float64 in ppm, shape (offset,)

    Raises
    ------
    ValueError
        A relaxation time is not above 0 or not finite, a fraction or a rate is below 0.

    Notes
    -----
    Limits: amplitude 0 gives the recovery 1 + (start - 1) exp(-duration / t1) where all fractions are 0; a long pulse
    gives the steady state (1 + (w t2)^2) / (1 + (w t2)^2 + w1^2 t1 t2) of Bloch 1946, doi:10.1103/PhysRev.70.460;
    off_resonance moves the whole spectrum, to higher offsets where it is positive.  The semisolid pool has no
    transverse magnetisation and exchanges along z only; the super-Lorentzian line is continued within +-1 ppm of its
    pole by a parabola of the same value and slope.  Error: 1e-11 before rounding to float32.
    """
    pools = Pools(t1, t2, off_resonance, fraction, exchange_rate, shift, solute_t1, solute_t2, semisolid_fraction,
                  semisolid_exchange_rate, semisolid_t1, semisolid_t2)  # fmt: skip
    z = spectra(pools, b1, offset, amplitude, duration, field, line, semisolid_shift, start)
    return Spectrum(z.astype(np.float32), np.array(offset))


def spectra(pools: Pools, b1: Array, offset: tuple[float, ...], amplitude: float, duration: float, field: float,
            line: str, semisolid_shift: float = 0.0, start: float = 1.0) -> Array:  # fmt: skip
    """The numbers of `z_spectrum` in float64, shape (sample, offset)."""
    out = np.empty((len(pools.t1), len(offset)))
    frequency = np.array(offset) * (_TWO_PI * GAMMA_BAR * field * 1e-6)
    w1 = _TWO_PI * GAMMA_BAR * amplitude * np.asarray(b1, float)

    def run(rows: Array, state: Any, which: Any) -> None:
        part = np.empty((len(which), len(offset)))
        _exchange.spectra(rows, frequency, w1[which], duration, start, LINES.index(line), super_lorentzian(), state,
                          part)  # fmt: skip
        out[which] = part

    _over_pools(pools, field, semisolid_shift, run)
    return out


@step
def saturation_train(
    t1: Seconds,
    t2: Seconds,
    b1: Unitless,
    off_resonance: Hertz,
    fraction: Fractions,
    exchange_rate: Rates,
    shift: Shifts,
    solute_t1: Times,
    solute_t2: Times,
    semisolid_fraction: Unitless,
    semisolid_exchange_rate: PerSecond,
    semisolid_t1: Seconds,
    semisolid_t2: Seconds,
    *,
    offset: Annotated[tuple[float, ...], "ppm"],
    pulse: Annotated[tuple[float, ...], "T"],
    phase: Annotated[tuple[float, ...], "rad"],
    pulse_duration: Annotated[float, "s", ">0"],
    pause: Annotated[float, "s", ">=0"],
    n_pulse: Annotated[int, ">=1"],
    recovery: Annotated[float, "s", ">=0"],
    field: Annotated[float, "T", ">0"],
    line: Line = "super_lorentzian",
    semisolid_shift: Annotated[float, "ppm"] = 0.0,
    start: Annotated[float, "1"] = 1.0,
) -> Spectrum:
    """Mz of water behind a train of equal shaped pulses at each frequency offset (pulsed saturation).

    ::

        start                                                       Mz
        -----+-----------+------/\\------+-------+------/\\------+--+      and the same for each offset
              recovery      pulse 1       pause     pulse 2
                            pulse_duration

    Parameters
    ----------
    t1, t2, b1, off_resonance, fraction, exchange_rate, shift, solute_t1, solute_t2, semisolid_fraction,
    semisolid_exchange_rate, semisolid_t1, semisolid_t2 : arrays
        As in `z_spectrum`.
    offset : tuple of float in ppm
    pulse, phase : tuples of float in T and rad, shape (piece,)
        Amplitude and phase of equal pieces of the pulse, constant within each.
    pulse_duration, pause, recovery : floats in s
        Of one pulse, between two pulses, and before the first.
    n_pulse : int
    field, line, semisolid_shift, start : as in `z_spectrum`

    Returns
    -------
    z : float32, shape (sample, offset)
        Mz of water over its equilibrium behind the last pulse.
    offset : float64 in ppm, shape (offset,)

    Raises
    ------
    ValueError
        Not as many phases as amplitudes, or as in `z_spectrum`.

    Notes
    -----
    Limits: one piece, one pulse and no recovery give `z_spectrum`.  Each pulse begins with the phase with which the one
    before ended, as if the oscillator of the offset stood still in the pauses: the convention of sequences for CEST
    (Herz 2021, doi:10.1002/mrm.28825).  What is transverse is kept through the pauses.
    """
    if len(pulse) != len(phase):
        raise ValueError(f"exchange.saturation_train: there are {len(pulse)} amplitudes and {len(phase)} phases; give "
                         "one of each for every piece of the pulse")
    pools = Pools(t1, t2, off_resonance, fraction, exchange_rate, shift, solute_t1, solute_t2, semisolid_fraction,
                  semisolid_exchange_rate, semisolid_t1, semisolid_t2)  # fmt: skip
    whole = _pulsed(tuple(offset), tuple(pulse), tuple(phase), pulse_duration, pause, n_pulse, recovery, field)
    found = whole.signals(pools, b1, field, semisolid_shift, line, start)
    return Spectrum(found[..., 2].astype(np.float32), np.array(offset))


@lru_cache(8)
def _pulsed(offset: tuple[float, ...], pulse: tuple[float, ...], phase: tuple[float, ...], pulse_duration: float,
            pause: float, n_pulse: int, recovery: float, field: float) -> Train:  # fmt: skip
    """The train of each offset after the other, each recorded behind its last pulse."""
    written, ppm = _Writing(), GAMMA_BAR * field * 1e-6
    for one in offset:
        written.add(0.0, recovery, does=RESET)
        for k in range(n_pulse):
            if k:
                written.add(0.0, pause)
            turn = -_TWO_PI * one * ppm * pulse_duration * k
            written.add(pulse, pulse_duration / len(pulse), one * ppm, phase, turn=turn,
                        does=RECORD if k == n_pulse - 1 else 0)  # fmt: skip
    return written.done()


class Frames(NamedTuple):
    """What `fingerprint` returns."""

    signal: Annotated[Array, "1", "float32", "frame"]


@step(
    sizes=lambda amplitude, **_: {"frame": len(amplitude)},
    probe={"semisolid_fraction": 0.1, "semisolid_t1": 1.0, "semisolid_t2": 1e-5},
)
def fingerprint(
    t1: Seconds,
    t2: Seconds,
    b1: Unitless,
    off_resonance: Hertz,
    fraction: Fractions,
    exchange_rate: Rates,
    shift: Shifts,
    solute_t1: Times,
    solute_t2: Times,
    semisolid_fraction: Unitless,
    semisolid_exchange_rate: PerSecond,
    semisolid_t1: Seconds,
    semisolid_t2: Seconds,
    *,
    amplitude: Annotated[tuple[float, ...], "T", ">=0"],
    saturation_offset: Annotated[tuple[float, ...], "ppm"],
    saturation_time: Annotated[float, "s", ">0"],
    recovery: Annotated[float, "s", ">=0"],
    flip_angle: Annotated[float, "rad", ">=0"],
    flip_time: Annotated[float, "s", ">0"],
    echo_time: Annotated[float, "s", ">=0"],
    field: Annotated[float, "T", ">0"],
    line: Line = "super_lorentzian",
    semisolid_shift: Annotated[float, "ppm"] = 0.0,
) -> Frames:
    """Fingerprints of CEST: frames of saturation, excitation and readout that hand their magnetisation on.

    ::

        recovery   saturation 1    spoil  flip   echo  spoil  recovery   saturation 2
        ---------|===============|-------|##|-----+----------|---------|===============|--- ...
                  saturation_time     flip_time echo_time

    Parameters
    ----------
    t1, t2, b1, off_resonance, fraction, exchange_rate, shift, solute_t1, solute_t2, semisolid_fraction,
    semisolid_exchange_rate, semisolid_t1, semisolid_t2 : arrays
        As in `z_spectrum`.
    amplitude, saturation_offset : tuples of float in T and ppm, shape (frame,)
        Of the saturation of each frame, constant while it lasts.
    saturation_time, recovery, flip_time, echo_time : floats in s
        Of the saturation, before it, of the excitation, and from its end to the echo.
    flip_angle : float in rad
        Of a rectangular pulse at the carrier, nominal.
    field, line, semisolid_shift : as in `z_spectrum`

    Returns
    -------
    signal : float32, shape (sample, frame)
        |Mxy| of water over its equilibrium at the echo.

    Raises
    ------
    ValueError
        Not as many offsets as amplitudes, or as in `z_spectrum`.

    Notes
    -----
    Limits: without pools and with amplitudes 0 the saturation-recovery train of water, M0 sin(flip_angle)
    exp(-echo_time / t2) in the first frame.  The train begins in equilibrium; what is transverse is spoiled behind each
    saturation and each echo.  Cohen 2018, doi:10.1002/mrm.27221; Perlman 2021, doi:10.1038/s41551-021-00809-7.
    """
    if len(amplitude) != len(saturation_offset):
        raise ValueError(f"exchange.fingerprint: there are {len(amplitude)} amplitudes and {len(saturation_offset)} "
                         "offsets; give one of each for every frame")
    pools = Pools(t1, t2, off_resonance, fraction, exchange_rate, shift, solute_t1, solute_t2, semisolid_fraction,
                  semisolid_exchange_rate, semisolid_t1, semisolid_t2)  # fmt: skip
    whole = _framed(tuple(amplitude), tuple(saturation_offset), saturation_time, recovery, flip_angle, flip_time,
                    echo_time, field)  # fmt: skip
    found = whole.signals(pools, b1, field, semisolid_shift, line)
    return Frames(np.sqrt(found[..., 0] ** 2 + found[..., 1] ** 2).astype(np.float32))


@lru_cache(8)
def _framed(amplitude: tuple[float, ...], saturation_offset: tuple[float, ...], saturation_time: float, recovery: float,
            flip_angle: float, flip_time: float, echo_time: float, field: float) -> Train:  # fmt: skip
    """The frames of `fingerprint`, each recorded at its echo."""
    written = _Writing()
    for strength, offset in zip(amplitude, saturation_offset, strict=True):
        written.add(0.0, recovery)
        written.add(strength, saturation_time, offset * GAMMA_BAR * field * 1e-6, does=SPOIL_AFTER)
        written.add(flip_angle / (_TWO_PI * GAMMA_BAR * flip_time), flip_time)
        written.add(0.0, echo_time, does=RECORD | SPOIL_AFTER)
    return written.done()
