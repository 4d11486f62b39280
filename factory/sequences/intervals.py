"""From blocks to the table of intervals: borders where a pulse changes and where a sample is taken."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from factory.sequences.table import Table
from factory.sequences.text import SequenceError
from factory.units import Array

if TYPE_CHECKING:
    from factory.sequences.pulseq import Block, Sequence

STEP = 1e-5  # s, the longest piece of a pulse
MAX_INTERVALS = 10_000_000  # 0.5 GB as a table
PIECES = 16  # of one turn of an offset's phase
_CLOSE = 1e-10  # s; borders nearer than this are one


@dataclass(frozen=True)
class _Piece:
    """One block: borders from its start on, without the first."""

    border: Array
    rf: Array
    area: Array
    sampled: Array
    receiver: Array
    pulse: tuple[int, int] | None


@lru_cache(maxsize=4)
def table_of(sequence: Sequence, proton: float | None, step: float, longest: float) -> Table:
    """The table of a sequence; `Sequence.table` says what the arguments mean.  The last few are kept."""
    if not min(step, longest) > 0:
        raise SequenceError(f"the longest pieces must be positive, not {step:g} s and {longest:g} s")
    known: dict[tuple[object, ...], _Piece] = {}
    pieces, total, room = [], 0, MAX_INTERVALS
    lengths = np.diff(sequence.border)
    for number, row in enumerate(sequence.rows.tolist()):
        if not lengths[number] > _CLOSE:
            continue
        key = (*row, round(float(lengths[number]), 12), *(sequence.first.get((number, axis)) for axis in range(3)))
        if key not in known:
            known[key] = _piece(sequence.block(number), proton, step, longest, room - total)
        total += len(known[key].border)
        if total > room:
            raise SequenceError(f"has more than {MAX_INTERVALS} intervals; a longer step of the pulses gives fewer")
        pieces.append((number, known[key]))
    return _joined(sequence.border, pieces, sequence.text)


def _joined(border: Array, pieces: list[tuple[int, _Piece]], text: str) -> Table:
    time, pulses, total = [np.zeros(1)], [], 0
    for number, piece in pieces:
        later = border[number] + piece.border
        later[-1] = border[number + 1]
        time.append(later)
        if piece.pulse is not None:
            pulses.append((total + piece.pulse[0], total + piece.pulse[1]))
        total += len(later)

    def all_of(name: str, empty: Array) -> Array:
        return np.concatenate([empty, *(getattr(piece, name) for _, piece in pieces)])

    return Table(
        time=np.concatenate(time), rf=all_of("rf", np.zeros(0, np.complex128)), area=all_of("area", np.zeros((0, 3))),
        sampled=all_of("sampled", np.zeros(0, np.bool_)), receiver=all_of("receiver", np.zeros(0)),
        pulses=np.array(pulses, np.int64).reshape(-1, 2), text=text,
    )


def _piece(block: Block, proton: float | None, step: float, longest: float, room: int) -> _Piece:
    cuts = [np.array([0.0, block.duration])]
    frequency = phase = 0.0
    if block.pulse is not None:
        frequency, phase = block.pulse.offset.at(proton, "a pulse")
        piece = min(step, 1 / (PIECES * abs(frequency)) if frequency else step)
        cuts.append(block.pulse.delay + _even(block.pulse.duration, piece, room))
    elif any(block.gradients):
        cuts.append(_even(block.duration, longest, room))
    if block.readout is not None:
        cuts.append(block.readout.time)
    border = np.sort(np.concatenate(cuts))
    border = np.minimum(border[np.concatenate([[True], np.diff(border) > _CLOSE])], block.duration)
    border = border[np.concatenate([[True], np.diff(border) > 0])]
    rf, span = _rf(block, border, frequency, phase)
    sampled = np.zeros(len(border) - 1, np.bool_)
    receiver = np.zeros(0)
    if block.readout is not None:
        adc = block.readout
        sampled[np.clip(np.searchsorted(border, adc.time - 1.5 * _CLOSE), 1, len(border) - 1) - 1] = True
        turning, constant = adc.offset.at(proton, "a readout")
        receiver = constant + 2 * np.pi * turning * (adc.time - adc.delay)
        receiver = receiver + adc.modulation if len(adc.modulation) else receiver
    area = np.stack([one.areas(border) if one is not None else np.zeros(len(border) - 1) for one in block.gradients], 1)
    return _Piece(border[1:], rf, area, sampled, receiver, span)


def _even(duration: float, piece: float, room: int) -> Array:
    """Borders of equal pieces, at most so long."""
    count = max(1, int(min(np.ceil(duration / piece - 1e-6), room + 1)))
    if count > room:
        raise SequenceError(f"has more than {MAX_INTERVALS} intervals; longer pieces give fewer")
    return np.linspace(0.0, duration, count + 1)


def _rf(block: Block, border: Array, frequency: float, phase: float) -> tuple[Array, tuple[int, int] | None]:
    """The pulse in each interval, conjugated, and which intervals it fills."""
    rf = np.zeros(len(border) - 1, np.complex128)
    pulse = block.pulse
    if pulse is None:
        return rf, None
    begin = int(np.searchsorted(border, pulse.delay - 1.5 * _CLOSE))
    end = min(int(np.searchsorted(border, pulse.delay + pulse.duration - 1.5 * _CLOSE)), len(border) - 1)
    inside = border[begin: end + 1] - pulse.delay
    middle = 0.5 * (inside[1:] + inside[:-1])
    # A piece holds its value while the offset's phase turns by 2 pi f d, which weakens it by sinc(f d) at f: undone.
    gain = np.sinc(frequency * np.diff(inside))
    rf[begin:end] = np.conj(pulse.means(inside) * np.exp(1j * (phase + 2 * np.pi * frequency * middle)) / gain)
    played = np.flatnonzero(rf)
    return rf, (int(played[0]), int(played[-1]) + 1) if len(played) else None
