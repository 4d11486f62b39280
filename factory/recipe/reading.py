"""Strict YAML for texts from strangers: a tree of `Node`, or every fault at once.

Only what a recipe needs is read: one document of mappings, lists and the scalars of YAML 1.2's core schema.  Anchors,
aliases, merge keys, tags, directives, duplicate keys, NaN, infinities, control characters and the words that other
readers of YAML turn into something else (``no``, ``6:30``, ``012``) are faults.  The text is bounded in bytes and in
depth, and the tree is built from the stream of events, so no recursion, expansion or constructor of the YAML library
ever runs.
"""

from __future__ import annotations

import math
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

MAX_BYTES = 256 * 1024
MAX_DEPTH = 32
MAX_KEY = 128  # characters; a YAML reader looks no further than 1024 bytes for the colon after a key
MAX_DIGITS = 20
MAX_FAULTS = 100  # that are told; a text with ten times as many is not read on
MAX_SAID = 2000  # characters of a sentence; what is given may be as long as the text
_TOO_DEEP = f"brackets or indents are nested more than {MAX_DEPTH} deep"
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

# What is not here controls a terminal, is half a surrogate pair, or reorders or breaks lines where no eye sees it.
_LEGAL = ("\t\n -~\u00a0-\u200d\u2010-\u2027\u202f-\u2065\u206a-\ud7ff\ue000-\ufefe\uff00-\ufffd"
          "\U00010000-\U0010ffff")
_STRANGE = re.compile(f"[^{_LEGAL}]")
_STRANGE_IN_FILE = re.compile(f"[^\r{_LEGAL}]")  # a line may end in \r\n
_INT = re.compile(r"[-+]?[0-9]+(?:_[0-9]+)*|0o[0-7]+(?:_[0-7]+)*|0x[0-9a-fA-F]+(?:_[0-9a-fA-F]+)*")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:_[0-9]+)*(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_SEXAGESIMAL = re.compile(r"[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?")
_NUMBERLIKE = re.compile(r"[-+]?(?:0[xob])?[0-9._]+(?:[eE][-+]?[0-9_]*)?")
_NOT_FINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
_CORE = {"": None, "~": None, "null": None, "Null": None, "NULL": None,
         "true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_OLD_WORDS = {"yes": "true", "on": "true", "y": "true", "no": "false", "off": "false", "n": "false"}

Value = Any  # dict[str, Node] | list[Node] | str | int | float | bool | None; callers narrow it with isinstance


@dataclass(frozen=True)
class Node:
    """One value of the text and where it stands.

    Attributes
    ----------
    value : dict[str, Node], list[Node], str, int, float, bool or None
    line, column : of the value, from 1; 0 where there is no text
    key_line : the line of its key where it stands in a mapping
    origin : the name of the file, or ``--set``
    broken : a fault of this value is known already; `Faults.add` ignores any other
    """

    value: Value
    line: int = 0
    column: int = 0
    key_line: int = 0
    origin: str = ""
    broken: bool = field(default=False, compare=False)

    def plain(self) -> Any:
        """The value without lines: dicts, lists and scalars."""
        if isinstance(self.value, dict):
            return {key: child.plain() for key, child in self.value.items()}
        if isinstance(self.value, list):
            return [child.plain() for child in self.value]
        return self.value


@dataclass(frozen=True)
class Fault:
    """What was given, where, what is legal and the nearest legal name; as text one sentence."""

    line: int
    place: str
    given: str
    legal: str = ""
    nearest: str = ""
    origin: str = ""

    def __str__(self) -> str:
        where = f"{self.origin}:{self.line}" if self.line and self.origin != "--set" else self.origin
        parts = [self.given, self.legal, f"did you mean {self.nearest!r}?" if self.nearest else ""]
        said = "; ".join(part if len(part) <= MAX_SAID else part[:MAX_SAID] + "..." for part in parts if part)
        return visible(": ".join(part for part in (where[-MAX_KEY:], self.place[:MAX_KEY * 2], said) if part))


class RecipeError(ValueError):
    """Every fault that was found, one a line, in the order of the text."""

    def __init__(self, faults: list[Fault], more: int = 0) -> None:
        super().__init__(faults, more)
        self.faults = sorted(faults, key=lambda fault: (fault.origin, fault.line))
        self.more = more

    def __str__(self) -> str:
        return "\n".join([*map(str, self.faults), *([f"and {self.more} more faults"] if self.more else [])])


class Faults:
    """Collects faults, so that a reader learns of all of them at once."""

    def __init__(self, origin: str = "") -> None:
        self.origin = origin
        self.found: list[Fault] = []
        self.noticed = 0  # counts complaints about broken nodes too, so that a caller knows that something was wrong
        self._more = 0

    def __bool__(self) -> bool:
        return bool(self.found)

    @property
    def count(self) -> int:
        """How many faults there are, with those beyond `MAX_FAULTS`."""
        return len(self.found) + self._more

    def add(self, node: Node, place: str, given: str, legal: str = "", nearest: str = "") -> None:
        """One more fault at ``node``; a node that is broken already is not complained about twice."""
        self.noticed += 1
        if not node.broken:
            self.at(node.line or node.key_line, place, given, legal, nearest, node.origin)

    def at(self, line: int, place: str, given: str, legal: str = "", nearest: str = "", origin: str = "") -> None:
        """One more fault at a line."""
        fault = Fault(line, place, given, legal, nearest, origin or self.origin)
        if fault in self.found:
            return  # each split reads the common text again
        if len(self.found) < MAX_FAULTS:
            self.found.append(fault)
        else:
            self._more += 1

    def take(self, other: Faults) -> None:
        """All faults of another collector."""
        for fault in other.found:
            self.at(fault.line, fault.place, fault.given, fault.legal, fault.nearest, fault.origin)
        self._more += other._more

    def raise_if_any(self) -> None:
        """RecipeError with all of them, if there are any."""
        if self.found:
            raise RecipeError(self.found, self._more)


def nearest(word: str, names: Iterator[str] | list[str]) -> str:
    """The legal name most like ``word``, or an empty text."""
    return next(iter(get_close_matches(word[:MAX_KEY], [str(name) for name in names], 1)), "")


def visible(text: str) -> str:
    """The text with its control characters written out, safe for a terminal."""
    return _STRANGE.sub(lambda one: ascii(one[0])[1:-1], text).replace("\n", "\\n")


def shown(value: object) -> str:
    """A given value for a sentence: quoted and short."""
    text = repr(value) if not isinstance(value, str) else f"'{visible(value[:80])}'"
    return text if len(text) <= 62 else text[:58] + "...'"


def read(source: Path | str | bytes, faults: Faults | None = None, origin: str = "") -> Node:
    """Read a recipe's text, or a file of it.

    Parameters
    ----------
    source : the file (a Path), or the text itself (str or bytes)
    faults : faults are added here and what could be read is returned; without it they are raised
    origin : what to call the text in a sentence; a file is called by its name

    Raises
    ------
    RecipeError
        All faults of the text.  What makes the rest unreadable (bad syntax, too large) is raised even with ``faults``.
    """
    named = source.name if isinstance(source, Path) else faults.origin if faults is not None else ""
    origin = origin or named or "recipe"
    found = faults if faults is not None else Faults(origin)
    own = Faults(origin)
    tree = None
    try:
        tree = _Reader(_text(source, own), origin, own).tree()
    except yaml.YAMLError as error:
        mark, problem = getattr(error, "problem_mark", None), str(getattr(error, "problem", None) or error)
        deep = "nesting depth" in problem  # newer libraries give up before we do
        said = _TOO_DEEP if deep else f"this is not YAML: {problem}"
        own.at(mark.line + 1 if mark else 1, "", said)
    except _Unreadable:
        pass
    found.take(own)
    if faults is None or tree is None:
        found.raise_if_any()
    assert tree is not None  # without a tree there is a fault
    return tree


def read_value(text: str, origin: str = "--set") -> Node:
    """One value as ``--set place=text`` gives it, by the same rules; RecipeError names all its faults."""
    return read(text, origin=origin)


def read_bytes(path: Path, limit: int) -> bytes:
    """The bytes of a regular file of at most ``limit`` bytes; anything else (FIFO, device, folder) is an OSError.

    A FIFO without a writer would block an ordinary open for ever, and a device may have no end.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(f"{shown(str(path))} is no regular file")
        if status.st_size > limit:
            raise OSError(f"{shown(path.name)} has {status.st_size} bytes; at most {limit} are read")
        with os.fdopen(handle, "rb", closefd=False) as file:
            return file.read(limit + 1)[:limit]
    finally:
        os.close(handle)


class _Unreadable(Exception):
    """The rest cannot be read; the reason is among the faults."""


def _text(source: Path | str | bytes, faults: Faults) -> str:
    if isinstance(source, Path):
        try:
            source = read_bytes(source, MAX_BYTES)
        except OSError as error:
            faults.at(0, "", error.strerror.lower() if error.strerror else str(error))
            raise _Unreadable from None
    raw = source.encode(errors="surrogatepass") if isinstance(source, str) else source
    if len(raw) > MAX_BYTES:
        faults.at(0, "", f"the text has {len(raw)} bytes; a recipe has at most {MAX_BYTES}")
        raise _Unreadable
    try:
        text = raw.decode().removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        faults.at(raw[: error.start].count(b"\n") + 1, "", "this is not UTF-8")
        raise _Unreadable from None
    for strange in islice(_STRANGE_IN_FILE.finditer(text), 10):
        line = len(re.findall(r"\r\n|\r|\n", text[: strange.start()])) + 1
        faults.at(line, "", f"the character U+{ord(strange[0]):04X} is not allowed")
    if faults:
        raise _Unreadable
    return text


class _Reader:
    """Builds the tree from the events of one text.  The depth is checked, so recursion is bounded."""

    def __init__(self, text: str, origin: str, faults: Faults) -> None:
        self.events = yaml.parse(text, Loader=_LOADER)
        self.origin, self.faults = origin, faults

    def tree(self) -> Node:
        next(self.events)  # the start of the stream
        start: Any = next(self.events)
        if isinstance(start, yaml.StreamEndEvent):
            self.faults.at(1, "", "the text is empty")
            raise _Unreadable
        if start.version or start.tags:
            self._fault(start, "", "a %YAML or %TAG directive is not allowed", "delete it")
        root = self._node(next(self.events), "", 1)
        next(self.events)  # the end of the document
        if not isinstance(last := next(self.events), yaml.StreamEndEvent):
            self._fault(last, "", "a second document begins here", "a recipe is one document: delete the line ---")
        return root

    def _fault(self, event: Any, place: str, given: str, legal: str = "") -> None:
        self.faults.at(self._line(event), place, given, legal)
        if self.faults.count > 10 * MAX_FAULTS:
            raise _Unreadable

    @staticmethod
    def _line(event: Any) -> int:
        return int(event.start_mark.line) + 1

    def _made(self, event: Any, value: Value, broken: bool = False, key_line: int = 0) -> Node:
        mark = event.start_mark
        return Node(value, mark.line + 1, mark.column + 1, key_line, self.origin, broken)

    def _node(self, event: Any, place: str, depth: int, key_line: int = 0) -> Node:
        if depth > MAX_DEPTH and isinstance(event, yaml.CollectionStartEvent):
            self._fault(event, "", _TOO_DEEP)
            raise _Unreadable
        if isinstance(event, yaml.AliasEvent):
            self._fault(event, place, f"the alias *{event.anchor} is not allowed", "write the value out")
            return self._made(event, None, True, key_line)
        if event.anchor is not None:
            self._fault(event, place, f"the anchor &{event.anchor} is not allowed", "delete it")
        if event.tag is not None:
            self._fault(event, place, f"the tag {shown(event.tag)} is not allowed", "delete it")
        broken = event.anchor is not None or event.tag is not None
        if isinstance(event, yaml.ScalarEvent):
            value, fault = scalar(event.value, plain=event.style is None or event.style == "")
            if fault and event.tag is None:
                self._fault(event, place, fault)
            return self._made(event, value, broken or bool(fault), key_line)
        children = self._list(place, depth) if isinstance(event, yaml.SequenceStartEvent) else self._dict(place, depth)
        return self._made(event, children, broken, key_line)

    def _list(self, place: str, depth: int) -> list[Node]:
        items: list[Node] = []
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            items.append(self._node(event, f"{place}[{len(items)}]", depth + 1))
        return items

    def _dict(self, place: str, depth: int) -> dict[str, Node]:
        table: dict[str, Node] = {}
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            line = self._line(event)
            key = self._key(event, place, depth)
            child = self._node(next(self.events), f"{place}.{key}" if place and key else key or place, depth + 1, line)
            if key in table:
                self._fault(event, f"{place}.{key}".lstrip("."), "stands here twice",
                            f"the first is in line {table[key].key_line}")
            elif key is not None:
                table[key] = child
        return table

    def _key(self, event: Any, place: str, depth: int) -> str | None:
        """The key as text; None after a fault."""
        if not isinstance(event, yaml.ScalarEvent):
            if isinstance(event, yaml.AliasEvent):
                self._fault(event, place, f"the alias *{event.anchor} is not allowed as a key", "write the key out")
                return None
            self._fault(event, place, "a mapping or a list cannot be a key", "keys are words")
            self._node(event, place, depth + 1)
            return None
        if event.anchor is not None or event.tag is not None:
            self._fault(event, place, "an anchor or a tag is not allowed at a key", "delete it")
        plain = not event.style
        if plain and event.value == "<<":
            self._fault(event, place, "the merge key << is not allowed", "write the entries out")
            return None
        if len(event.value) > MAX_KEY:
            self._fault(event, place, f"a key has {len(event.value)} characters", f"at most {MAX_KEY} are allowed")
            return None
        if plain and event.value in ("y", "n"):  # names of axes and counts; a key can be nothing but a word
            return str(event.value)
        key, fault = scalar(event.value, plain)
        if fault or isinstance(key, bool | float | None) or key == "":
            why = "quote it to make it a word" if plain and event.value else fault or "keys are words"
            self._fault(event, place, f"{shown(event.value)} cannot be a key", why)
            return None
        return str(key)


def scalar(text: str, plain: bool) -> tuple[str | int | float | bool | None, str]:
    """The value of a scalar and what is wrong with it; only a plain one (not quoted, no block) can be no string."""
    if strange := _STRANGE.search(text):
        return None, f"the character U+{ord(strange[0]):04X} is not allowed"
    if not plain:
        return text, ""
    if text in _CORE:
        return _CORE[text], ""
    if text.lower() in _OLD_WORDS:
        return None, f"{shown(text)} is ambiguous; write {_OLD_WORDS[text.lower()]}, or quote it if it is a word"
    if _INT.fullmatch(text):
        return _integer(text)
    if _FLOAT.fullmatch(text):
        return _float(text)
    if _NOT_FINITE.fullmatch(text):
        return None, f"{shown(text)} is not a finite number"
    if _SEXAGESIMAL.fullmatch(text):
        return None, f"{shown(text)} is ambiguous (a number to the base of 60 in old YAML); quote it or write a unit"
    if text == "<<":
        return None, "the merge key << is not allowed"
    if text[-1].isdigit() and _NUMBERLIKE.fullmatch(text) and text.count(".") < 2:
        return None, f"{shown(text)} is no number; quote it if it is a word"
    return text, ""


def _integer(text: str) -> tuple[int | None, str]:
    digits = text.replace("_", "")
    if len(digits.lstrip("+-")) > MAX_DIGITS:
        return None, f"{shown(text)} has more than {MAX_DIGITS} digits"
    bare = digits.lstrip("+-")
    if len(bare) > 1 and bare[0] == "0" and bare.isdigit():
        return None, f"{shown(text)} is ambiguous; write {bare.lstrip('0') or '0'}, or 0o... if it is octal"
    base = {"0o": 8, "0x": 16}.get(digits[:2], 10)
    return int(digits[2:] if base != 10 else digits, base), ""


def _float(text: str) -> tuple[float | None, str]:
    if len(text) > 64:
        return None, f"{shown(text)} is too long for a number"
    value = float(text.replace("_", ""))
    if not math.isfinite(value):
        return None, f"{shown(text)} is too large for a float64"
    if value == 0.0 and re.search("[1-9]", re.split("[eE]", text)[0]):
        return None, f"{shown(text)} is too small for a float64"
    return value, ""


_SAFE = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_./%+-]| (?! ))*(?<! )")
_DATE = re.compile(r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}.*")


def dump(value: Any) -> str:
    """Canonical YAML of dicts, lists and scalars: ``read(dump(x)).plain() == x``, and equal values give equal text.

    Mappings keep their order, lists of scalars stand on one line, and a string is quoted only where it must be.

    Raises
    ------
    ValueError
        The value is one that `read` would refuse.
    """
    text = "\n".join(_lines(value, 1)) + "\n"
    size = len(text.encode())
    if size > MAX_BYTES:
        raise ValueError(f"the text would have {size} bytes; a recipe has at most {MAX_BYTES}")
    return text


def _lines(value: Any, depth: int) -> Iterator[str]:
    if depth > MAX_DEPTH and isinstance(value, dict | list | tuple):
        raise ValueError(f"the value is nested more than {MAX_DEPTH} deep")
    if isinstance(value, dict) and value:
        for key, child in value.items():
            if not isinstance(key, str) or not 0 < len(key) <= MAX_KEY:
                raise ValueError(f"{shown(key)} cannot be a key")
            yield from _entry(f"{key if key in ('y', 'n') else _word(key)}:", "  ", child, depth)
    elif isinstance(value, list | tuple) and any(isinstance(item, dict | list | tuple) for item in value):
        for item in value:
            yield from _item(item, depth)
    elif isinstance(value, list | tuple):
        yield f"[{', '.join(_word(item) for item in value)}]"
    else:
        yield "{}" if isinstance(value, dict) else _word(value)


def _entry(head: str, indent: str, child: Any, depth: int) -> Iterator[str]:
    lines = list(_lines(child, depth + 1))
    if _inline(child):
        yield f"{head} {lines[0]}"
    else:
        yield head
        yield from (indent + line for line in lines)


def _item(item: Any, depth: int) -> Iterator[str]:
    lines = list(_lines(item, depth + 1))
    yield f"- {lines[0]}"
    yield from (f"  {line}" for line in lines[1:])


def _inline(value: Any) -> bool:
    """Whether the value stands on one line: a scalar, something empty, or a list of scalars."""
    if isinstance(value, list | tuple):
        return not any(isinstance(item, dict | list | tuple) for item in value)
    return not (isinstance(value, dict) and value)


def _word(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int):
        text = str(int(value)) if value.bit_length() < 70 else "9" * 99
        if _integer(text)[1]:
            raise ValueError(f"a whole number has at most {MAX_DIGITS} digits")
        return text
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{value} is not a finite number")
        return float.__repr__(value)
    if not isinstance(value, str):
        raise ValueError(f"{shown(value)} is no value of a recipe, but a {type(value).__name__}")
    if strange := _STRANGE.search(value):
        raise ValueError(f"the character U+{ord(strange[0]):04X} is not allowed")
    if _SAFE.fullmatch(value) and scalar(value, plain=True) == (value, "") and not _DATE.fullmatch(value):
        return value
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t")
    return f'"{escaped}"'
