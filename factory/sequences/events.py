"""What a Pulseq file can play: pulses, gradients and readouts, decoded, in Pulseq's own sign."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from factory.sequences.text import MAX_SAMPLES, MAX_TOTAL, Row, Sections, SequenceError, unpacked
from factory.units import Array

MICRO, NANO = 1e-6, 1e-9


@dataclass(frozen=True)
class Offset:
    """Frequency in Hz and phase in rad of a pulse or a readout, each with a part in ppm of the proton's frequency."""

    frequency: float = 0.0
    phase: float = 0.0
    frequency_ppm: float = 0.0
    phase_ppm: float = 0.0

    def at(self, proton: float | None, what: str) -> tuple[float, float]:
        """Frequency and phase where protons precess at ``proton`` Hz; SequenceError if that is needed but None."""
        if not (self.frequency_ppm or self.phase_ppm):
            return self.frequency, self.phase
        if proton is None:
            raise SequenceError(f"{what} has an offset in ppm: say the field, as in table(field=3.0)")
        return (self.frequency + 1e-6 * self.frequency_ppm * proton, self.phase + 1e-6 * self.phase_ppm * proton)


@dataclass(frozen=True, eq=False)
class Pulse:
    """A radio-frequency pulse.

    Attributes
    ----------
    delay : s from the start of the block to the start of the shape
    duration : s, of the shape
    time : float64 in s, shape (point,)
        From the start of the shape.
    amplitude : Hz
    shape : complex128, shape (point,)
        Magnitude and phase of the shape; several pulses share one.
    dwell : s that each point is held, centred at its time; 0 if the signal is linear between the points
    offset : its frequency's phase grows from the start of the shape
    center : s from the start of the shape, or None if the file does not say (before 1.5)
    use : first letter of excitation, refocusing, inversion, saturation, preparation, other or undefined
    """

    delay: float
    duration: float
    time: Array
    amplitude: float
    shape: Array
    dwell: float
    offset: Offset
    center: float | None
    use: str

    def __post_init__(self) -> None:
        self.time.flags.writeable = self.shape.flags.writeable = False

    @property
    def signal(self) -> Array:
        """gamma-bar B1 in Hz and Pulseq's sign, with the phase of the shape and without ``offset``; complex128."""
        return self.amplitude * self.shape

    def means(self, border: Array) -> Array:
        """Mean of the signal between each two borders (s from the start of the shape), shape (len(border) - 1,)."""
        if self.dwell:
            knots = np.arange(len(self.time) + 1) * self.dwell
            rising = np.concatenate([[0.0], np.cumsum(self.shape)]) * self.dwell
            sums = np.interp(border, knots, rising.real) + 1j * np.interp(border, knots, rising.imag)
        else:
            sums = integral(self.time, self.shape, border)
        return self.amplitude * np.diff(sums) / np.diff(border)


@dataclass(frozen=True, eq=False)
class Gradient:
    """A gradient along one axis, linear between its points, in Hz/m.

    Attributes
    ----------
    time : float64 in s, shape (point,)
        From the start of the block, ascending; two equal times are a jump.
    value : float64 in Hz/m, shape (point,)
    continues : bool
        The first value is not in the file (before 1.5): it is the last one of the block before.
    turn : 1, -1 or 0
        What part of the first value is in the last one.
    """

    time: Array
    value: Array
    continues: bool = False
    turn: int = 0

    def __post_init__(self) -> None:
        self.time.flags.writeable = self.value.flags.writeable = False

    @property
    def end(self) -> float:
        return float(self.time[-1])

    def areas(self, border: Array) -> Array:
        """Integral between each two borders (s from the start of the block) in 1/m, shape (len(border) - 1,)."""
        if len(border) == 2 and border[0] <= self.time[0] and border[1] >= self.time[-1]:
            return np.array([self.total])
        return np.diff(integral(self.time, self.value, border))

    @cached_property
    def total(self) -> float:
        """Integral over all of it in 1/m."""
        return float(np.trapezoid(self.value, self.time))

    def beginning_with(self, value: float) -> Gradient:
        """The same gradient with this first value."""
        return Gradient(self.time, np.concatenate([[value], self.value[1:-1], [self.value[-1] + self.turn * value]]))


@dataclass(frozen=True, eq=False)
class Readout:
    """Samples that are taken in the middle of each dwell.

    Attributes
    ----------
    delay, dwell : s; the first sample is taken at delay + dwell / 2 from the start of the block
    samples : how many
    offset : its frequency's phase grows from the end of the delay
    modulation : float64 in rad, shape (samples,) or (0,)
    """

    delay: float
    dwell: float
    samples: int
    offset: Offset
    modulation: Array = field(default_factory=lambda: np.zeros(0))

    @property
    def time(self) -> Array:
        """s from the start of the block, shape (samples,)."""
        return self.delay + (np.arange(self.samples) + 0.5) * self.dwell


def integral(time: Array, value: Array, at: Array) -> Array:
    """Integral of a piecewise linear function from its first point to each time of ``at``; 0 outside.

    Parameters
    ----------
    time, value : shape (point,), time ascending; two equal times are a jump
    at : shape (n,)
    """
    if len(time) < 2:
        return np.zeros(len(at), value.dtype)
    width = np.diff(time)
    whole = np.concatenate([np.zeros(1, value.dtype), np.cumsum(0.5 * width * (value[1:] + value[:-1]))])
    inside = np.clip(at, time[0], time[-1])
    left = np.clip(np.searchsorted(time, inside, side="right") - 1, 0, len(width) - 1)
    slope = np.diff(value)[left] / np.where(width > 1e-15, width, 1.0)[left]  # a jump has none
    passed = inside - time[left]
    result: Array = whole[left] + passed * (value[left] + 0.5 * slope * passed)
    return result


class Decoder:
    """Turns the rows of a file into events, each once."""

    def __init__(self, found: Sections, rf_raster: float, gradient_raster: float) -> None:
        self.found, self.rf_raster, self.gradient_raster = found, rf_raster, gradient_raster
        self.shapes: dict[int, Array] = {}
        self.phasors: dict[tuple[float, float], Array] = {}  # magnitude and phase -> shape of a pulse
        self.times: dict[tuple[float, int], tuple[Array, float]] = {}
        self.total = 0

    def shape(self, number: float, row: Row, what: str) -> Array:
        """The samples of the shape that a row names."""
        if number not in self.shapes:
            packed = self.found.shapes.get(int(number)) if number == int(number) else None
            if packed is None:
                raise SequenceError(f"line {row.line}: there is no shape {number:g} for {what}")
            self._count(packed.samples)
            self.shapes[int(number)] = unpacked(packed, int(number), self.found.version)
        return self.shapes[int(number)]

    def _count(self, samples: int) -> None:
        """Memory is bounded: whatever is decoded counts, and shapes that several events share count once."""
        self.total += samples
        if self.total > MAX_TOTAL:
            raise SequenceError(f"unpacks to more than {MAX_TOTAL} samples of shapes")

    def pulse(self, row: Row) -> Pulse:
        """One row of [RF]."""
        shape = self._phasors(row)
        key = row.numbers.get("time_shape", 0.0), len(shape)
        if key not in self.times:
            self._count(len(shape))
            self.times[key] = self._times(key[0], row, len(shape))
        time, dwell = self.times[key]
        duration = len(shape) * dwell if dwell else float(time[-1])
        if duration <= 0:
            raise SequenceError(f"line {row.line}: the pulse has no duration")
        center = _not_negative(row, "center") * MICRO if "center" in row.numbers else None
        return Pulse(_not_negative(row, "delay") * MICRO, duration, time, row["amplitude"], shape, dwell, _offset(row),
                     center, row.use)

    def _phasors(self, row: Row) -> Array:
        key = row["magnitude"], row["phase_shape"]
        if key not in self.phasors:
            magnitude = self.shape(key[0], row, "the magnitude")
            turns = self.shape(key[1], row, "the phase") if key[1] else np.zeros(len(magnitude))
            if len(turns) != len(magnitude):
                raise SequenceError(f"line {row.line}: the phase of the pulse has {len(turns)} samples, its magnitude "
                                    f"{len(magnitude)}")
            self._count(2 * len(magnitude))
            self.phasors[key] = magnitude * np.exp(2j * np.pi * turns)
        return self.phasors[key]

    def _times(self, number: float, row: Row, points: int) -> tuple[Array, float]:
        """When the points of a pulse are, and how long each is held."""
        if number == 0:
            return (np.arange(points) + 0.5) * self.rf_raster, self.rf_raster
        time = self._ascending(number, row, points) * self.rf_raster
        # Writers give a pulse on a coarser raster by the middles of its steps; it then lasts half a step longer.
        steps = np.diff(time)
        middles = points > 1 and np.allclose(steps, 2 * time[0], rtol=1e-6, atol=1e-12)
        return time, (2 * float(time[0]) if middles else 0.0)

    def _ascending(self, number: float, row: Row, points: int) -> Array:
        time = self.shape(number, row, "the times")
        if len(time) != points or points < 2:
            raise SequenceError(f"line {row.line}: {len(time)} times for {points} values; both must be the same and "
                                "2 or more")
        if time[0] < 0 or np.any(np.diff(time) < 0):
            raise SequenceError(f"line {row.line}: the times of shape {number:g} must ascend from 0 or later")
        return time

    def gradient(self, row: Row) -> Gradient:
        """One row of [GRADIENTS]."""
        value = row["amplitude"] * self.shape(row["shape"], row, "the gradient")
        self._count(2 * len(value))
        raster, number, delay = self.gradient_raster, row.numbers.get("time_shape", 0.0), _not_negative(row, "delay")
        first, last, turn = 0.0, float(value[-1]), 0
        if number == 0:
            time, end = (np.arange(len(value)) + 0.5) * raster, len(value) * raster
            # Each sample is the mean of the values at its two borders, so the last one follows from the first.
            turn = -1 if len(value) % 2 else 1
            last = 2 * float(np.sum(value[::-1][::2]) - np.sum(value[::-1][1::2]))
        elif number == -1:  # twice as many points: in the middles and at the borders of the raster
            time, end = np.arange(1, len(value) + 1) * 0.5 * raster, (len(value) + 1) * 0.5 * raster
        else:
            time = self._ascending(number, row, len(value)) * raster
            end = float(time[-1])
        known = "first" in row.numbers
        if known:
            first, last, turn = row["first"], row["last"], 0
        return Gradient(np.concatenate([[0.0], time, [end]]) + delay * MICRO, np.concatenate([[first], value, [last]]),
                        not known and delay == 0, turn)

    @staticmethod
    def trapezoid(row: Row) -> Gradient:
        """One row of [TRAP]."""
        parts = [_not_negative(row, name) * MICRO for name in ("delay", "rise", "flat", "fall")]
        value = row["amplitude"]
        return Gradient(np.cumsum(parts), np.array([0.0, value, value, 0.0]))

    def readout(self, row: Row) -> Readout:
        """One row of [ADC]."""
        samples = row["samples"]
        if samples != int(samples) or not 1 <= samples <= MAX_SAMPLES:
            raise SequenceError(f"line {row.line}: a readout has 1 to {MAX_SAMPLES} samples, not {samples:g}")
        if not 1 <= row["dwell"] <= 1e12:
            raise SequenceError(f"line {row.line}: the dwell of a readout must be from 1 to 1e12 ns, not "
                                f"{row['dwell']:g}")
        shape = row.numbers.get("phase_shape", 0.0)
        modulation = self.shape(shape, row, "the phase of the readout") if shape else np.zeros(0)
        if shape and len(modulation) != samples:
            raise SequenceError(f"line {row.line}: the phase of the readout has {len(modulation)} samples, not "
                                f"{samples:g}")
        return Readout(_not_negative(row, "delay") * MICRO, row["dwell"] * NANO, int(samples), _offset(row), modulation)


def _not_negative(row: Row, name: str) -> float:
    if not 0 <= row[name] <= 1e12:
        raise SequenceError(f"line {row.line}: {name} must be from 0 to 1e12 us, not {row[name]:g}")
    return row[name]


def _offset(row: Row) -> Offset:
    return Offset(row["frequency"], row["phase"], row.numbers.get("frequency_ppm", 0.0),
                  row.numbers.get("phase_ppm", 0.0))
