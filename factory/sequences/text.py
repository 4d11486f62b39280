"""The sections of a Pulseq file, 1.2 to 1.5: lines of text in, checked rows of numbers out.

Source: the Pulseq file format, https://pulseq.github.io (Layton et al., doi:10.1002/mrm.26235).

Files come from strangers: sizes are limited before memory is given, numbers are read by ``float`` and nothing else, and
what cannot be read is a `SequenceError` that says what, in which line, and what is legal.
"""

from __future__ import annotations

import math
import re
from array import array
from collections.abc import Iterator, Sized
from dataclasses import dataclass, field

import numpy as np

from factory.units import Array

MAX_BYTES = 64 * 2**20  # of a file; a spiral with 28,000 points has 0.24 MB
MAX_SAMPLES = 2**24  # of one shape, unpacked
MAX_TOTAL = 2**25  # of all shapes that a file uses, unpacked
LARGEST = 1e15  # what a number may be: products of a few stay finite
MAX_LINE = 2000  # characters; a list of frequency offsets in a definition may be long
MAX_BLOCKS = 2_000_000
MAX_ROWS = 300_000  # events of one section, definitions, shapes
_STRANGE = re.compile(r"[^\x20-\x7e]")


class SequenceError(ValueError):
    """A sequence cannot be used; one sentence says why."""


def quoted(text: str) -> str:
    """A piece of a file for a sentence: short, without control characters."""
    return "'" + _STRANGE.sub("?", text[:40]) + ("..." if len(text) > 40 else "") + "'"


@dataclass(frozen=True)
class Row:
    """One line of a table: where it stands, its numbers by the names of the columns, and the use of a pulse."""

    line: int
    numbers: dict[str, float]
    use: str = "u"

    def __getitem__(self, name: str) -> float:
        return self.numbers[name]


@dataclass(frozen=True)
class Packed:
    """A shape as it stands in the file."""

    line: int
    samples: int
    data: Array


@dataclass
class Sections:
    """What a file says, section by section; ids are not yet followed."""

    version: tuple[int, int, int] = (0, 0, 0)
    definitions: dict[str, str] = field(default_factory=dict)
    blocks: Array = field(default_factory=lambda: np.zeros((0, 8), np.int64))  # columns as in 1.4: id duration rf ...
    lines: Array = field(default_factory=lambda: np.zeros(0, np.int64))  # where each block stands
    rf: dict[int, Row] = field(default_factory=dict)
    gradients: dict[int, Row] = field(default_factory=dict)
    trapezoids: dict[int, Row] = field(default_factory=dict)
    readouts: dict[int, Row] = field(default_factory=dict)
    delays: dict[int, Row] = field(default_factory=dict)
    shapes: dict[int, Packed] = field(default_factory=dict)
    lists: dict[int, tuple[int, int]] = field(default_factory=dict)  # id of an extension's list -> type, next id
    extensions: dict[int, str] = field(default_factory=dict)  # type -> name
    signature: dict[str, str] = field(default_factory=dict)


_RF_5 = "amplitude magnitude phase_shape time_shape center delay frequency_ppm phase_ppm frequency phase use"
_COLUMNS: dict[str, dict[int, str]] = {  # section -> first minor version -> columns behind the id
    "RF": {2: "amplitude magnitude phase_shape delay frequency phase",
           4: "amplitude magnitude phase_shape time_shape delay frequency phase", 5: _RF_5},
    "GRADIENTS": {2: "amplitude shape delay", 4: "amplitude shape time_shape delay",
                  5: "amplitude first last shape time_shape delay"},
    "TRAP": {2: "amplitude rise flat fall delay"},
    "ADC": {2: "samples dwell delay frequency phase",
            5: "samples dwell delay frequency_ppm phase_ppm frequency phase phase_shape"},
    "DELAYS": {2: "delay"},
}
_TABLES = {"RF": "rf", "GRADIENTS": "gradients", "TRAP": "trapezoids", "ADC": "readouts", "DELAYS": "delays"}
_SECTIONS = ("VERSION", "DEFINITIONS", "BLOCKS", *_TABLES, "EXTENSIONS", "SHAPES", "SIGNATURE")
_USES = "erispou"


def sections(text: str) -> Sections:
    """Read the text of a Pulseq file.

    Raises
    ------
    SequenceError
        The first fault, with its line.
    """
    return _Reader(text).read()


class _Reader:
    """One pass over the lines."""

    def __init__(self, text: str) -> None:
        self.lines = self._numbered(text)
        self.out = Sections()
        self.seen: set[str] = set()
        self.blocks, self.places = array("q"), array("q")
        self.extension = ""

    @staticmethod
    def _numbered(text: str) -> Iterator[tuple[int, str]]:
        """Lines that say something, with their numbers."""
        start, number = 0, 0
        while start < len(text):
            end = text.find("\n", start)
            end = len(text) if end < 0 else end
            number += 1
            if end - start > MAX_LINE:
                raise SequenceError(f"line {number} has {end - start} characters; at most {MAX_LINE} are read")
            line = text[start:end].strip()
            start = end + 1
            if line and line[0] != "#":
                yield number, line

    def read(self) -> Sections:
        shape: tuple[int, int, int, array[float]] | None = None  # id, line, samples, data
        section = ""
        for number, line in self.lines:
            if line[0] == "[":
                section = self._section(number, line)
            elif section == "SHAPES":
                shape = self._shape(number, line, shape)
            else:
                self._line(section, number, line)
        self._keep(shape)
        if "BLOCKS" not in self.seen:
            raise SequenceError("has no section [BLOCKS]; is it a Pulseq file, and whole?")
        self.out.blocks = np.array(self.blocks, np.int64).reshape(-1, 8)
        self.out.lines = np.array(self.places, np.int64)
        return self.out

    def _section(self, number: int, line: str) -> str:
        name = line[1:-1] if line.endswith("]") else ""
        if name not in _SECTIONS:
            raise SequenceError(f"line {number}: {quoted(line)} is no section; legal are "
                                + ", ".join(f"[{one}]" for one in _SECTIONS))
        if name in self.seen:
            raise SequenceError(f"line {number}: the section {line} stands here a second time")
        if name not in ("VERSION", "DEFINITIONS", "SIGNATURE"):
            self._checked_version(number)
        if name == "DELAYS" and self.out.version >= (1, 4):
            raise SequenceError(f"line {number}: [DELAYS] ended with version 1.3; this file is of {self._version}")
        self.seen.add(name)
        return name

    @property
    def _version(self) -> str:
        return ".".join(map(str, self.out.version))

    def _checked_version(self, number: int) -> None:
        major, minor, _ = self.out.version
        if "VERSION" not in self.seen:
            raise SequenceError(f"line {number}: [VERSION] must stand before; is it a Pulseq file?")
        if major != 1 or not 2 <= minor <= 5:
            raise SequenceError(f"is of Pulseq version {self._version}; 1.2 to 1.5 are read")

    def _line(self, section: str, number: int, line: str) -> None:
        if not section:
            raise SequenceError(f"line {number}: {quoted(line)} stands before any section; is it a Pulseq file?")
        words = line.split()
        if section == "VERSION":
            self._version_word(number, words)
        elif section in ("DEFINITIONS", "SIGNATURE"):
            into = self.out.definitions if section == "DEFINITIONS" else self.out.signature
            _bounded(into, section)
            if words[0] in into:
                raise SequenceError(f"line {number}: {quoted(words[0])} is defined a second time")
            into[words[0]] = " ".join(words[1:])
        elif section == "BLOCKS":
            self._block(number, words)
        elif section == "EXTENSIONS":
            self._extension(number, words)
        else:
            self._event(section, number, words)

    def _version_word(self, number: int, words: list[str]) -> None:
        part = {"major": 0, "minor": 1, "revision": 2}.get(words[0])
        digits = re.match(r"[0-9]{1,4}", words[1]) if len(words) == 2 else None
        if part is None or digits is None:  # a revision may read 0post1
            raise SequenceError(f"line {number}: {quoted(' '.join(words))} is no part of a version; "
                                "write major, minor and revision, each with a number")
        version = list(self.out.version)
        version[part] = int(digits[0])
        self.out.version = (version[0], version[1], version[2])

    def _block(self, number: int, words: list[str]) -> None:
        columns = (7, 8) if self.out.version < (1, 4) else (8,)
        if len(words) not in columns:
            raise SequenceError(f"line {number}: a block of version {self._version} has "
                                f"{' or '.join(map(str, columns))} numbers, not {len(words)}")
        row = [_whole(word, number, "a block's number") for word in words]
        if self.blocks and row[0] <= self.blocks[-8]:
            raise SequenceError(f"line {number}: block {row[0]} follows block {self.blocks[-8]}; they must ascend")
        if len(self.places) >= MAX_BLOCKS:
            raise SequenceError(f"has more than {MAX_BLOCKS} blocks")
        self.blocks.extend([*row, 0][:8])
        self.places.append(number)

    def _event(self, section: str, number: int, words: list[str]) -> None:
        spec = _COLUMNS[section]
        names = spec[max(minor for minor in spec if minor <= self.out.version[1])].split()
        if len(words) != len(names) + 1:
            raise SequenceError(f"line {number}: a row of [{section}] in version {self._version} has {len(names) + 1} "
                                f"entries (id {' '.join(names)}), not {len(words)}")
        use = "u"
        if names[-1] == "use":
            use = words.pop()
            names = names[:-1]
            if use not in _USES or len(use) != 1:
                raise SequenceError(f"line {number}: {quoted(use)} is no use of a pulse; legal are "
                                    + ", ".join(_USES))
        table: dict[int, Row] = getattr(self.out, _TABLES[section])
        event = _whole(words[0], number, "an id", 1)
        # Gradients of both kinds share their ids.
        both = (self.out.gradients, self.out.trapezoids) if section in ("GRADIENTS", "TRAP") else (table,)
        if any(event in one for one in both):
            raise SequenceError(f"line {number}: the id {event} is given a second time")
        _bounded(table, section)
        values = [_number(word, number) for word in words[1:]]
        table[event] = Row(number, dict(zip(names, values, strict=True)), use)

    def _extension(self, number: int, words: list[str]) -> None:
        if words[0] == "extension":
            if len(words) != 3:
                raise SequenceError(f"line {number}: an extension is given as 'extension NAME id'")
            self.extension = words[1]
            kind = _whole(words[2], number, "an extension's id", 1)
            _bounded(self.out.extensions, "EXTENSIONS")
            if kind in self.out.extensions:
                raise SequenceError(f"line {number}: the extension {kind} is given a second time")
            self.out.extensions[kind] = words[1]
        elif not self.extension:
            if len(words) != 4:
                raise SequenceError(f"line {number}: a row of [EXTENSIONS] has 4 numbers (id type ref next), "
                                    f"not {len(words)}")
            _bounded(self.out.lists, "EXTENSIONS")
            one, kind, _, following = (_whole(word, number, "an extension's number") for word in words)
            if one in self.out.lists:
                raise SequenceError(f"line {number}: the id {one} is given a second time")
            self.out.lists[one] = (kind, following)

    def _shape(self, number: int, line: str, shape: tuple[int, int, int, array[float]] | None) \
            -> tuple[int, int, int, array[float]] | None:
        """One line of [SHAPES]: the head of a shape or one of its numbers."""
        first, _, rest = line.partition(" ")
        if first == "shape_id":
            self._keep(shape)
            name = _whole(rest.strip(), number, "a shape's id", 1)
            _bounded(self.out.shapes, "SHAPES")
            if name in self.out.shapes:
                raise SequenceError(f"line {number}: the shape {name} is given a second time")
            return name, number, -1, array("d")
        if shape is None:
            raise SequenceError(f"line {number}: {quoted(line)} stands before the first shape_id")
        name, place, samples, data = shape
        if first == "num_samples":
            samples = _whole(rest.strip(), number, "a number of samples", 1)
            if samples > MAX_SAMPLES:
                raise SequenceError(f"line {number}: a shape of {samples} samples; at most {MAX_SAMPLES} are read")
            return name, place, samples, data
        data.append(_number(line, number))
        if len(data) > 1.5 * samples + 2:  # packing turns two equal numbers into three at worst
            raise SequenceError(f"line {number}: the shape {name} has more numbers than its {max(samples, 0)} samples")
        return shape

    def _keep(self, shape: tuple[int, int, int, array[float]] | None) -> None:
        if shape is not None:
            name, place, samples, data = shape
            if samples < 0 or not data:
                raise SequenceError(f"line {place}: the shape {name} is cut off: num_samples and numbers must follow")
            self.out.shapes[name] = Packed(place, samples, np.frombuffer(data, np.float64))


def _bounded(table: Sized, section: str) -> None:
    if len(table) >= MAX_ROWS:
        raise SequenceError(f"has more than {MAX_ROWS} entries in [{section}]")


def _number(word: str, line: int) -> float:
    try:
        value = float(word)
    except ValueError:
        value = math.nan
    if not abs(value) <= LARGEST or "_" in word:  # false for NaN as well
        raise SequenceError(f"line {line}: {quoted(word)} is no number from -{LARGEST:g} to {LARGEST:g}")
    return value


def _whole(word: str, line: int, what: str, least: int = 0) -> int:
    """A whole number in decimal digits; some writers put a point behind it."""
    value = _number(word, line)
    if value != int(value) or not least <= value:
        raise SequenceError(f"line {line}: {what} must be a whole number from {least} on, not {quoted(word)}")
    return int(value)


def unpacked(shape: Packed, name: int, version: tuple[int, int, int]) -> Array:
    """The samples of a shape: run lengths of its derivative, or the samples themselves (from 1.4 on).

    Two equal numbers are followed by how often the same number comes again; the sum over all of them is the shape.

    Raises
    ------
    SequenceError
        The run lengths do not give the number of samples that the shape claims.
    """
    if version >= (1, 4) and len(shape.data) == shape.samples:
        return shape.data
    values, counts = array("d"), array("q")
    data, position, total = shape.data.tolist(), 0, 0
    while position < len(data) and total <= shape.samples:
        value, count, step = data[position], 1, 1
        if position + 1 < len(data) and data[position + 1] == value:
            more = data[position + 2] if position + 2 < len(data) else -1.0
            if more < 0 or more != int(more):
                raise SequenceError(f"line {shape.line}: the shape {name} is damaged: two equal numbers must be "
                                    "followed by how often they come again")
            count, step = min(int(more), shape.samples) + 2, 3
        values.append(value)
        counts.append(count)
        position, total = position + step, total + count
    if total != shape.samples or position < len(data):
        found = "more" if total > shape.samples else total
        raise SequenceError(f"line {shape.line}: the shape {name} unpacks to {found} samples, but claims "
                            f"{shape.samples}")
    return np.cumsum(np.repeat(np.frombuffer(values), np.frombuffer(counts, np.int64)))
