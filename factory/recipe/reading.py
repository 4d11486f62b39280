"""Strict YAML for recipes from strangers.

The text is read as a stream of events, so that no depth, alias or tag can make the reader work before it is refused.
YAML 1.2 core scalars only; every value keeps its line; all faults of a text are reported together.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import yaml

MOST_BYTES = 256 * 1024
MOST_DEPTH = 32
MOST_DIGITS = 40

_INT = re.compile(r"[-+]?(?:0|[1-9][0-9_]*|0o[0-7]+|0x[0-9a-fA-F]+)$")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9][0-9_]*(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$")
_OLD_BOOL = frozenset({"yes", "no", "on", "off", "y", "n"})
_SEXAGESIMAL = re.compile(r"[-+]?[0-9]+(?::[0-9]+)+(?:\.[0-9]*)?$")
_SPECIAL = re.compile(r"[-+]?\.(?:inf|nan)$", re.IGNORECASE)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ufeff]")


@dataclass(frozen=True)
class Node:
    """One value of a text: a scalar, ``dict[str, Node]`` or ``list[Node]``, with the line it stands on."""

    value: Any
    line: int = 0
    origin: str = ""


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong: where, and a sentence."""

    place: str
    sentence: str
    line: int = 0
    origin: str = ""

    def __str__(self) -> str:
        where = f"{self.origin}, line {self.line}" if self.line else self.origin
        return f"{where}: {self.place}: {self.sentence}" if where else f"{self.place}: {self.sentence}"


class RecipeError(ValueError):
    """Everything that is wrong with a recipe, one fault a line."""

    def __init__(self, faults: list[Fault]):
        self.faults = faults
        super().__init__("\n".join(map(str, faults)))


class Faults(list[Fault]):
    """A list that faults are added to and that raises them all at once."""

    def __init__(self, origin: str = ""):
        super().__init__()
        self.origin = origin

    def add(self, node: Node, place: str, sentence: str) -> None:
        fault = Fault(place, sentence, node.line, node.origin or self.origin)
        if fault not in self:
            self.append(fault)

    def raise_if_any(self) -> None:
        if self:
            raise RecipeError(sorted(self, key=lambda f: (f.origin, f.line)))


def read(source: Path | bytes, origin: str = "") -> Node:
    """The tree of a recipe's text.  RecipeError names every fault with its line."""
    if isinstance(source, Path):
        origin, source = source.name, _bytes_of(source)
    faults = Faults(origin)
    if len(source) > MOST_BYTES:
        faults.add(Node(None), "recipe", f"is {len(source)} bytes long; a recipe has at most {MOST_BYTES}")
        faults.raise_if_any()
    try:
        text = source.decode("utf-8")
    except UnicodeDecodeError as error:
        faults.add(Node(None), "recipe", f"is not UTF-8 text: byte {error.start} is {source[error.start]:#04x}")
        faults.raise_if_any()
    bad = _CONTROL.search(text.replace("\r\n", "\n"))
    if bad:
        line = text.count("\n", 0, bad.start()) + 1
        faults.add(Node(None, line), "recipe", f"holds the control character U+{ord(bad[0]):04X}; recipes are plain text")
        faults.raise_if_any()
    try:
        tree = _Reader(yaml.parse(text, Loader=yaml.SafeLoader), origin, faults).document()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        what = getattr(error, "problem", None) or str(error)
        faults.add(Node(None, mark.line + 1 if mark else 0), "recipe", f"is no YAML: {what}")
    faults.raise_if_any()
    return tree


def read_value(text: str, origin: str = "--set") -> Node:
    """One value from the command line, by the same rules as a file's."""
    return read(text.encode(), origin)


def _bytes_of(path: Path) -> bytes:
    """The bytes of a regular file of legal size; nothing else is opened for long enough to hang."""
    faults = Faults(str(path))
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        faults.add(Node(None), "recipe", f"cannot be opened: {error.strerror}")
        raise RecipeError(faults) from None
    with os.fdopen(handle, "rb") as file:
        facts = os.fstat(file.fileno())
        if not stat.S_ISREG(facts.st_mode):
            faults.add(Node(None), "recipe", "is not a regular file (a folder, pipe or device cannot be a recipe)")
        elif facts.st_size > MOST_BYTES:
            faults.add(Node(None), "recipe", f"is {facts.st_size} bytes long; a recipe has at most {MOST_BYTES}")
        faults.raise_if_any()
        return file.read(MOST_BYTES + 1)


class _Reader:
    """Nodes out of YAML events; depth is checked before anything is built."""

    def __init__(self, events: Iterator[Any], origin: str, faults: Faults):
        self.events, self.origin, self.faults = events, origin, faults

    def document(self) -> Node:
        next(self.events)  # stream start
        event = next(self.events)
        if isinstance(event, yaml.StreamEndEvent):
            return Node(None, 1, self.origin)
        tree = self.node(next(self.events), 0, "recipe")
        next(self.events)  # document end
        event = next(self.events)
        if not isinstance(event, yaml.StreamEndEvent):
            self.complain(event, "recipe", "a second document begins here; a recipe is one document")
            self.faults.raise_if_any()
        return tree

    def complain(self, event: Any, place: str, sentence: str) -> None:
        self.faults.add(Node(None, event.start_mark.line + 1, self.origin), place, sentence)

    def node(self, event: Any, depth: int, place: str) -> Node:
        line = event.start_mark.line + 1
        if depth > MOST_DEPTH:
            self.complain(event, place.partition(".")[0], f"is nested more than {MOST_DEPTH} deep")
            self.faults.raise_if_any()
        if isinstance(event, yaml.AliasEvent):
            self.complain(event, place, f"the alias *{event.anchor[:40]} is not allowed; write the value out")
            return Node(None, line, self.origin)
        if event.anchor is not None:
            self.complain(event, place, f"the anchor &{event.anchor[:40]} is not allowed; write the value out")
        if event.tag is not None:
            self.complain(event, place, f"the tag {event.tag[:60]!r} is not allowed; a recipe holds plain values only")
        if isinstance(event, yaml.MappingStartEvent):
            return Node(self.mapping(depth, place), line, self.origin)
        if isinstance(event, yaml.SequenceStartEvent):
            items = []
            while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
                items.append(self.node(event, depth + 1, f"{place}[{len(items)}]"))
            return Node(items, line, self.origin)
        return Node(self.scalar(event, place), line, self.origin)

    def mapping(self, depth: int, place: str) -> dict[str, Node]:
        found: dict[str, Node] = {}
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            key = self.node(event, depth + 1, place)
            name = str(key.value)
            inside = name if place == "recipe" else f"{place}.{name}"
            if isinstance(key.value, dict | list | bool | float | None):
                self.complain(event, place, f"a key must be a word or a whole number, not {type(key.value).__name__}")
            elif name == "<<":
                self.complain(event, place, "the merge key << is not allowed; write the values out, or use `like`")
            elif name in found:
                self.complain(event, inside, f"stands twice; the first is on line {found[name].line}")
            found[name] = self.node(next(self.events), depth + 1, inside)
        return found

    def scalar(self, event: Any, place: str) -> Any:
        text = event.value
        if event.style in ("'", '"', "|", ">"):
            return text
        if text in ("", "~", "null", "Null", "NULL"):
            return None
        if text in ("true", "True", "TRUE", "false", "False", "FALSE"):
            return text.lower() == "true"
        if text.lower() in _OLD_BOOL:
            self.complain(event, place, f"{text!r} is read differently by different YAML readers; write true or false, or "
                          f"quote it: '{text}'")
        elif _SEXAGESIMAL.match(text):
            self.complain(event, place, f"{text!r} is a base-60 number to some YAML readers; write a plain number, or "
                          f"quote it: '{text}'")
        elif _SPECIAL.match(text):
            self.complain(event, place, f"{text!r} is not a finite number")
        elif _INT.match(text) or _FLOAT.match(text):
            return self.number(event, text, place)
        return text

    def number(self, event: Any, text: str, place: str) -> int | float:
        if len(text) > MOST_DIGITS:
            self.complain(event, place, f"a number of {len(text)} characters is too long; at most {MOST_DIGITS} are read")
            return 0
        digits = text.replace("_", "")
        if _INT.match(text):
            sign = -1 if digits.startswith("-") else 1
            body = digits.lstrip("+-")
            return sign * int(body, 0 if body.startswith(("0x", "0o")) else 10)
        value = float(digits)
        if not isfinite(value):
            self.complain(event, place, f"{text} is too large for a number")
        return value


def dump(value: Any) -> str:
    """Canonical YAML of plain values: reading it back gives them again, in the same order."""
    return "\n".join(_block(value, 0)) + "\n"


def _block(value: Any, depth: int) -> list[str]:
    pad = "  " * depth
    if isinstance(value, dict) and value:
        lines = []
        for key, child in value.items():
            if isinstance(child, dict | list) and child:
                lines += [f"{pad}{_text(str(key))}:", *_block(child, depth + 1)]
            else:
                lines.append(f"{pad}{_text(str(key))}: {_text(child)}")
        return lines
    if isinstance(value, list) and value:
        lines = []
        for child in value:
            if isinstance(child, dict | list) and child:
                inner = _block(child, depth + 1)
                lines += [f"{pad}- {inner[0].lstrip()}", *inner[1:]]
            else:
                lines.append(f"{pad}- {_text(child)}")
        return lines
    return [pad + _text(value)]


_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_./]*(?: [A-Za-z0-9_./]+)*$|[0-9]+(?:\.[0-9]+)? [A-Za-z][A-Za-z0-9/%]*$")


def _text(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, dict | list):
        return "{}" if isinstance(value, dict) else "[]"
    read_as_other = value.lower() in _OLD_BOOL | {"null", "true", "false", "~", ""}
    if _PLAIN.match(value) and not read_as_other:
        return str(value)
    escaped = "".join(
        f"\\u{ord(c):04x}" if ord(c) < 32 or 0x7F <= ord(c) <= 0xFFFF and not c.isprintable()
        else f"\\U{ord(c):08x}" if not c.isprintable() else "\\" + c if c in '"\\' else c
        for c in value
    )
    return f'"{escaped}"'
