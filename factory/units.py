"""Units, constants and label volumes: what the rooms have to agree on.

A quantity in a recipe is ``number unit``, as in ``139 ms`` or ``-3.5 ppm``.  The table is closed: a unit that does not
stand in `UNITS` is refused, and so is a unit of another kind.  rad, ppm, dB, Hz, rad/s, 1/s and plain numbers are kinds
of their own, so ``1 Hz`` never becomes 1 rad/s and ``3 ppm`` never becomes 3e-6.  Inside the factory every number is a
float in the canonical unit of its kind (s, Hz, T, m, rad, ...); nothing is ever in ms.

Factors are exact fractions and a conversion rounds once: ``139 ms`` is the float nearest to 0.139.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from fractions import Fraction
from types import MappingProxyType
from typing import Annotated, Any, TypeAlias

import numpy as np
import numpy.typing as npt

GAMMA_BAR = 42.577478461e6
"""Gyromagnetic ratio of the free (unshielded) proton over 2 pi, in Hz/T.

CODATA 2022, doi:10.1103/RevModPhys.97.025002: 42.577 478 461(18) MHz/T.  In water at 25 C the shielding is 25.7 ppm
(42.576 385 43 MHz/T); a recipe that needs it states it as a chemical shift.
"""

TISSUES = ("background", "csf", "grey_matter", "white_matter", "fat", "muscle", "muscle_skin", "skull", "vessels",
           "marrow", "lesion")
"""Tissue names; the code of a tissue in a uint8 label map is its index."""

Array: TypeAlias = npt.NDArray[Any]
Seconds = Annotated[Array, "s"]
Hertz = Annotated[Array, "Hz"]
RadiansPerSecond = Annotated[Array, "rad/s"]
PerSecond = Annotated[Array, "1/s"]
Radians = Annotated[Array, "rad"]
Tesla = Annotated[Array, "T"]
TeslaPerMetre = Annotated[Array, "T/m"]
TeslaPerMetrePerSecond = Annotated[Array, "T/m/s"]
Metres = Annotated[Array, "m"]
PerMetre = Annotated[Array, "1/m"]
MetresPerSecond = Annotated[Array, "m/s"]
SquareMetresPerSecond = Annotated[Array, "m2/s"]
SecondsPerSquareMetre = Annotated[Array, "s/m2"]
Molar = Annotated[Array, "mol/m3"]
Kilograms = Annotated[Array, "kg"]
KilogramsPerCubicMetre = Annotated[Array, "kg/m3"]
SiemensPerMetre = Annotated[Array, "S/m"]
Kelvin = Annotated[Array, "K"]
Unitless = Annotated[Array, "1"]
Ppm = Annotated[Array, "ppm"]
Decibel = Annotated[Array, "dB"]


class UnitError(ValueError):
    """A text is no quantity of the unit that is wanted; says what was given, what is legal and what to write."""


@dataclass(frozen=True)
class Unit:
    """One row of the table: ``1 name = factor kind``, where ``kind`` is the canonical unit."""

    name: str
    kind: str
    factor: Fraction


# Canonical unit -> (what it measures, {unit: factor}).  Factors are decimal texts or products of fractions: no floats.
_MINUTE, _DEGREE = Fraction(60), Fraction(math.pi) / 180
_KINDS: dict[str, tuple[str, dict[str, str | Fraction]]] = {
    "s": ("time", {"ms": "1e-3", "us": "1e-6", "ns": "1e-9", "min": _MINUTE, "h": "3600"}),
    "Hz": ("frequency", {"kHz": "1e3", "MHz": "1e6", "GHz": "1e9"}),
    "rad/s": ("angular frequency", {"krad/s": "1e3", "rad/ms": "1e3", "deg/s": _DEGREE, "deg/ms": _DEGREE * 1000}),
    "1/s": ("rate", {"1/ms": "1e3", "1/min": 1 / _MINUTE, "1/h": Fraction(1, 3600)}),
    "Hz/s": ("frequency sweep rate", {"kHz/s": "1e3", "kHz/ms": "1e6"}),
    "rad": ("angle", {"mrad": "1e-3", "deg": _DEGREE}),
    "T": ("magnetic field", {"mT": "1e-3", "uT": "1e-6", "nT": "1e-9", "G": "1e-4"}),
    "T/m": ("field gradient", {"mT/m": "1e-3", "uT/m": "1e-6", "G/cm": "1e-2"}),
    "T/m/s": ("gradient slew rate", {"mT/m/s": "1e-3", "mT/m/ms": "1", "T/m/ms": "1e3"}),
    "Hz/T": ("gyromagnetic ratio over 2 pi", {"MHz/T": "1e6"}),
    "m": ("length", {"cm": "1e-2", "mm": "1e-3", "um": "1e-6", "nm": "1e-9"}),
    "1/m": ("spatial frequency", {"1/cm": "1e2", "1/mm": "1e3"}),
    "m/s": ("velocity", {"cm/s": "1e-2", "mm/s": "1e-3", "um/s": "1e-6"}),
    "m2/s": ("diffusivity", {"mm2/s": "1e-6", "um2/s": "1e-12", "um2/ms": "1e-9"}),
    "s/m2": ("b-value", {"s/mm2": "1e6", "ms/um2": "1e9"}),
    "m3": ("volume", {"l": "1e-3", "ml": "1e-6", "cm3": "1e-6", "mm3": "1e-9"}),
    "m3/kg/s": ("perfusion", {"ml/g/min": Fraction(1, 1000) / _MINUTE, "ml/100g/min": Fraction(1, 100_000) / _MINUTE}),
    "kg": ("mass", {"g": "1e-3", "mg": "1e-6"}),
    "kg/m3": ("density", {"g/cm3": "1e3", "g/ml": "1e3"}),
    "mol/m3": ("concentration", {"M": "1e3", "mM": "1", "uM": "1e-3", "nM": "1e-6"}),
    "m3/mol/s": ("relaxivity", {"1/mM/s": "1", "1/M/s": "1e-3"}),
    "S/m": ("conductivity", {"mS/m": "1e-3"}),
    "V/m": ("electric field", {"kV/m": "1e3"}),
    "W/kg": ("specific absorption rate", {"mW/kg": "1e-3"}),
    "Pa": ("pressure", {"kPa": "1e3"}),
    "K": ("temperature", {"mK": "1e-3"}),
    "dB": ("a level in decibel", {}),
    "ppm": ("a shift in parts per million", {"ppb": "1e-3"}),
    "1": ("a plain number", {"%": "1e-2"}),
}
_USUAL = {"s": "ms", "rad": "deg", "T/m": "mT/m", "m": "mm", "s/m2": "s/mm2", "mol/m3": "mM", "m2/s": "mm2/s"}
_WORDS = {"sec": "s", "secs": "s", "second": "s", "seconds": "s", "msec": "ms", "millisecond": "ms",
          "milliseconds": "ms", "usec": "us", "minute": "min", "minutes": "min", "hour": "h", "hours": "h",
          "hertz": "Hz", "tesla": "T", "gauss": "G", "degree": "deg", "degrees": "deg", "°": "deg", "radian": "rad",
          "radians": "rad", "percent": "%", "metre": "m", "meter": "m", "mmol/l": "mM", "mol/l": "M", "s^-1": "1/s",
          "/s": "1/s", "s-1": "1/s", "mm^2/s": "mm2/s", "s/mm^2": "s/mm2", "db": "dB", "permille": "%"}


def _table() -> Mapping[str, Unit]:
    rows = {}
    for kind, (_, others) in _KINDS.items():
        for name, factor in {kind: "1", **others}.items():
            rows[name] = Unit(name, kind, Fraction(factor))
    return MappingProxyType(rows)


UNITS: Mapping[str, Unit] = _table()
"""Every unit there is, by its text; the canonical unit of a kind is the one whose name is its kind."""

_LONGEST = 48  # characters of a quantity; the longest float64 in decimal has 24
_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:_[0-9]+)*(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?")


def convert(value: str | float, unit: str) -> float:
    """A quantity such as ``"139 ms"`` as a float in ``unit``.

    Parameters
    ----------
    value : ``"number unit"``; a bare number only where ``unit`` is ``"1"``
    unit : a name of `UNITS`

    Raises
    ------
    UnitError
        The text is no quantity, its unit is unknown or of another kind, or the number is not finite.
    """
    if unit not in UNITS:
        raise UnitError(f"{_shown(unit)} is no unit{_nearest(unit, list(UNITS))}")
    number, given = _parts(value, unit)
    if UNITS[given].kind != UNITS[unit].kind:
        raise UnitError(f"{_shown(value)} measures {_kind(given)} ({given}), but {_kind(unit)} ({unit}) is needed"
                        f"{_hint(given, unit)}")
    exact = number * UNITS[given].factor / UNITS[unit].factor
    try:
        result = float(exact)
    except OverflowError:
        raise UnitError(f"{_shown(value)} is too large for a float64") from None
    if result == 0.0 and exact != 0:
        raise UnitError(f"{_shown(value)} is too small for a float64")
    return result


def units_of(unit: str) -> tuple[str, ...]:
    """The units that convert to ``unit``, the canonical one first."""
    return tuple(name for name, row in UNITS.items() if row.kind == UNITS[unit].kind)


def unit_in(quantity: str) -> str | None:
    """The unit of a text such as ``"139 ms"`` or ``"5 1/s"``; None where it has none that is known."""
    text = quantity.strip(" \t").replace("µ", "u").replace("μ", "u")
    number = _NUMBER.match(text)
    given = text[number.end():].strip(" \t") if number else ""
    return given if given in UNITS else None


def _parts(value: str | float, unit: str) -> tuple[Fraction, str]:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise UnitError(f"{_shown(value)} is no number{'' if unit == '1' else f' with a unit of {_kind(unit)}'}")
    if not isinstance(value, str):
        if not math.isfinite(value) if isinstance(value, float) else value.bit_length() > 64:
            raise UnitError(f"{_shown(value) if isinstance(value, float) else 'the number'} is not finite or too large")
        _bare(value, unit)
        return Fraction(value), "1"
    text = value.strip(" \t").replace("µ", "u").replace("μ", "u")
    number = _NUMBER.match(text)
    if len(text) > _LONGEST or number is None:
        raise UnitError(f"{_shown(value)} is no quantity; write a number and a unit, e.g. '{_example(unit)}'")
    given = text[number.end():].strip(" \t")
    if not given:
        _bare(text, unit)
        return Fraction(number[0].replace("_", "")), "1"
    if given not in UNITS:
        if re.match(r"[0-9_.]|[eE*+-]", given):
            raise UnitError(f"{_shown(value)} is no quantity; write a number and a unit, e.g. '{_example(unit)}'")
        raise UnitError(f"{_shown(given)} is no unit{_nearest(given, [*units_of(unit), *UNITS])}; "
                        f"units of {_kind(unit)} are {', '.join(units_of(unit))}")
    return Fraction(number[0].replace("_", "")), given


def _bare(number: str | float, unit: str) -> None:
    if UNITS[unit].kind != "1":
        raise UnitError(f"'{number}' needs a unit of {_kind(unit)}, e.g. '{number} {_usual(unit)}'")


def _kind(unit: str) -> str:
    return _KINDS[UNITS[unit].kind][0]


def _usual(unit: str) -> str:
    kind = UNITS[unit].kind
    return _USUAL.get(kind, kind)


def _example(unit: str) -> str:
    return "0.5" if UNITS[unit].kind == "1" else f"8 {_usual(unit)}"


def _hint(given: str, unit: str) -> str:
    kinds = UNITS[given].kind, UNITS[unit].kind
    if kinds in (("Hz", "rad/s"), ("Hz", "1/s")):
        return f"; multiply by 2 pi if that is meant, and write {unit}"
    if kinds in (("rad/s", "Hz"), ("1/s", "Hz")):
        return f"; divide by 2 pi if that is meant, and write {unit}"
    return ""


def _nearest(given: str, names: list[str]) -> str:
    """``; did you mean 'ms'?`` or nothing; units differ by case, so a match that ignores case comes first."""
    near = [_WORDS[given.lower()]] if given.lower() in _WORDS else []
    near = near or [name for name in names if name.lower() == given.lower()] or get_close_matches(given[:32], names, 1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _shown(value: object) -> str:
    text = ascii(value) if not isinstance(value, str) or not value.isprintable() else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


@dataclass(frozen=True, eq=False)
class Volumes:
    """Label volumes of one anatomy, as a recipe's file gives them.

    Attributes
    ----------
    names : what each volume is called
    arrays : (slice, row, column) each, of uint8, int16 or int32; read-only
    digest : sha256 over names, dtypes, shapes and labels, in hex; two `Volumes` are equal if it is
    """

    names: tuple[str, ...]
    arrays: tuple[Array, ...]
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        if not self.names or len(self.names) != len(self.arrays):
            raise ValueError(f"{len(self.names)} names for {len(self.arrays)} volumes; each volume needs one")
        seen = hashlib.sha256()
        arrays = []
        for name, given in zip(self.names, self.arrays, strict=True):
            array = np.array(given, given.dtype.newbyteorder("="), order="C", copy=True)
            if array.dtype not in (np.uint8, np.int16, np.int32) or array.ndim != 3 or not array.size:
                raise ValueError(f"volume {name!r} is {array.dtype} {array.shape}; it must be uint8, int16 or int32 "
                                 "with the dimensions (slice, row, column)")
            array.flags.writeable = False
            arrays.append(array)
            seen.update(repr((name, array.dtype.name, array.shape)).encode())
            seen.update(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).data)
        object.__setattr__(self, "arrays", tuple(arrays))
        object.__setattr__(self, "digest", seen.hexdigest())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Volumes) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def __reduce__(self) -> tuple[type[Volumes], tuple[tuple[str, ...], tuple[Array, ...]]]:
        return Volumes, (self.names, self.arrays)  # a plain pickle would lose the read-only flags
