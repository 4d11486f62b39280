"""A Pulseq file as a value: its blocks, what each plays, and the table of intervals for an engine."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from factory.sequences.events import MICRO, Decoder, Gradient, Pulse, Readout
from factory.sequences.intervals import STEP, table_of
from factory.sequences.table import Table
from factory.sequences.text import MAX_BYTES, Sections, SequenceError, quoted, sections
from factory.units import GAMMA_BAR, Array

RASTERS = {"RadiofrequencyRasterTime": 1e-6, "GradientRasterTime": 1e-5, "BlockDurationRaster": 1e-5}  # before 1.4
LONGEST = 1e5  # s; beyond it a float64 no longer tells tenths of a nanosecond apart
SLACK = 1e-8  # s by which rounded texts may overrun a block
_HARMLESS = {"LABELSET", "LABELINC", "TRIGGERS", "DELAYS"}  # extensions that change nothing that spins feel
_EVENTS = ("pulse", "x gradient", "y gradient", "z gradient", "readout")


@dataclass(frozen=True)
class Block:
    """What one block plays, from ``start`` on, for ``duration`` (both in s)."""

    start: float
    duration: float
    pulse: Pulse | None
    gradients: tuple[Gradient | None, Gradient | None, Gradient | None]
    readout: Readout | None


@dataclass(frozen=True, eq=False)
class Sequence:
    """A Pulseq file, decoded.  Everything is in Pulseq's own sign except what `table` returns.

    Attributes
    ----------
    text : the file
    version : major, minor, revision
    definitions : name -> text
    border : float64 in s, shape (block + 1,)
        Where blocks begin and end.
    rows : int64, shape (block, 5)
        Ids of pulse, three gradients and readout of each block; 0 is none.
    pulses, gradients, readouts : id -> event
    first : (block, axis) -> first value in Hz/m of a gradient that goes on where the block before ended
    """

    text: str
    version: tuple[int, int, int]
    definitions: Mapping[str, str]
    border: Array
    rows: Array
    pulses: Mapping[int, Pulse]
    gradients: Mapping[int, Gradient]
    readouts: Mapping[int, Readout]
    first: Mapping[tuple[int, int], float]

    def __post_init__(self) -> None:
        self.border.flags.writeable = self.rows.flags.writeable = False

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def duration(self) -> float:
        """Length in s."""
        return float(self.border[-1])

    def block(self, number: int) -> Block:
        """One block, counted from 0."""
        rf, x, y, z, adc = self.rows[number].tolist()
        axes = (self._gradient(number, 0, x), self._gradient(number, 1, y), self._gradient(number, 2, z))
        start, end = self.border[number: number + 2].tolist()
        return Block(start, end - start, self.pulses.get(rf), axes, self.readouts.get(adc))

    def blocks(self) -> Iterator[Block]:
        """All blocks in order."""
        return (self.block(number) for number in range(len(self)))

    def _gradient(self, number: int, axis: int, event: int) -> Gradient | None:
        gradient = self.gradients.get(event)
        first = self.first.get((number, axis))
        return gradient if gradient is None or first is None else gradient.beginning_with(first)

    @cached_property
    def intact(self) -> bool | None:
        """Whether the text still has the MD5 sum of its signature; None without one."""
        head, found, tail = self.text.partition("\n[SIGNATURE]")
        words = tail.split()
        if not found or "md5" not in words or "Hash" not in words[:-1]:
            return None
        said = words[words.index("Hash") + 1]
        return hashlib.md5(head.encode(), usedforsecurity=False).hexdigest() == said

    def table(self, field: float | None = None, step: float = STEP, longest: float = np.inf) -> Table:
        """What the sequence does to spins, interval after interval, in the sign of the house.

        Parameters
        ----------
        field : T, optional
            Strength of the static field; needed where offsets are in ppm (1.5).
        step : s
            Longest piece of a pulse.  A pulse is cut into equal pieces, shorter than this where it has a frequency
            offset f (at most 1 / (16 f)), and each has the mean of the pulse.
        longest : s
            Longest interval of a block with gradients and without a pulse: for spins that move meanwhile.

        Raises
        ------
        SequenceError
            An offset in ppm without ``field``, or too many intervals.

        Notes
        -----
        Pulseq's phasors are conjugated: a pulse a(t) exp(i (phase + 2 pi f t)) of the file becomes conj(a) exp(-i
        (phase + 2 pi f t)), which is resonant at +f, and a sample is multiplied by exp(+i (phase + 2 pi f t)).  t runs
        from the start of the shape, or from the end of the readout's delay, so at the centre of a pulse its phase is
        phase + 2 pi f center.  Limit: the sum of rf times duration is the flip angle over 2 pi on resonance.
        """
        return table_of(self, None if field is None else GAMMA_BAR * field, step, longest)


def read(path: str | os.PathLike[str]) -> Sequence:
    """Read a Pulseq file (.seq, text, version 1.2 to 1.5).

    Raises
    ------
    SequenceError
        No regular file, too large, or what `parse` says; the sentence names the file.
    """
    path = Path(path)
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
        with os.fdopen(handle, "rb") as file:
            status = os.fstat(handle)
            if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_BYTES:
                raise SequenceError(f"is no regular file of at most {MAX_BYTES} bytes")
            raw = file.read(MAX_BYTES + 1)
        return parse(raw)
    except SequenceError as error:
        raise SequenceError(f"{quoted(path.name)} {error}") from None
    except OSError as error:
        raise SequenceError(f"{quoted(path.name)} cannot be read: {error.strerror or error}") from None


def parse(text: str | bytes) -> Sequence:
    """The sequence that a text describes.

    Raises
    ------
    SequenceError
        Too large, no text, of another version, damaged, or with an extension that changes what spins feel and is not
        read (rotations, shims); says what, in which line, and what is legal.
    """
    if len(text) > MAX_BYTES:
        raise SequenceError(f"has {len(text)} bytes; at most {MAX_BYTES} are read")
    if isinstance(text, bytes):
        try:
            text = text.decode()
        except UnicodeDecodeError:
            raise SequenceError("is no text; is it a Pulseq file?") from None
    found = sections(text)
    _refuse_extensions(found)
    rf, gradient, block = (_raster(found, name) for name in RASTERS)
    decoder = Decoder(found, rf, gradient)
    pulses, gradients, readouts = _played(found, decoder)
    rows = found.blocks[:, 2:7]
    ends = _ends(found, pulses, gradients, readouts)
    border = _borders(found, ends, block)
    first = _firsts(rows, border, gradients)
    return Sequence(text, found.version, found.definitions, border, rows, pulses, gradients, readouts, first)


def _raster(found: Sections, name: str) -> float:
    if name not in found.definitions and found.version < (1, 4):
        return RASTERS[name]
    text = found.definitions.get(name, "nothing")
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 1e-9 <= value <= 1.0:
        raise SequenceError(f"[DEFINITIONS] must give {name} from 1e-9 to 1 in s, not {quoted(text)}")
    return value


def _played(found: Sections, decoder: Decoder) -> tuple[dict[int, Pulse], dict[int, Gradient], dict[int, Readout]]:
    """The events that blocks name; others are not decoded."""
    used = [np.unique(found.blocks[:, columns]).tolist() for columns in ([2], [3, 4, 5], [6])]
    tables = (found.rf, found.gradients | found.trapezoids, found.readouts)
    for ids, table, columns in zip(used, tables, ([2], [3, 4, 5], [6]), strict=True):
        for event in ids:
            if event and event not in table:
                number = int(np.flatnonzero((found.blocks[:, columns] == event).any(1))[0])
                raise SequenceError(f"line {found.lines[number]}: block {found.blocks[number, 0]} names "
                                    f"{'the pulse' if table is found.rf else 'the event'} {event}, which is not given")
    pulses = {event: decoder.pulse(found.rf[event]) for event in used[0] if event}
    gradients = {event: decoder.gradient(found.gradients[event]) if event in found.gradients
                 else decoder.trapezoid(found.trapezoids[event]) for event in used[1] if event}
    readouts = {event: decoder.readout(found.readouts[event]) for event in used[2] if event}
    return pulses, gradients, readouts


def _refuse_extensions(found: Sections) -> None:
    """A block must not use an extension that changes what spins feel; lists are followed with an eye on loops."""
    checked: set[int] = {0}
    for number, start in zip(found.lines, found.blocks[:, 7].tolist(), strict=True):
        one, way = start, set()
        while one not in checked:
            if one in way:
                raise SequenceError(f"line {number}: the list of extensions {start} runs in a circle")
            way.add(one)
            if one not in found.lists:
                raise SequenceError(f"line {number}: there is no list of extensions {one}")
            kind, one = found.lists[one]
            name = found.extensions.get(kind, "")
            if name not in _HARMLESS:
                raise SequenceError(f"line {number}: the block uses the extension {quoted(name or str(kind))}, which "
                                    f"is not read; legal are {', '.join(sorted(_HARMLESS))}")
        checked |= way


def _ends(found: Sections, pulses: Mapping[int, Pulse], gradients: Mapping[int, Gradient],
          readouts: Mapping[int, Readout]) -> Array:
    """When each event of each block ends, in s from the start of the block, shape (block, 5)."""
    ends = np.zeros((len(found.blocks), 5))
    tables = ({event: one.delay + one.duration for event, one in pulses.items()},
              *[{event: one.end for event, one in gradients.items()}] * 3,
              {event: one.delay + one.samples * one.dwell for event, one in readouts.items()})
    for column, table in enumerate(tables):
        ids, where = np.unique(found.blocks[:, 2 + column], return_inverse=True)
        ends[:, column] = np.array([table.get(event, 0.0) for event in ids.tolist()])[where]
    return ends


def _borders(found: Sections, ends: Array, raster: float) -> Array:
    """Where blocks begin and end; SequenceError if an event does not fit into its block."""
    if found.version >= (1, 4):
        ticks = np.concatenate([[0], np.cumsum(found.blocks[:, 1].astype(np.float64))])
        border: Array = ticks * raster
    else:
        ids, where = np.unique(found.blocks[:, 1], return_inverse=True)
        missing = [event for event in ids.tolist() if event and event not in found.delays]
        if missing:
            raise SequenceError(f"there is no delay {missing[0]} in [DELAYS]")
        waits = np.array([found.delays[event]["delay"] * MICRO if event else 0.0 for event in ids.tolist()])[where]
        if np.any(waits < 0):
            raise SequenceError("a delay in [DELAYS] is negative")
        lengths = np.maximum(waits, ends.max(1)).astype(np.longdouble)
        border = np.concatenate([[0.0], np.cumsum(lengths)]).astype(np.float64)
    if not border[-1] <= LONGEST:
        raise SequenceError(f"lasts {border[-1]:.3g} s; at most {LONGEST:.0f} s are read")
    over = ends - np.diff(border)[:, None]
    if over.size and over.max() > SLACK:
        number, event = np.unravel_index(int(np.argmax(over)), over.shape)
        raise SequenceError(f"line {found.lines[number]}: the {_EVENTS[event]} of block {found.blocks[number, 0]} ends "
                            f"{over.max() * 1e6:.3g} us after the block")
    return border


def _firsts(rows: Array, border: Array, gradients: Mapping[int, Gradient]) -> dict[tuple[int, int], float]:
    """First values of gradients that go on where the block before ended, which files before 1.5 do not give."""
    first: dict[tuple[int, int], float] = {}
    if not any(gradient.continues for gradient in gradients.values()):
        return first
    lengths = np.diff(border)
    last = [0.0, 0.0, 0.0]
    for number, (_, *events, _) in enumerate(rows.tolist()):
        for axis, event in enumerate(events):
            gradient = gradients.get(event)
            if gradient is not None and gradient.continues and last[axis]:
                first[number, axis] = last[axis]
                gradient = gradient.beginning_with(last[axis])
            ended = gradient is None or gradient.end < lengths[number] - SLACK
            last[axis] = 0.0 if gradient is None or ended else float(gradient.value[-1])
    return first
